"""Extracted directions: against a naive pass row by row, what they do not depend on, the vector, and what is refused."""

import json
import math
from typing import Any

import pytest
import torch
from conftest import PROMPTS, RESPONSES, rows_of
from model_state import State
from oracle import relative
from tiny import LAYERS, WIDTH

import steerlens
from steerlens.data import DataError
from steerlens.extraction import METHODS as KNOWN
from steerlens.extraction import difference, extract, extract_layers
from steerlens.model.activations import collect
from steerlens.model.chat import prefix_length

NEUTRALS = ("No idea.", "A town, I think", "Cats eat what they are given.", "Hello", "x and y")
OTHERS = (("What now?", "Nothing much, then."), ("Count.", "1 2 3"), ("Hi", "Hello hello hello"))
METHODS = ("difference", "pca", "probe")
LAYER = 1


@pytest.fixture
def paired() -> Any:
    rows = zip(PROMPTS, RESPONSES, NEUTRALS, strict=True)
    return steerlens.SteeringData([{"prompt": p, "response": r, "neutral": n} for p, r, n in rows], concept="fish")


@pytest.fixture
def unpaired(data: Any) -> Any:
    return steerlens.SteeringData(data.examples, "fish", negatives=[steerlens.Example(*texts) for texts in OTHERS])


def negatives_of(data: Any) -> Any:
    """What the examples are compared with, as data of their own."""
    return data.negatives or [steerlens.Example(e.prompt, e.neutral) for e in data]


def naive(bench: Any, data: Any, layer: int, tokens: str) -> list[torch.Tensor]:
    """Activations of each row's chosen tokens after a block, (tokens, d_model): one row at a time, no padding."""
    begins_with_bos = bench.model.cfg.model_name != "tiny-qwen2"  # the one tokenizer without BOS
    found = []
    for prompt, response in rows_of(bench.model, data):
        caught: list[torch.Tensor] = []

        def catch(_module: Any, _args: Any, output: Any, caught: Any = caught) -> None:
            caught.append((output[0] if isinstance(output, tuple) else output).clone())

        handle = bench.oracle.blocks[layer].register_forward_hook(catch)
        with torch.no_grad():
            bench.oracle.hf(input_ids=torch.tensor([[*prompt, *response]]), use_cache=False)
        handle.remove()
        hidden = caught[0].reshape(-1, WIDTH).double()
        head = int(begins_with_bos) + len("S") + len("user\n")  # BOS, start of turn, and a token per character
        start = {"all": head, "response": len(prompt), "last": -1}[tokens]
        found.append(hidden[start:])
    return found


def naive_difference(bench: Any, data: Any, layer: int, tokens: str) -> torch.Tensor:
    ours, theirs = (torch.cat(naive(bench, rows, layer, tokens)).mean(0) for rows in (data, negatives_of(data)))
    return ours - theirs


# --- against the naive pass -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["gemma2", "llama", "qwen2", "gpt2"])
@pytest.mark.parametrize("tokens", ["all", "response", "last"])
@pytest.mark.parametrize("kind", ["paired", "unpaired"])
def test_difference_in_means(benches, request, architecture, tokens, kind):
    bench, data = benches(architecture), request.getfixturevalue(kind)
    vectors = extract_layers(bench.model, data, layers=range(LAYERS), tokens=tokens, batch_size=3)
    assert list(vectors) == list(range(LAYERS))
    for layer, sv in vectors.items():
        expected = naive_difference(bench, data, layer, tokens)
        assert relative(sv.vector, expected) < 1e-5
        assert float(sv.direction.norm()) == pytest.approx(1)
        assert sv.factor == pytest.approx(float(expected.norm()), rel=1e-5)


def test_text_means_and_counts(gemma, paired):
    found = collect(gemma.model, paired, layers=[2, 0])
    assert found.layers == (2, 0) and found.paired and found.tokens == "all"
    for layer, index in ((2, 0), (0, 1)):
        for rows, means, counts in (
            (paired, found.positive, found.positive_counts),
            (negatives_of(paired), found.negative, found.negative_counts),
        ):
            expected = naive(gemma, rows, layer, "all")
            assert counts.tolist() == [len(x) for x in expected]
            assert relative(means[:, index], torch.stack([x.mean(0) for x in expected])) < 1e-5


def test_means_weigh_tokens_not_texts(gemma, unpaired):
    found = collect(gemma.model, unpaired, layers=[LAYER], tokens="response")
    texts = found.positive[:, 0].double().mean(0) - found.negative[:, 0].double().mean(0)
    assert relative(texts, found.mean_difference(LAYER)) > 0.01  # so that the comparison above could tell


