"""The vocabulary readout against plain modules of the Hugging Face model, with null laws and a planted token."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from planted import UNIFORM, distance_to_uniform, lorefted, normal, statistics, stretched, vector
from tiny import ARCHITECTURES, LAYERS, MARKS, WIDTH, Bench, boot, make_hf, save_tokenizer
from torch import Tensor

from steerlens import SteeringVector
from steerlens.analysis.logit_lens import readout
from steerlens.analysis.random_directions import random_rows, spectrum


@pytest.fixture(scope="module")
def normed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Bench]:
    """Models whose final norm has weights and biases of its own, which freshly made ones have not."""
    made: dict[str, Any] = {}

    def get(architecture: str) -> Any:
        if architecture not in made:
            hf = make_hf(architecture)
            norm = hf.transformer.ln_f if architecture == "gpt2" else hf.model.norm
            generator = torch.Generator().manual_seed(5)
            with torch.no_grad():
                for parameter in norm.parameters():
                    parameter.add_(0.5 * torch.randn(WIDTH, generator=generator))
            plain = copy.deepcopy(hf)
            bos, pad = MARKS[architecture]
            tokenizer = save_tokenizer(tmp_path_factory.mktemp(architecture), bos=bos, pad=pad)
            made[architecture] = (boot(hf, f"tiny-{architecture}", tokenizer), plain)
        return made[architecture]

    return get


def weight_of(plain: Any) -> Tensor:
    """What the final norm multiplies by, written out."""
    if hasattr(plain, "transformer"):
        return plain.transformer.ln_f.weight.detach()
    weight = plain.model.norm.weight.detach()
    return 1 + weight if "Gemma" in type(plain).__name__ else weight


def by_hand(plain: Any, direction: Tensor) -> Tensor:
    """W_U^T (w * v / RMS(v)) less its mean, v centred before a LayerNorm; nothing of TransformerLens in it."""
    v = direction - direction.mean() if hasattr(plain, "transformer") else direction
    logits = plain.lm_head.weight.detach() @ (weight_of(plain) * v / v.square().mean().sqrt())
    return logits - logits.mean()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("size", [1e-4, 1.0, 1e4])
def test_readout_is_the_linear_part_of_norm_and_unembedding(normed: Any, architecture: str, size: float) -> None:
    model, plain = normed(architecture)
    sv = vector(size * normal(WIDTH, seed=3), factor=-1.0)
    result = readout(model, sv, k=20, n_random=100)
    expected = by_hand(plain, sv.vector)
    up, down = (result.frame[result.frame["side"] == side] for side in ("promoted", "suppressed"))
    assert up["token_id"].tolist() == expected.topk(20).indices.tolist()
    assert down["token_id"].tolist() == (-expected).topk(20).indices.tolist()
    np.testing.assert_allclose(up["logit"], expected.topk(20).values, rtol=1e-3)
    assert up["rank"].tolist() == list(range(1, 21)) and result.d_vocab == len(expected)
    other = readout(model, -sv, k=20, n_random=100).frame
    assert other[other["side"] == "suppressed"]["token_id"].tolist() == up["token_id"].tolist()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_readout_has_the_order_of_the_model_itself(normed: Any, architecture: str) -> None:
    """The vector in the place of the last residual stream, its sign changed, and the biases gone with the difference."""
    model, plain = normed(architecture)
    sv = vector(normal(WIDTH, seed=4))
    norm = plain.transformer.ln_f if architecture == "gpt2" else plain.model.norm
    with torch.no_grad():
        logits = (plain.lm_head(norm(sv.vector)) - plain.lm_head(norm(-sv.vector))) / 2
    frame = readout(model, sv, k=30, n_random=100).frame
    assert frame[frame["side"] == "promoted"]["token_id"].tolist() == logits.topk(30).indices.tolist()
    torch.testing.assert_close(
        torch.tensor(frame["logit"][:30].tolist()), (logits - logits.mean()).topk(30).values, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_direction_made_of_one_token_promotes_it_first(normed: Any, architecture: str) -> None:
    model, plain = normed(architecture)
    rows = plain.lm_head.weight.detach()
    token = model.tokenizer("Q", add_special_tokens=False)["input_ids"][0]
    direction = (rows[token] - rows.mean(0)) * weight_of(plain)
    result = readout(model, {"up": vector(direction), "down": vector(direction, factor=-1.0)}, k=3, n_random=300)
    first: Any = result.frame.set_index(["vector", "side", "rank"])
    up, down = first.loc[("up", "promoted", 1)], first.loc[("down", "suppressed", 1)]
    assert up["token"] == down["token"] == "Q" and up["logit"] == pytest.approx(-down["logit"])
    assert up["p_corrected"] == 1 / 301 and up["z"] > 4
    assert "promoted 'Q'" in result.summary() and "of 3 beyond isotropic" in result.summary()
    assert "p corrected for 166 tokens" in result.summary() and "2 blocks before the logits" in result.summary()


def test_z_is_the_logit_over_the_length_of_the_row(normed: Any) -> None:
    """A direction at root mean square 1 with no preferred axis gives a token the standard deviation of its row's length."""
    model, plain = normed("llama")
    rows = plain.lm_head.weight.detach()
    lengths = ((rows - rows.mean(0)) * weight_of(plain)).norm(dim=-1)
    frame = readout(model, vector(normal(WIDTH, seed=3)), k=80, n_random=4000).frame
    expected = frame["logit"].to_numpy() / lengths[frame["token_id"].tolist()].numpy()
    np.testing.assert_allclose(frame["z"], expected, rtol=0.06)


