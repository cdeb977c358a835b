"""Steering around steerlens's own calls, by hand-made hooks, and of padding that says nothing clear."""

import copy
import pickle
from typing import Any

import pytest
import torch

import steerlens
from steerlens.model.chat import encode_prompt


def greedy(model: Any, sv: Any, **settings: Any) -> list[str]:
    return steerlens.generate(model, ["Hello", "Why is that?"], sv, max_new_tokens=8, temperature=0, **settings)


@pytest.mark.parametrize("use_cache", [True, False])
def test_generate_inside_steer_knows_its_prompts(model, make_vector, use_cache):
    sv = make_vector()
    with steerlens.steer(model, sv):
        inside = greedy(model, None, use_cache=use_cache)
    assert inside == greedy(model, sv)
    assert inside != greedy(model, None)


def test_nested_steer_and_generate_add(model, make_vector):
    a, b = make_vector(1), make_vector(2, layer=2, positions="s1")
    together = greedy(model, [a, b])
    with steerlens.steer(model, a):
        assert greedy(model, b, use_cache=False) == together
        assert greedy(model, b) == together
    assert together not in (greedy(model, a), greedy(model, b))


def test_loss_and_training_inside_steer_know_where_prompts_end(model, make_vector, data):
    sv = make_vector()
    with steerlens.steer(model, sv):
        inside = steerlens.loss(model, None, data)
    assert inside == pytest.approx(steerlens.loss(model, sv, data), rel=1e-6)
    assert inside != pytest.approx(steerlens.loss(model, None, data), rel=1e-4)


def test_steer_does_not_take_per_prompt(make_vector):
    from steerlens.steering.hooks import as_list

    unchecked: Any = getattr(as_list, "__wrapped__", as_list)  # past the test-time type checks, as a user would
    with pytest.raises(TypeError, match="PerPrompt says which row"):
        unchecked(steerlens.PerPrompt([make_vector(), None]))


def test_a_hook_by_hand_refuses_to_decode_after_a_prompt_of_one_token(model, make_vector):
    name, function = steerlens.hook(make_vector(positions="s1"))
    tokens = torch.tensor([[20]])
    with model.hooks(fwd_hooks=[(name, function)]):
        model(tokens)
        with pytest.raises(steerlens.SteeringError, match="looks like decoding"):
            model(tokens)


def test_rows_that_disagree_about_a_leading_padding_token_are_refused(benches, make_vector):
    model = benches("gpt2").model
    eos = model.tokenizer.pad_token_id
    rows = torch.tensor([[eos, 50, 60], [70, 50, 60]])
    with pytest.raises(ValueError, match="rows begin with padding"), steerlens.steer(model, make_vector(positions="p1")):
        model.original_model(input_ids=rows)


def test_known_lengths_make_trailing_padding_harmless(benches, make_vector):
    model, sv = benches("gpt2").model, make_vector(positions="s1")
    eos = model.tokenizer.pad_token_id
    with steerlens.steer(model, sv, prompt_lengths=[3, 5]):
        padded = model.original_model(input_ids=torch.tensor([[9, 50, 60, eos, eos], [9, 50, 60, 70, 80]])).logits
    with steerlens.steer(model, sv):
        alone = model.original_model(input_ids=torch.tensor([[9, 50, 60]])).logits
    torch.testing.assert_close(padded[:1, :3], alone, rtol=1e-4, atol=1e-4)


def test_a_cache_kept_for_a_second_call_is_refused_even_for_one_token(model, make_vector):
    inner = model.original_model
    with steerlens.steer(model, make_vector()):
        first = inner.generate(
            torch.tensor([[9, 50, 60]]), max_new_tokens=3, do_sample=False, return_dict_in_generate=True, eos_token_id=None
        )
        cache = first.past_key_values
        again = torch.cat([first.sequences[:, : cache.get_seq_length()], torch.tensor([[9]])], dim=1)
        with pytest.raises(steerlens.SteeringError, match="prompt_lengths"):
            inner.generate(again, past_key_values=cache, max_new_tokens=2, do_sample=False)


def test_bare_text_begins_as_transformer_lens_has_it(model):
    assert encode_prompt(model, "Hi", chat=False) == model.to_tokens("Hi")[0].tolist()


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        ({"role": "user", "content": "x"}, "got dict"),
        (None, "got NoneType"),
        ([], "no prompts"),
        (["a", None], "prompt 1"),
        ([[{"role": "user"}]], "prompt 0"),
        ([{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}], "ends with the assistant"),
    ],
)
def test_prompts_that_are_none_are_refused(model, prompts, words):
    from steerlens.steering.generation import as_prompts

    unchecked = getattr(as_prompts, "__wrapped__", as_prompts)  # past the test-time type checks, as a user would
    with pytest.raises(ValueError, match=words):
        unchecked(prompts)


def test_a_vector_copies_and_pickles(make_vector):
    sv = make_vector(provenance={"config": {"epochs": 3}})
    for twin in (copy.deepcopy(sv), pickle.loads(pickle.dumps(sv))):
        assert twin == sv
        assert twin.provenance == sv.provenance
        with pytest.raises(TypeError):
            twin.provenance["x"] = 1