@pytest.mark.parametrize("architecture", ["gemma2", "qwen2", "gpt2"])
def test_what_every_prompt_begins_with_is_left_out(benches, architecture):
    """BOS (but for Qwen's), the start of the turn, "user" and a line break, a token per character."""
    templated, bare = benches(architecture).model, benches(architecture, template=False).model
    assert prefix_length(templated) == (6 if architecture == "qwen2" else 7)
    assert prefix_length(bare) == 1, "BOS, or else the first token"


def test_a_sink_at_the_first_token_does_not_make_the_direction(benches, paired):
    """Qwen has no BOS: its first token is of the template, and would decide the means if it were in them."""
    model = benches("qwen2").model
    plain = extract(model, paired, layer=LAYER)
    sink = torch.zeros(WIDTH)
    sink[3] = 1e4

    def grow(hidden, hook):
        return torch.cat([hidden[:, :1] + sink, hidden[:, 1:]], 1)

    with model.hooks(fwd_hooks=[(f"blocks.{LAYER}.hook_resid_post", grow)]):
        found = extract(model, paired, layer=LAYER)
    assert relative(found.vector, plain.vector) < 1e-6


# --- invariances ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_many_layers_at_once_equal_each_alone(model, paired, method):
    together = extract_layers(model, paired, layers=[3, 0, 1], method=method)
    assert list(together) == [3, 0, 1]
    for layer, sv in together.items():
        assert sv == extract(model, paired, layer=layer, method=method)
        assert sv.layer == layer and sv.provenance["hook_point"] == f"blocks.{layer}.hook_resid_post"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["paired", "unpaired"])
def test_batch_size_and_order_do_not_matter(model, request, method, kind):
    data = request.getfixturevalue(kind)
    whole = extract(model, data, layer=LAYER, method=method)
    for batch_size in (1, 2, 7):
        sv = extract(model, data, layer=LAYER, method=method, batch_size=batch_size)
        assert relative(sv.vector, whole.vector) < 1e-5
    turned = steerlens.SteeringData(data.examples[::-1], data.concept, negatives=data.negatives[::-1])
    assert relative(extract(model, turned, layer=LAYER, method=method).vector, whole.vector) < 1e-5


def test_one_pass_per_batch_and_no_logits_to_speak_of(model, paired):
    seen = []
    handle = model.original_model.register_forward_hook(lambda _m, _a, out: seen.append(tuple(out.logits.shape[:2])))
    extract_layers(model, paired, layers=range(LAYERS), batch_size=5)
    handle.remove()
    assert seen == [(5, 1), (5, 1)]


def test_a_text_that_occurs_again_is_not_run_again(model, data):
    seen = []
    handle = model.original_model.register_forward_hook(lambda _m, _a, out: seen.append(len(out.logits)))
    found = collect(model, steerlens.SteeringData(data.examples * 2, negatives=data.examples[::-1]), layers=[LAYER])
    handle.remove()
    assert seen == [5] and len(found.positive) == 10
    assert torch.equal(found.positive[:5], found.positive[5:]) and torch.equal(found.positive[:5], found.negative.flip(0))


def test_dropout_is_off(benches, paired):
    model = benches("gpt2").model
    drops = [module for module in model.original_model.modules() if isinstance(module, torch.nn.Dropout) and module.p > 0]
    expected = extract(model, paired, layer=LAYER)
    try:
        for module in drops:
            module.train()
        assert drops and torch.equal(extract(model, paired, layer=LAYER).vector, expected.vector)
        assert all(module.training for module in drops)
    finally:
        for module in drops:
            module.eval()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("method", METHODS)
def test_gradient_modes_do_not_matter(model, paired, method, mode):
    expected = extract(model, paired, layer=LAYER, method=method)
    with mode():
        found = extract(model, paired, layer=LAYER, method=method)
    assert torch.equal(found.vector, expected.vector)


@pytest.mark.parametrize("learning", [False, True])
def test_the_model_is_left_as_it_came(gemma, paired, learning):
    model, inner = gemma.model, gemma.model.original_model
    flags = [parameter.requires_grad for parameter in inner.parameters()]
    modes = [(module, module.training) for module in (*model.modules(), *inner.modules())]
    try:
        inner.requires_grad_(learning)
        model.train(learning)
        state = State(model)
        sv = extract(model, paired, layer=LAYER, method="probe")
        assert not sv.direction.requires_grad and not sv.direction.is_inference()
        with pytest.raises(DataError):
            extract(model, steerlens.SteeringData([{"prompt": "a", "response": "b" * 600, "neutral": "c"}]), layer=LAYER)
        state.check_same(model)
        assert all(parameter.grad is None for parameter in inner.parameters())
    finally:
        for parameter, flag in zip(inner.parameters(), flags, strict=True):
            parameter.requires_grad_(flag)
        for module, training in modes:
            module.training = training


