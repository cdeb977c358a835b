"""What cannot be steered right is refused, in words that say what to do; what can be, is as the oracle has it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny import Bench, boot, make_hf

import steerlens
from steerlens import SteeringError

IDS = list(range(10, 30))


def tokens(*rows: list[int]) -> torch.Tensor:
    return torch.tensor(rows)


@pytest.fixture(autouse=True)
def no_gradients() -> Any:
    with torch.no_grad():
        yield


def kept_cache(model: Any, ids: list[int]) -> Any:
    _, cache = model(tokens(ids), return_type="logits_and_cache", use_cache=True)
    return cache


def go_on(model: Any, ids: list[int], cache: Any) -> torch.Tensor:
    logits, _ = model(tokens(ids), past_key_values=cache, return_type="logits_and_cache")
    return logits[0]


# --- caches -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_new", [1, 4])
def test_a_cache_from_before_the_block_is_refused(bench: Bench, make_vector: Callable[..., Any], n_new: int) -> None:
    cache = kept_cache(bench.model, IDS[:8])
    with pytest.raises(SteeringError, match="prompt_lengths"), steerlens.steer(bench.model, make_vector()):
        go_on(bench.model, IDS[8 : 8 + n_new], cache)


def test_a_cache_of_another_sequence_is_refused(bench: Bench, make_vector: Callable[..., Any]) -> None:
    other = kept_cache(bench.model, IDS[:8])
    with steerlens.steer(bench.model, make_vector(positions="all")):
        kept_cache(bench.model, IDS[4:12])
        with pytest.raises(SteeringError, match="does not continue the generation"):
            go_on(bench.model, IDS[8:9], other)


@pytest.mark.parametrize("kind", ["static", "offloaded_static"])
def test_a_static_cache_is_named_with_what_to_do(bench: Bench, make_vector: Callable[..., Any], kind: str) -> None:
    settings: dict[str, Any] = {"max_new_tokens": 3, "do_sample": False, "attention_mask": torch.ones(1, 8, dtype=torch.long)}
    with steerlens.steer(bench.model, make_vector()):
        with pytest.raises(ValueError, match=r"given a StaticCache, .*: generate with a dynamic cache \(leave cache_impl"):
            bench.model.original_model.generate(tokens(IDS[:8]), cache_implementation=kind, **settings)
        assert bench.model.original_model.generate(tokens(IDS[:8]), **settings).shape[1] > 8


def test_several_new_tokens_after_a_cache_are_refused(bench: Bench, make_vector: Callable[..., Any]) -> None:
    """They could be a second turn of the prompt or a draft of the response."""
    with steerlens.steer(bench.model, make_vector()):
        cache = kept_cache(bench.model, IDS[:8])
        with pytest.raises(SteeringError, match=r"adds 3 token\(s\) to a cache of 8"):
            go_on(bench.model, IDS[8:11], cache)


@pytest.mark.parametrize("positions", ["p2+s2", "s4", "prompt", "response", "all"])
@pytest.mark.parametrize("n_prompt", [6, 8])
def test_with_prompt_lengths_a_cache_goes_on(
    bench: Bench, make_vector: Callable[..., Any], positions: str, n_prompt: int
) -> None:
    sv = make_vector(positions=positions)
    expected = bench.oracle.logits(IDS[:12], n_prompt, [sv])
    with steerlens.steer(bench.model, sv, prompt_lengths=[n_prompt]):
        _, cache = bench.model(tokens(IDS[:8]), return_type="logits_and_cache", use_cache=True)
        middle = go_on(bench.model, IDS[8:11], cache)
        last = go_on(bench.model, IDS[11:12], cache)
    torch.testing.assert_close(torch.cat([middle, last]), expected[8:], rtol=1e-3, atol=1e-3)


def test_a_cache_from_outside_goes_on_with_prompt_lengths(bench: Bench, make_vector: Callable[..., Any]) -> None:
    """Made under the same vector in another block, as in a chat that keeps its cache."""
    sv = make_vector(positions="all")
    expected = bench.oracle.logits(IDS[:10], 8, [sv])
    with steerlens.steer(bench.model, sv):
        cache = kept_cache(bench.model, IDS[:8])
    with steerlens.steer(bench.model, sv, prompt_lengths=[8]):
        logits = go_on(bench.model, IDS[8:10], cache)
    torch.testing.assert_close(logits, expected[8:], rtol=1e-3, atol=1e-3)


def test_a_prompt_that_goes_on_after_its_cache(bench: Bench, make_vector: Callable[..., Any]) -> None:
    """The second turn of a chat: the caller says that the prompt ends behind the new tokens."""
    sv = make_vector(positions="p2+s2")
    expected = bench.oracle.logits(IDS[:13], 11, [sv])
    with steerlens.steer(bench.model, sv.replace(positions="p2")):
        cache = kept_cache(bench.model, IDS[:8])
    with steerlens.steer(bench.model, sv, prompt_lengths=[11]):
        turn, response = go_on(bench.model, IDS[8:11], cache), go_on(bench.model, IDS[11:13], cache)
    torch.testing.assert_close(torch.cat([turn, response]), expected[8:], rtol=1e-3, atol=1e-3)


def test_a_hand_written_cached_loop_agrees_with_the_oracle(bench: Bench, make_vector: Callable[..., Any]) -> None:
    for positions in ("p2+s2", "all", "response"):
        sv = make_vector(positions=positions)
        with steerlens.steer(bench.model, sv):
            logits, cache = bench.model(tokens(IDS[:8]), return_type="logits_and_cache", use_cache=True)
            steps = [logits[0]] + [go_on(bench.model, [token], cache) for token in IDS[8:12]]
        expected = bench.oracle.logits(IDS[:12], 8, [sv])
        torch.testing.assert_close(torch.cat(steps), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("more", [1, 2, 5])
def test_a_loop_without_a_cache_is_refused(bench: Bench, make_vector: Callable[..., Any], more: int) -> None:
    """A pass that goes on from the last one may be its next step or another prompt; told apart, both are right."""
    sv = make_vector(positions="p2+s2")
    with steerlens.steer(bench.model, sv):
        bench.model(tokens(IDS[:5]))
        with pytest.raises(SteeringError, match=r"begins with all tokens of a row before it.*prompt_lengths"):
            bench.model(tokens(IDS[: 5 + more]))
    for n in (5, 5 + more):
        with steerlens.steer(bench.model, sv):
            torch.testing.assert_close(
                bench.model(tokens(IDS[:n]))[0], bench.oracle.logits(IDS[:n], n, [sv]), rtol=1e-3, atol=1e-3
            )
    with steerlens.steer(bench.model, sv, prompt_lengths=[5]):
        for n in (5, 5 + more):
            expected = bench.oracle.logits(IDS[:n], 5, [sv])
            torch.testing.assert_close(bench.model(tokens(IDS[:n]))[0], expected, rtol=1e-3, atol=1e-3)


def test_two_generations_in_one_block_are_two_prompts(bench: Bench, make_vector: Callable[..., Any]) -> None:
    """Also without a cache, and where the second prompt is one token longer than the first generation became."""
    sv = make_vector(positions="p2+s2")
    inner = bench.model.original_model
    for use_cache in (True, False):
        options = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False, "use_cache": use_cache}
        with steerlens.steer(bench.model, sv):
            inner.generate(tokens(IDS[:5]), **options)
            second = inner.generate(tokens(IDS[:8]), **options)
        expected = bench.oracle.greedy(IDS[:8], 3, set(), [sv])
        assert second[0, 8:].tolist()[: len(expected)] == expected


# --- padding and masks --------------------------------------------------------------------------------------------------


def test_left_padding_without_a_mask_is_refused(gemma: Bench, make_vector: Callable[..., Any]) -> None:
    pad = gemma.model.tokenizer.pad_token_id
    words = r"rows begin with padding tokens.*pass attention_mask"
    with pytest.raises(ValueError, match=words), steerlens.steer(gemma.model, make_vector()):
        gemma.model.original_model(tokens([pad, pad, 10, 11], IDS[:4]))


def test_right_padding_without_a_mask_is_told_by_its_own_token(gemma: Bench, make_vector: Callable[..., Any]) -> None:
    pad, sv = gemma.model.tokenizer.pad_token_id, make_vector(positions="s1")
    with steerlens.steer(gemma.model, sv):
        logits = gemma.model.original_model(input_ids=tokens([*IDS[:6], pad, pad], IDS[:8])).logits
    torch.testing.assert_close(logits[0, :6], gemma.oracle.logits(IDS[:6], 6, [sv]), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(logits[1], gemma.oracle.logits(IDS[:8], 8, [sv]), rtol=1e-3, atol=1e-3)


def test_right_padding_with_eos_and_no_mask_is_refused(benches: Callable[..., Bench], make_vector: Callable[..., Any]) -> None:
    model = benches("gpt2").model
    eos = model.tokenizer.pad_token_id
    assert eos == model.tokenizer.eos_token_id
    with steerlens.steer(model, make_vector()):
        with pytest.raises(ValueError, match=r"both padding and a token of its own.*pass attention_mask"):
            model.original_model(input_ids=tokens([*IDS[:6], eos, eos], IDS[:8]))
        with pytest.raises(ValueError, match="rows begin with padding"):
            model.original_model(input_ids=tokens([eos, eos, 10, 11], IDS[:4]))


@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (1, 7), (2, 8)])
def test_a_mask_of_another_form_is_refused(gemma: Bench, make_vector: Callable[..., Any], shape: tuple[int, ...]) -> None:
    words = r"steering reads the padding from a mask of shape .* = \(1, 8\)"
    with pytest.raises(ValueError, match=words), steerlens.steer(gemma.model, make_vector()):
        gemma.model.original_model(input_ids=tokens(IDS[:8]), attention_mask=torch.ones(shape))


@pytest.mark.parametrize(
    ("lengths", "words"),
    [
        ([9], "row 0: the prompt is said to have 9 tokens, the row 8"),
        ([4, 4], "prompt_lengths has 2 entries, the pass has 1 rows"),
        ([0], "must be at least 1"),
        ([-3], "must be at least 1"),
    ],
)
def test_wrong_prompt_lengths(gemma: Bench, make_vector: Callable[..., Any], lengths: list[int], words: str) -> None:
    with pytest.raises(ValueError, match=words), steerlens.steer(gemma.model, make_vector(), prompt_lengths=lengths):
        gemma.model(tokens(IDS[:8]))


# --- calls that bypass the model ------------------------------------------------------------------------------------------


def test_parts_of_the_model_run_alone_are_refused(gemma: Bench, make_vector: Callable[..., Any]) -> None:
    inner = gemma.model.original_model
    with steerlens.steer(gemma.model, make_vector()):
        with pytest.raises(SteeringError, match="outside a forward pass of the model itself"):
            inner.model(input_ids=tokens(IDS[:8]))
        gemma.model(tokens(IDS[:8]))  # and the pass after a whole one is refused as well
        with pytest.raises(SteeringError, match="outside a forward pass of the model itself"):
            inner.model(input_ids=tokens(IDS[:8]))


def test_a_hook_by_hand(bench: Bench, make_vector: Callable[..., Any]) -> None:
    sv = make_vector(positions="p2+s2")
    name, function = steerlens.hook(sv)
    assert name == "blocks.1.hook_resid_post"
    logits = bench.model.run_with_hooks(tokens(IDS[:8]), fwd_hooks=[(name, function)])[0]
    torch.testing.assert_close(logits, bench.oracle.logits(IDS[:8], 8, [sv]), rtol=1e-3, atol=1e-3)
    prompt = torch.arange(8)[None] < 5
    pair = steerlens.hook(sv.replace(positions="s2"), prompt_mask=prompt)
    logits = bench.model.run_with_hooks(tokens(IDS[:8]), fwd_hooks=[pair])[0]
    expected = bench.oracle.logits(IDS[:8], 5, [sv.replace(positions="s2")])
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match=r"made for a pass of \(1, 8\) tokens, this one has \(1, 6\)"):
        bench.model.run_with_hooks(tokens(IDS[:6]), fwd_hooks=[pair])


def test_a_hook_by_hand_refuses_to_decode(gemma: Bench, make_vector: Callable[..., Any]) -> None:
    with (
        gemma.model.hooks(fwd_hooks=[steerlens.hook(make_vector())]),
        pytest.raises(SteeringError, match="looks like decoding"),
    ):
        gemma.model.original_model.generate(tokens(IDS[:8]), max_new_tokens=3, do_sample=False)
    sv = make_vector(positions="all")
    with gemma.model.hooks(fwd_hooks=[steerlens.hook(sv)]):
        result = gemma.model.original_model.generate(tokens(IDS[:8]), max_new_tokens=3, do_sample=False)
    assert result[0, 8:].tolist() == gemma.oracle.greedy(IDS[:8], 3, set(), [sv])


# --- vectors that do not fit ------------------------------------------------------------------------------------------------


def roads(model: Any, sv: Any, data: Any) -> list[Callable[[], Any]]:
    """Every way to apply a vector."""

    def enter() -> None:
        with steerlens.steer(model, sv):
            raise AssertionError("the block was entered")

    return [
        enter,
        lambda: steerlens.generate(model, "Hi", sv),
        lambda: steerlens.generate(model, "Hi", steerlens.PerPrompt([sv])),
        lambda: steerlens.audit(model, "Hi", sv),
        lambda: steerlens.loss(model, sv, data),
        lambda: steerlens.train(model, data, layer=1, init=sv, progress=False),
    ]


def test_another_width_is_named(model: Any, data: Any) -> None:
    sv = steerlens.SteeringVector(torch.ones(2304), 1.0, 1, model_name="gemma-2-2b-it")
    words = r"direction has 2304 entries, the residual stream of tiny-gemma2 has 48: trained on gemma-2-2b-it\?"
    for road in roads(model, sv, data):
        with pytest.raises(ValueError, match=words):
            road()


def test_a_layer_that_does_not_exist_is_named(model: Any, make_vector: Callable[..., Any], data: Any) -> None:
    for road in roads(model, make_vector(layer=4), data):
        with pytest.raises(ValueError, match="layer 4 does not exist: tiny-gemma2 has blocks 0 to 3"):
            road()
    with pytest.raises(ValueError, match="layer 7 does not exist"):
        steerlens.train(model, data, layer=7, progress=False)
    with pytest.raises(ValueError, match="layer -1 does not exist"):
        steerlens.train(model, data, layer=-1, progress=False)


def test_weights_processed_another_way_are_refused(
    make_vector: Callable[..., Any], benches: Callable[..., Bench], data: Any
) -> None:
    raw = benches("llama").model
    processed = boot(make_hf("llama"), "tiny-llama", raw.tokenizer)
    processed.enable_compatibility_mode()
    config = steerlens.TrainConfig(epochs=1, factor_init=0.1)
    sv = steerlens.train(raw, data, layer=1, config=config, progress=False)
    assert sv.provenance["weight_processing"] == "raw"
    for road in roads(processed, sv, data):
        with pytest.raises(ValueError, match="made on raw weights, this model has compatibility_mode"):
            road()
    with steerlens.steer(raw, sv), steerlens.steer(processed, make_vector()):  # a vector by hand says nothing of weights
        pass
