"""Training: its record, its randomness, its settings, its failures; the numbers themselves stand in test_exactness."""

import inspect
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_type_hints

import pytest
import torch
from tiny import WIDTH

import steerlens
from steerlens import SteeringData, TrainConfig
from steerlens.training import scaling
from steerlens.training.callbacks import Step
from steerlens.training.loop import TrainingError
from steerlens.training.objectives import Logprobs
from steerlens.training.settings import Settings, TrainSettings

# exactly as the design lists them
COLUMNS = ["step", "epoch", "loss", "factor", "direction_norm", "vector_norm", "direction_grad_norm", "factor_grad"]
COLUMNS += ["delta1", "delta2", "delta3", "cos_init", "cos_prev", "factor_lr", "direction_lr"]
QUICK = TrainConfig(epochs=4, batch_size=2, factor_init=0.1, direction_init=2.0, factor_lr=0.3, direction_lr=0.03)


def train(model: Any, data: Any, **changes: Any) -> Any:
    return steerlens.train(model, data, **({"layer": 1, "config": QUICK, "progress": False} | changes))


# --- the record ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", ["joint", 2, [1.0, 2.0]])
def test_history(model: Any, data: Any, factor: Any) -> None:
    sv = train(model, data, factor=factor)
    history = sv.history
    assert list(history.columns) == COLUMNS
    assert history["step"].tolist() == list(range(12)) and history["epoch"].tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    assert history.map(math.isfinite).all(axis=None)
    last = history.iloc[-1]
    assert last["direction_norm"] == pytest.approx(float(sv.direction.norm()), rel=1e-6)
    assert history["direction_lr"].to_numpy() == pytest.approx([0.03 * (1 - t / 12) for t in range(12)])
    if factor == "joint":
        assert last["factor"] == sv.factor
        assert last["vector_norm"] == pytest.approx(sv.norm, rel=1e-6)
        assert history["factor_lr"].to_numpy() == pytest.approx([0.3 * (1 - t / 12) for t in range(12)])
        assert (history["factor_grad"] != 0).all()
    else:
        assert (history[["factor_lr", "factor_grad", "delta1", "delta3"]] == 0).all(axis=None)


def test_history_against_the_vectors_after_each_number_of_steps(model: Any, data: Any) -> None:
    """The last of t steps is looked at through runs of one step each, started where the one before ended."""
    one = replace(QUICK, epochs=1, batch_size=5, shuffle=False)
    start = train(model, data, config=one)
    end = train(model, data, config=one, init=start)
    dv, dalpha = end.direction - start.direction, end.factor - start.factor
    row, spread = end.history.iloc[0], math.sqrt(WIDTH)
    parts = [dalpha * start.direction, start.factor * dv, dalpha * dv]
    torch.testing.assert_close(sum(parts), end.vector - start.vector, rtol=1e-4, atol=1e-5)
    for name, part in zip(("delta1", "delta2", "delta3"), parts, strict=True):
        assert row[name] == pytest.approx(float(part.norm()) / spread, rel=1e-4)
    cosine = float(torch.nn.functional.cosine_similarity(end.direction, start.direction, dim=0))
    assert row["cos_init"] == row["cos_prev"] == pytest.approx(cosine, rel=1e-6)
    assert row["loss"] == pytest.approx(steerlens.loss(model, start, data), rel=1e-5)


def test_gradients_in_the_record(model: Any, data: Any) -> None:
    """By finite differences of the loss."""
    one = replace(QUICK, epochs=1, batch_size=5)
    start = train(model, data, config=one)
    row = train(model, data, config=one, init=start).history.iloc[0]

    def loss(factor: float) -> float:
        return steerlens.loss(model, start.replace(factor=factor), data)

    h = 0.02 * start.factor
    slope = (loss(start.factor + h) - loss(start.factor - h)) / (2 * h)
    assert row["factor_grad"] == pytest.approx(slope, rel=0.05)


# --- randomness ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", ["joint", [0.5, 1.0, 2.0]])
def test_a_seed_gives_the_same_bits_and_another_does_not(model: Any, data: Any, factor: Any) -> None:
    first = train(model, data, factor=factor, seed=3)
    torch.manual_seed(99)
    again, other = (train(model, data, factor=factor, seed=seed) for seed in (3, 4))
    assert torch.equal(first.direction, again.direction) and first.factor == again.factor
    assert first.history.equals(again.history)
    assert not torch.equal(first.direction, other.direction)


def test_training_does_not_touch_the_global_generator(model: Any, data: Any) -> None:
    state = torch.random.get_rng_state()
    train(model, data, factor=[1.0, 2.0])
    assert torch.equal(torch.random.get_rng_state(), state)