def test_inside_a_steer_block_the_steered_stream_is_read(model, paired, make_vector):
    """Prompt and response are told apart there: a vector at the response moves response tokens by itself, others not."""
    sv = make_vector(layer=LAYER, positions="response")
    plain = collect(model, paired, layers=[LAYER], tokens="response")
    with steerlens.steer(model, sv):
        steered = collect(model, paired, layers=[LAYER], tokens="response")
        whole = collect(model, paired, layers=[LAYER])
    assert relative(steered.positive - plain.positive, sv.vector.expand(plain.positive.shape)) < 1e-5
    share = plain.positive_counts / whole.positive_counts
    moved = whole.positive[:, 0] - collect(model, paired, layers=[LAYER]).positive[:, 0]
    assert relative(moved, share[:, None] * sv.vector) < 1e-5


# --- the vector -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_the_factor(model, paired, method):
    raw = collect(model, paired, layers=[LAYER]).mean_difference(LAYER)
    sv = extract(model, paired, layer=LAYER, method=method)
    assert sv.factor == pytest.approx(float(raw @ sv.direction.double()), rel=1e-5)
    assert sv.factor > 0 and float(sv.direction.norm()) == pytest.approx(1)
    assert sv.provenance["factor_source"] == "difference of class means along the direction"
    given = extract(model, paired, layer=LAYER, method=method, factor=-2)
    assert given.factor == -2 and torch.equal(given.direction, sv.direction)
    assert given.provenance["factor_source"] == "given"


def test_methods_are_not_the_same(model, paired):
    vectors = [extract(model, paired, layer=LAYER, method=method) for method in METHODS]
    for i, a in enumerate(vectors):
        for b in vectors[:i]:
            assert 0.1 < float(a.direction @ b.direction) < 0.9999


def test_provenance(model, paired, unpaired):
    sv = extract(model, paired, layer=LAYER, tokens="response", positions="l2+f2")
    assert sv.concept == "fish" and sv.model_name == "tiny-gemma2" and sv.positions == "p2+s2" and sv.form == "add"
    expected = {
        "made_by": "steerlens.extract",
        "method": "difference",
        "tokens": "response",
        "layer": LAYER,
        "hook_point": f"blocks.{LAYER}.hook_resid_post",
        "positions": "p2+s2",
        "n_positive": 5,
        "n_negative": 5,
        "negatives": "neutral responses",
        "negatives_hash": None,
        "data_hash": paired.hash,
        "d_model": WIDTH,
        "weight_processing": "raw",
    }
    assert expected.items() <= dict(sv.provenance).items()
    other = extract(model, unpaired, layer=LAYER, positions=lambda mask: mask)
    assert other.provenance["n_negative"] == 3 and other.provenance["negatives"] == "shared"
    assert other.provenance["negatives_hash"] == steerlens.SteeringData(unpaired.negatives).hash
    assert other.provenance["positions"] == "function"
    json.dumps(dict(other.provenance))


def test_saved_loaded_and_steering(model, paired, tmp_path):
    sv = extract(model, paired, layer=LAYER)
    loaded = steerlens.SteeringVector.load(sv.save(tmp_path / "fish.safetensors"))
    assert loaded == sv and dict(loaded.provenance) == dict(sv.provenance)
    plain, steered = (
        steerlens.generate(model, list(PROMPTS), steer, max_new_tokens=8, temperature=0, progress=False)
        for steer in (None, loaded.scaled(3))
    )
    assert plain != steered


def test_steering_with_the_difference_moves_the_class_means(model, paired):
    """Added at every token that was read, the raw difference carries the negatives' mean onto the positives'."""
    sv = extract(model, paired, layer=LAYER)
    found = collect(model, paired, layers=[LAYER])
    with steerlens.steer(model, sv):
        steered = collect(model, paired, layers=[LAYER])
    assert relative(steered.class_means(LAYER)[1], found.class_means(LAYER)[0]) < 1e-5


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"method": "magic"}, "method 'magic' is unknown; use difference, pca, probe"),
        ({"tokens": "first"}, "tokens 'first' are unknown; use all, response, last"),
        ({"layer": LAYERS}, "layer 4 does not exist: tiny-gemma2 has blocks 0 to 3"),
        ({"layers": [0, -1]}, "layer -1 does not exist"),
        ({"layer": True}, "layer True does not exist"),
        ({"layers": []}, "layers is empty"),
        ({"positions": "p0"}, "positions 'p0'"),
        ({"factor": math.nan}, "the factor is nan"),
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
    ],
)
def test_bad_settings_are_refused_before_any_pass(model, paired, settings, words):
    handle = model.original_model.register_forward_hook(lambda *_: pytest.fail("the model ran"))
    try:
        with pytest.raises(ValueError, match=words):
            if "layers" in settings:
                extract_layers(model, paired, **settings)
            else:
                extract(model, paired, **({"layer": LAYER} | settings))
    finally:
        handle.remove()


