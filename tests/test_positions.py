"""Positions: the grammar, masks written by hand, and invariances over random paddings."""

import random

import pytest
import torch
from oracle import edited_places
from torch import Tensor

from steerlens.positions import canonical_positions, edits_response, parse_positions, position_mask


def mask(text: str) -> Tensor:
    """ "110" -> [[True, True, False]]; rows are separated by spaces."""
    return torch.tensor([[letter == "1" for letter in row] for row in text.split()])


@pytest.mark.parametrize(
    ("given", "canonical"),
    [
        ("p2+s2", "p2+s2"),
        ("s2+p2", "p2+s2"),
        ("f2+l2", "p2+s2"),
        ("l3 + f1", "p1+s3"),
        ("P4", "p4"),
        (" s1 ", "s1"),
        ("p10+s12", "p10+s12"),
        ("f7", "p7"),
        ("Prompt", "prompt"),
        ("all", "all"),
        ("response", "response"),
    ],
)
def test_grammar(given: str, canonical: str) -> None:
    assert canonical_positions(given) == canonical
    assert canonical_positions(canonical) == canonical


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("", "cannot read ''"),
        ("p", "cannot read 'p'"),
        ("p-2", "cannot read 'p-2'"),
        ("-p2", "cannot read '-p2'"),
        ("p2.5", r"cannot read 'p2\.5'"),
        ("2p", "cannot read '2p'"),
        ("p2+", "cannot read ''"),
        ("p2-s2", "cannot read 'p2-s2'"),
        ("x3", "cannot read 'x3'"),
        ("p2+all", "cannot read 'all'"),
        ("everything", "cannot read 'everything'"),
        ("p2;s2", "cannot read"),
        ("p²", "cannot read"),
        ("p٣", "cannot read"),
        ("p0", "'p0' edits no token; counts start at 1"),
        ("p2+s0", "'s0' edits no token"),
        ("p2+f2", "the prefix is given twice"),
        ("s1+l1", "the suffix is given twice"),
    ],
)
def test_nonsense_is_refused_in_words(spec: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_positions(spec)


def test_an_error_shows_what_can_be_written() -> None:
    with pytest.raises(ValueError, match=r'use for example "p2\+s2", "p4", "s1", "prompt", "response", "all", or a function'):
        canonical_positions("tokens 1 to 3")


@pytest.mark.parametrize(
    ("spec", "prompt", "tokens", "edited"),
    [
        ("p2+s2", "111111000", "111111111", "110011000"),
        ("p4", "111111000", "111111111", "111100000"),
        ("s1", "111111000", "111111111", "000001000"),
        ("prompt", "111111000", "111111111", "111111000"),
        ("response", "111111000", "111111110", "000000110"),
        ("all", "111111000", "111111110", "111111110"),
        # padding on the left
        ("p2+s2", "000111110", "000111111", "000110110"),
        ("s3", "000111110", "000111111", "000001110"),
        ("all", "000111110", "000111111", "000111111"),
        # the prefix wins and the suffix shrinks
        ("p2+s2", "1110 1100 1000", "1111 1111 1100", "1110 1100 1000"),
        ("p2+s2", "0111 0011 0001", "0111 0011 0001", "0111 0011 0001"),
        ("p3+s4", "111110", "111111", "111110"),
        ("p4", "110", "111", "110"),
        ("s9", "011", "011", "011"),
        # rows of different length in one batch
        ("p1+s1", "111110 001111 100000", "111111 001111 111000", "100010 001001 100000"),
    ],
)
def test_masks_written_by_hand(spec: str, prompt: str, tokens: str, edited: str) -> None:
    assert torch.equal(position_mask(spec, mask(prompt), mask(tokens)), mask(edited))


def random_rows(seed: int) -> tuple[list[tuple[int, int]], int]:
    """(prompt tokens, all tokens) of some rows, and a width that holds them."""
    rng = random.Random(seed)
    rows = [(rng.randint(1, 12), rng.randint(0, 5)) for _ in range(rng.randint(1, 5))]
    lengths = [(prompt, prompt + response) for prompt, response in rows]
    return lengths, max(total for _, total in lengths) + rng.randint(0, 3)


def random_spec(rng: random.Random) -> str:
    p, s = rng.randint(1, 6), rng.randint(1, 6)
    return rng.choice(["prompt", "response", "all", f"p{p}", f"s{s}", f"p{p}+s{s}"])


@pytest.mark.parametrize("seed", range(100))
def test_any_padding_edits_the_same_tokens_and_never_padding(seed: int) -> None:
    rows, width = random_rows(seed)
    spec = random_spec(random.Random(seed))
    index = torch.arange(width)
    for side in ("left", "right"):
        starts = [width - total if side == "left" else 0 for _, total in rows]
        tokens = torch.stack([(index >= s) & (index < s + t) for s, (_, t) in zip(starts, rows, strict=True)])
        prompt = torch.stack([(index >= s) & (index < s + p) for s, (p, _) in zip(starts, rows, strict=True)])
        edited = position_mask(spec, prompt, tokens)
        assert not (edited & ~tokens).any(), "padding is never edited"
        for row, (start, (n_prompt, total)) in enumerate(zip(starts, rows, strict=True)):
            places = (edited[row].nonzero()[:, 0] - start).tolist()
            assert places == sorted(set(edited_places(spec, n_prompt, total))), (spec, side)


def test_a_function_is_asked_and_padding_kept_out() -> None:
    prompt, tokens = mask("001110"), mask("001111")

    def everything(given: Tensor) -> Tensor:
        assert torch.equal(given, prompt)
        return torch.ones_like(given)

    assert canonical_positions(everything) is everything
    assert torch.equal(position_mask(everything, prompt, tokens), tokens)


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (torch.ones(1, 6), r"boolean mask of shape \(1, 6\), got torch\.float32 of shape \(1, 6\)"),
        (torch.ones(1, 5, dtype=torch.bool), r"got torch\.bool of shape \(1, 5\)"),
        (torch.ones(6, dtype=torch.bool), r"got torch\.bool of shape \(6,\)"),
        ([True] * 6, "got list"),
        (None, "got NoneType"),
    ],
)
def test_a_function_that_returns_no_mask_is_refused(result: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        position_mask(lambda _: result, mask("001110"), mask("001111"))  # type: ignore[return-value, arg-type]


def test_which_positions_reach_the_response() -> None:
    assert [edits_response(p) for p in ("p2+s2", "p4", "s1", "prompt", "response", "all")] == [False] * 4 + [True] * 2
    assert edits_response(lambda prompt_mask: prompt_mask)