def test_shuffling_changes_the_order_of_examples(model: Any, data: Any) -> None:
    shuffled, plain = train(model, data), train(model, data, config=replace(QUICK, shuffle=False))
    assert not torch.equal(shuffled.direction, plain.direction)
    by_epoch = plain.history.groupby("epoch")["loss"].apply(list)
    still = train(model, data, config=replace(QUICK, shuffle=False, factor_lr=0.0, direction_lr=0.0))
    by_epoch = still.history.groupby("epoch")["loss"].apply(list)
    assert by_epoch[0] == by_epoch[1] == by_epoch[3], "unshuffled and without learning, each epoch is the same"


def test_sampled_factors_are_the_given_ones(model: Any, data: Any) -> None:
    sv = train(model, data, factor=[0.5, 1, 2.5], config=replace(QUICK, epochs=10))
    drawn = sv.history["factor"]
    assert set(drawn) == {0.5, 1.0, 2.5}
    assert sv.factor == pytest.approx(4 / 3)
    assert sv.provenance["factor"] == [0.5, 1.0, 2.5]


def test_a_fixed_factor_stays(model: Any, data: Any) -> None:
    sv = train(model, data, factor=1.25)
    assert sv.factor == 1.25 and set(sv.history["factor"]) == {1.25} and sv.provenance["factor"] == 1.25


# --- settings -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("positions", "place"), [("p2+s2", "p2+s2"), ("p4", "p2+s2"), ("all", "all")])
def test_without_config_the_published_settings_are_transferred(model: Any, data: Any, positions: str, place: str) -> None:
    sv = train(model, data[:1], config=None, positions=positions)
    expected = scaling.transfer(scaling.published("gemma-2-2b-it", place, "lang"), 2304, WIDTH)
    assert TrainConfig(**sv.provenance["config"]) == expected
    source = sv.provenance["config_source"]
    assert f"published for gemma-2-2b-it, {place}, lang" in source
    assert "learning rates transferred from width 2304 to 48" in source
    assert train(model, data).provenance["config_source"] == "given by the caller"
    assert "; the table has no row for model tiny-gemma2" in source and source.endswith("the nearest was taken")
    assert ("positions p4" in source) == (positions == "p4")
    assert sv.history.attrs["config_source"] == source


def test_the_start(model: Any, data: Any) -> None:
    """factor = beta sqrt(n), entries of the direction within lambda / sqrt(n)."""
    still = replace(QUICK, factor_init=0.7, direction_init=3.0, factor_lr=0.0, direction_lr=0.0)
    sv = train(model, data, config=still)
    bound = 3.0 / math.sqrt(WIDTH)
    assert sv.factor == pytest.approx(0.7 * math.sqrt(WIDTH), rel=1e-6)
    assert 0.9 * bound < float(sv.direction.abs().max()) <= bound
    assert set(sv.history["cos_init"].round(5)) == {1.0}


def test_only_the_direction_is_clipped(model: Any, data: Any, make_vector: Callable[..., Any]) -> None:
    """A tiny limit, near Adam's epsilon, stops the direction and leaves the factor's first step as it was."""
    one = replace(QUICK, epochs=1, batch_size=5)
    start = make_vector(factor=0.5)
    free, clipped = (train(model, data, init=start, config=replace(one, grad_clip=c)) for c in (None, 1e-12))
    assert float((free.direction - start.direction).norm()) > 0.1
    assert float((clipped.direction - start.direction).norm()) < 0.001
    assert clipped.factor == free.factor != start.factor
    assert clipped.history["factor_grad"][0] == free.history["factor_grad"][0]
    assert clipped.history["direction_grad_norm"][0] == free.history["direction_grad_norm"][0] > 1e-12


def test_responses_are_cut_and_ended(model: Any, data: Any) -> None:
    cut = [{"prompt": e.prompt, "response": e.response[:4]} for e in data]
    still = replace(QUICK, epochs=1, batch_size=5, factor_lr=0.0, direction_lr=0.0)
    expected = train(model, cut, config=still).history["loss"][0]
    assert train(model, data, config=replace(still, max_response_tokens=4)).history["loss"][0] == pytest.approx(expected)
    ended = train(model, data, config=replace(still, append_eos=True)).history["loss"][0]
    by_hand = [{"prompt": e.prompt, "response": e.response + "<end_of_turn>"} for e in data]
    assert ended == pytest.approx(train(model, by_hand, config=still).history["loss"][0])
    both = replace(still, append_eos=True, max_response_tokens=4)
    assert train(model, data, config=both).history["loss"][0] == pytest.approx(expected), "a cut response has no end"