def test_a_list_of_layers_is_for_extract_layers(model, paired):
    wrong_keyword: dict[str, Any] = {"token": "all"}
    wrong: list[dict[str, Any]] = [{"layer": [0, 1]}, {"layers": [0, 1]}]
    for where in wrong:
        with pytest.raises(TypeError, match=r"extract\(\) takes one layer=.*extract_layers\(model, data, layers=\[...\]\)"):
            extract(model, paired, **where)
    with pytest.raises(TypeError, match=r"extract\(\) got an unknown keyword 'token': did you mean tokens"):
        extract(model, paired, layer=0, **wrong_keyword)


def test_a_model_of_another_kind(paired):
    other: Any = torch.nn.Linear(2, 2)
    with pytest.raises(TypeError, match="expected a TransformerBridge"):
        extract(other, paired, layer=0)


def test_nothing_to_compare_with(model, data):
    with pytest.raises(DataError, match=r"nothing to compare the responses with.*neutral response.*negatives="):
        extract(model, data, layer=LAYER)


def test_some_rows_without_neutral_response(model, paired):
    rows = [*paired.examples[:2], steerlens.Example("a", "b"), *paired.examples[2:]]
    for negatives in ((), [steerlens.Example("c", "d")]):
        with pytest.raises(DataError, match="row 2 has no neutral response while others have one"):
            extract(model, steerlens.SteeringData(rows, negatives=negatives), layer=LAYER)


def test_rows_that_are_too_long_are_named(model, data):
    long = steerlens.Example("a", "b" * 600)
    with pytest.raises(DataError, match="in the negatives, row 1: "):
        extract(model, steerlens.SteeringData(data.examples, negatives=[steerlens.Example("a", "b"), long]), layer=LAYER)
    with pytest.raises(DataError, match=r"^row 5: "):
        extract(model, steerlens.SteeringData([*data.examples, long], negatives=data.examples), layer=LAYER)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("factor", [None, 2.0])
def test_texts_that_are_the_same(model, data, method, factor):
    same = [{"prompt": e.prompt, "response": e.response, "neutral": e.response} for e in data]
    shuffled = steerlens.SteeringData(data.examples, negatives=data.examples[::-1])
    for given in (same, shuffled):
        with pytest.raises(ValueError, match="the same mean activations after layer 1"):
            extract(model, given, layer=LAYER, method=method, factor=factor, batch_size=2)


def test_activations_that_are_not_finite(model, paired):
    def broken(hidden: torch.Tensor, hook: Any) -> torch.Tensor:
        return hidden * math.inf

    with model.hooks(fwd_hooks=[("blocks.1.hook_resid_post", broken)]):
        assert extract(model, paired, layer=0).factor > 0
        with pytest.raises(ValueError, match="the activations after layer 1 are not finite"):
            extract_layers(model, paired, layers=[0, 1])


def test_a_direction_along_which_the_means_do_not_differ(model, paired, monkeypatch):
    monkeypatch.setitem(KNOWN, "probe", lambda a, layer: -difference(a, layer))
    with pytest.raises(ValueError, match=r"differ by -.* along the direction of method 'probe'.*pass factor="):
        extract(model, paired, layer=LAYER, method="probe")
    assert extract(model, paired, layer=LAYER, method="probe", factor=1).factor == 1


def test_a_layer_that_was_not_collected(model, paired):
    with pytest.raises(ValueError, match="layer 2 was not collected; there are 0, 1"):
        collect(model, paired, layers=[0, 1]).mean_difference(2)


# --- activations as a result ------------------------------------------------------------------------------------------


def test_activations_in_a_sentence_a_frame_and_a_figure(model, unpaired):
    found = collect(model, unpaired, layers=[2, 0], tokens="response")
    frame = found.to_frame()
    assert frame["layer"].tolist() == [2, 0]
    for _, row in frame.iterrows():
        positive, negative = found.class_means(int(row["layer"]))
        assert row["difference_norm"] == pytest.approx(float((positive - negative).norm()))
        assert row["relative_difference"] == pytest.approx(float((positive - negative).norm() / negative.norm()))
        assert row["cosine"] == pytest.approx(float(positive @ negative / positive.norm() / negative.norm()))
        assert (row["n_positive"], row["n_negative"]) == (5, 3)
        assert row["tokens_positive"] == sum(len(e.response) for e in unpaired)
    most = frame["layer"].tolist()[int(frame["relative_difference"].argmax())]
    assert f"differ most after block {most}, by" in found.summary() and "3 without (shared negatives)" in found.summary()
    assert repr(found) == f"<Activations: {found.summary()}>" and found.summary().split(";")[0][:20] in found._repr_html_()
    drawn: Any = found.plot()
    assert list(drawn.data[0].x) == [0, 2] and list(drawn.data[0].y) == frame["relative_difference"].tolist()[::-1]