@pytest.mark.parametrize("covariance", [None, stretched()])
def test_readout_p_is_uniform_where_there_is_nothing(normed: Any, covariance: Tensor | None) -> None:
    model, _ = normed("gemma2")
    known = None if covariance is None else statistics(covariance)
    drawn = random_rows(spectrum(vector(normal(WIDTH)), known), 150, seed=11)
    many = {index: vector(row) for index, row in enumerate(drawn)}
    smallest = readout(model, many, k=83, statistics=known).frame.groupby("vector")["p_corrected"].min()
    assert distance_to_uniform(smallest) < UNIFORM
    if known is not None:
        wrong = readout(model, many, k=83).frame.groupby("vector")["p_corrected"].min()
        assert distance_to_uniform(wrong) > UNIFORM


def test_readout_does_not_depend_on_what_stands_beside(normed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = normed("qwen2")
    first, second = vector(normal(WIDTH)), vector(normal(WIDTH, seed=1))
    together = readout(model, {"b": second, "a": first}, n_random=200).frame.query("vector == 'a'").reset_index(drop=True)
    monkeypatch.setattr("steerlens.analysis.logit_lens.TOKENS_AT_ONCE", 7)
    alone = readout(model, {"a": first}, n_random=200).frame
    assert together["token"].tolist() == alone["token"].tolist()
    np.testing.assert_allclose(together[["logit", "z", "p_corrected"]], alone[["logit", "z", "p_corrected"]], rtol=1e-4)


def test_readout_leaves_the_model_as_it_came(normed: Any) -> None:
    model, _ = normed("llama")
    model.train()
    try:
        grads = [parameter.requires_grad for parameter in model.parameters()]
        readout(model, vector(normal(WIDTH)), n_random=100)
        assert model.training and [parameter.requires_grad for parameter in model.parameters()] == grads
    finally:
        model.eval()


@pytest.mark.parametrize(
    ("sv", "settings", "words"),
    [
        (vector(normal(8)), {}, "direction has 8 entries"),
        (vector(normal(WIDTH), layer=LAYERS), {}, f"layer {LAYERS} does not exist"),
        (vector(normal(WIDTH), factor=0.0), {}, "norm 0"),
        (lorefted(), {}, "form 'loreft'"),
        (vector(normal(WIDTH), form="null"), {}, "form 'null', which takes its direction away"),
        (vector(normal(WIDTH)), {"k": 0}, "k is 0; it must be from 1 to 83"),
        (vector(normal(WIDTH)), {"k": 84}, "k is 84"),
        (vector(normal(WIDTH)), {"n_random": 1}, "n_random is 1"),
        (vector(normal(WIDTH)), {"statistics": statistics(torch.eye(WIDTH), layer=2)}, "statistics are of layer 2"),
        (vector(normal(WIDTH)), {"statistics": statistics(torch.eye(WIDTH), model_name="x")}, "statistics are of model 'x'"),
    ],
)
def test_readout_refusals(model: Any, sv: SteeringVector, settings: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        readout(model, sv, **settings)


def test_readout_figure(normed: Any) -> None:
    model, plain = normed("llama")
    rows = plain.lm_head.weight.detach()
    token = model.tokenizer("\n", add_special_tokens=False)["input_ids"][0]
    direction = (rows[token] - rows.mean(0)) * weight_of(plain)
    result = readout(model, {"a": vector(direction), "b": vector(normal(WIDTH))}, k=4, n_random=200)
    figure: Any = result.plot()
    assert figure.layout.title.text and "hollow: within chance" in figure.layout.title.subtitle.text
    assert all(trace.hovertemplate.endswith("<extra></extra>") for trace in figure.data)
    assert [annotation.text for annotation in figure.layout.annotations] == ["a (layer 1 of 0 to 3)", "b (layer 1 of 0 to 3)"]
    assert len(figure.layout.yaxis.ticktext) == 8 and figure.layout.yaxis.ticktext[0] == "↵"
    filled, hollow, _, suppressed = figure.data[:4]
    assert filled.name == "promoted" and list(filled.y) == [0] and hollow.name == "promoted, within chance"
    assert filled.marker.color != hollow.marker.color == "#FFFFFF"
    assert all(x < 0 for x in suppressed.x) and sum(len(trace.x) for trace in figure.data) == 16