def test_an_objective_of_ones_own(model: Any, data: Any) -> None:
    def per_row(logprobs: Logprobs) -> torch.Tensor:
        return -logprobs.response.total

    def wrong(logprobs: Logprobs) -> Any:
        return logprobs.response.total.mean()

    sv = train(model, data, objective=per_row, config=replace(QUICK, epochs=1, batch_size=5))
    assert sv.provenance["objective"] == "per_row"
    lengths = [len(e.response) for e in data]
    losses = [steerlens.loss(model, None, data[i : i + 1]) * n for i, n in enumerate(lengths)]
    assert steerlens.loss(model, None, data, objective=per_row) == pytest.approx(sum(losses) / 5, rel=1e-5)
    with pytest.raises(ValueError, match=r"must return RowLosses or one loss per row, shape \(5,\); it returned a tensor of"):
        steerlens.loss(model, None, data, objective=wrong)
    with pytest.raises(ValueError, match="objective 'lagn' is unknown; use lang"):
        train(model, data, objective="lagn")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"factor": "fixed"}, "factor 'fixed' is unknown; use \"joint\", a number, or a sequence"),
        ({"factor": []}, "must be at least one finite number"),
        ({"factor": [1.0, math.nan]}, "must be at least one finite number"),
        ({"form": "rotate"}, "form 'rotate' is unknown"),
        ({"positions": "p0"}, "edits no token"),
        ({"layer": 4}, "layer 4 does not exist"),
    ],
)
def test_bad_arguments_are_refused_before_work_starts(model: Any, data: Any, change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        train(model, data, callbacks=[lambda step: pytest.fail("training began")], **change)


def test_single_settings_change_the_published_ones(model: Any, data: Any) -> None:
    sv = train(model, data[:1], config=None, factor_lr=5.0, epochs=2)
    published = train(model, data[:1], config=None)
    expected = replace(TrainConfig(**published.provenance["config"]), epochs=2, factor_lr=5.0)
    assert TrainConfig(**sv.provenance["config"]) == expected and len(sv.history) == 2
    assert sv.provenance["config_source"] == f"{published.provenance['config_source']}, changed: epochs, factor_lr"
    assert torch.equal(sv.direction, train(model, data[:1], config=expected).direction)


def test_single_settings_change_a_given_config(model: Any, data: Any) -> None:
    sv = train(model, data, epochs=1, grad_clip=None)
    assert torch.equal(sv.direction, train(model, data, config=replace(QUICK, epochs=1, grad_clip=None)).direction)
    assert sv.provenance["config_source"] == "given by the caller, changed: epochs, grad_clip"
    many = steerlens.train_many(model, {"a": data}, layer=1, config=QUICK, epochs=1, grad_clip=None, progress=False)["a"]
    layers = steerlens.train_layers(model, data, layers=[1], config=QUICK, epochs=1, grad_clip=None, progress=False)[1]
    assert many == layers == sv
    with pytest.raises(ValueError, match="epochs is 0; it must be a whole number of at least 1"):
        train(model, data, epochs=0)
    with pytest.raises(ValueError, match="null_factor_init is set, but the objective 'lang' has no Null intervention"):
        train(model, data, null_factor_init=1.0)


@pytest.mark.parametrize("function", ["train", "train_layers", "train_many"])
def test_an_unknown_keyword_is_named_with_what_reads_like_it(model: Any, data: Any, function: str) -> None:
    given: Any = {"a": data} if function == "train_many" else data
    where = {"layers": [1]} if function == "train_layers" else {"layer": 1}
    call: Any = getattr(steerlens, function)
    with pytest.raises(TypeError, match=rf"{function}\(\) got an unknown keyword 'epoch': did you mean epochs"):
        call(model, given, **where, epoch=2)
    with pytest.raises(TypeError, match=r"unknown keyword 'zzz': known are model, data.*, epochs, batch_size"):
        call(model, given, **where, zzz=2)


@pytest.mark.parametrize("function", ["train", "train_many"])
@pytest.mark.parametrize("where", [{"layer": [1, 2]}, {"layer": range(2)}, {"layer": ()}, {"layers": [1, 2]}])
def test_a_list_of_layers_is_for_train_layers(model: Any, data: Any, function: str, where: dict[str, Any]) -> None:
    call: Any = getattr(steerlens, function)
    with pytest.raises(TypeError, match=rf"{function}\(\) takes one layer=.*train_layers\(model, data, layers=\[...\]\)"):
        call(model, data, **where)


def test_the_keywords_are_those_of_the_dataclasses() -> None:
    """What a type checker reads, what is shown, and what there is, with the same types."""
    fields = get_type_hints(Settings) | get_type_hints(TrainConfig)
    assert get_type_hints(TrainSettings) == fields
    shown = inspect.signature(steerlens.train).parameters
    assert {name: shown[name].annotation for name in fields} == fields
    assert shown["positions"].default == "p2+s2" and repr(shown["epochs"].default) == "published"


# --- running ------------------------------------------------------------------------------------------------------------


def test_callbacks(model: Any, data: Any) -> None:
    seen: list[Step] = []
    trained = steerlens.train_many(
        model, {"a": data, "b": data[:2]}, layer=1, config=QUICK, progress=False, callbacks=[seen.append, lambda step: None]
    )
    for name, sv in trained.items():
        assert sv.history is not None
        assert [step.row for step in seen if step.name == name] == sv.history.to_dict(orient="records")
        assert {step.n_steps for step in seen if step.name == name} == {len(sv.history)}
    assert [step.n_steps for step in seen] == [12, 4] * 4 + [12] * 8


def test_a_progress_bar_is_shown(model: Any, data: Any, capsys: pytest.CaptureFixture[str]) -> None:
    train(model, data, progress=True)
    assert "train" in (err := capsys.readouterr().err) and "12/12" in err and "loss=" in err
    train(model, data)
    assert not capsys.readouterr().err


@pytest.mark.parametrize(("change", "step"), [({"factor_init": 1e38}, 0), ({"factor_lr": 1e37, "direction_lr": 1e3}, 1)])
def test_numbers_that_are_not_finite_stop_training(model: Any, data: Any, change: dict[str, float], step: int) -> None:
    words = (
        rf"fish: the loss is .* at step {step} of 12, factor .*settings TrainConfig\(.*try smaller factor_init and factor_lr"
    )
    with pytest.raises(TrainingError, match=words):
        train(model, data, config=replace(QUICK, **change))


def test_no_data_sets(model: Any) -> None:
    with pytest.raises(ValueError, match="there are no data sets"):
        steerlens.train_many(model, {}, layer=1)


@pytest.mark.slow
@pytest.mark.parametrize(("positions", "factor"), [("all", 3.0), ("p2+s2", 4.0)])
def test_a_planted_vector_is_found_again(benches: Any, make_vector: Callable[..., Any], positions: str, factor: float) -> None:
    """Texts sampled from a steered model: training on them finds the vector that steered, from the texts alone."""
    model = benches("llama").model
    truth = make_vector(5, factor=factor, positions=positions)
    prompts = [f"Say {a}{b}" for a in "abcdefghijkl" for b in "mnopqrstuvwxyzABCDEFGHIJKLMNOP"]
    responses = steerlens.generate(model, prompts, truth, max_new_tokens=24, batch_size=96)
    rows = [{"prompt": p, "response": r} for p, r in zip(prompts, responses, strict=True) if r.strip()]
    planted = SteeringData(rows, concept="planted")
    config = TrainConfig(epochs=15, batch_size=24, factor_init=0.2, direction_init=1.0, factor_lr=0.1, direction_lr=0.05)
    sv = steerlens.train(model, planted, layer=truth.layer, positions=positions, config=config, progress=False)
    assert float(torch.nn.functional.cosine_similarity(sv.vector, truth.vector, dim=0)) > 0.9
    bare, true, found = (steerlens.loss(model, v, planted, batch_size=96) for v in (None, truth, sv))
    assert found == pytest.approx(true, abs=0.1 * (bare - true) + 0.01), "as likely as under the planted vector"


# --- the rates that are recorded are those that are used ----------------------------------------------------------------


@pytest.mark.parametrize("form", ["add", "null"])
def test_adams_first_step_is_the_recorded_rate(model: Any, data: Any, form: str) -> None:
    """The factor of the form "null" is a strength, and moves at a rate of its own."""
    config = replace(QUICK, epochs=2, batch_size=5, factor_lr=0.3, null_factor_lr=0.02)
    history = train(model, data, form=form, config=config).history
    begun = 1.0 if form == "null" else scaling.initial_factor(config, WIDTH)
    assert abs(history["factor"].iloc[0] - begun) == pytest.approx(history["factor_lr"].iloc[0], rel=1e-3)
    assert history["factor_lr"].tolist() == pytest.approx([0.02, 0.01] if form == "null" else [0.3, 0.15])


def test_the_history_knows_its_objective(model: Any, data: Any) -> None:
    assert train(model, data).history.attrs["objective"] == "lang"
