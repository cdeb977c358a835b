"""Times of training, generation and evaluation against the same by hand: ratios, medians and spread.

    python benchmarks/speed.py                                  # on the CPU, minutes
    python benchmarks/speed.py --device cuda --shape gemma2b    # on a GPU
    python benchmarks/speed.py --only step,generation --repeats 3 --out results.json

All sides run in one process and take turns; a ratio is that of their medians, its spread that of single turns. Before times are
compared, the sides must have given the same: losses and gradients to rounding, greedy tokens exactly. Where they have not, no
target counts as met and the exit status is 1. The opponents are in `opponents.py`, the models in `shapes.py`.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple

import opponents
import torch
from ours import FACTOR, Steps, generate
from shapes import SHAPES, bridge_model, directions, examples, plain_model
from timing import Results, apart, arguments, begin, tokens_apart
from torch import Tensor
from transformers import AutoModelForCausalLM

import steerlens
from steerlens import terrarium
from steerlens.training.settings import Settings
from steerlens.training.setup import prepare

EPOCHS = 12
"""Of the published settings; a step bears the part 1 / EPOCHS of what lies below the edited layer."""
TERRARIUM_EPOCHS = 2
"""Few, so that encoding and what lies below weigh more for steerlens than they do in 12."""
LOSS, GRADIENT = ({torch.float32: 1e-4, torch.bfloat16: 1e-3}, {torch.float32: 1e-3, torch.bfloat16: 5e-2})
"""What losses and gradients may differ by, relative; in bfloat16 the logits of every side are rounded to 8 bits."""


class Target(NamedTuple):
    """The largest ratio that is good enough, by shape; None = not set."""

    cpu: float | None
    gemma2b: float | None


TARGETS = {
    ("training step", "naive"): Target(0.72, 0.65),
    ("training step", "floor"): Target(1.10, None),
    ("per concept, K = 8", "naive"): Target(0.70, 0.50),
    ("per concept, K = 32", "naive"): Target(0.70, 0.50),
    ("greedy generation", "HF generate, eager"): Target(1.02, 1.00),
    ("sampled generation", "HF generate, eager, sampled"): Target(1.05, 1.05),
    ("PrOSV generation", "steerlens, unsteered"): Target(1.02, 1.02),
    ("FSSV generation", "steerlens, unsteered"): Target(1.05, 1.05),
    ("evaluate, all vectors in one batch", "one by one"): Target(0.5, 0.2),
    ("train_many on Terrarium", "naive"): Target(0.65, None),
}


class Bench:
    """Models and rows of one run, and where its findings go."""

    def __init__(self, given: Any, results: Results) -> None:
        self.name, self.shape, self.device = given.shape, SHAPES[given.shape], given.device
        self.repeats, self.concepts, self.results = given.repeats, given.concepts, results
        self.rows = examples(self.shape)
        self.tokens = opponents.ids(self.shape, self.rows, self.device)
        self.prompts = [row.prompt for row in examples(self.shape, self.shape.prompts)]

    @cached_property
    def bridge(self) -> Any:
        bridge = bridge_model(self.shape, self.device)
        self.results.settings["path"] = steerlens.explain_speed(bridge, self.shape.layer)
        return bridge

    @cached_property
    def eager(self) -> Any:
        """Plain Hugging Face with the attention that TransformerLens asks for."""
        return plain_model(self.shape, self.device)

    def step(self, loss: opponents.Loss, concept: int = 0) -> opponents.Step:
        """An opponent's training step of one of the vectors."""
        direction = directions(self.shape, concept + 1)[concept].to(self.device)
        return opponents.step(loss, direction, FACTOR)

    def naive_step(self, concept: int = 0) -> opponents.Step:
        loss = opponents.whole_loss(self.eager, self.shape, self.tokens, all_logits=True)
        return self.step(loss, concept)

    def check_step(self, name: str, ours: tuple[float, Tensor], right: tuple[float, Tensor]) -> None:
        self.results.check(f"loss, {name}", abs(ours[0] - right[0]) / abs(right[0]), LOSS[self.shape.dtype])
        self.results.check(f"gradient, {name}", apart(ours[1], right[1]), GRADIENT[self.shape.dtype])

    def compare(self, measure: str, name: str, ours: str, against: str, share: float = 1) -> None:
        target = TARGETS.get((measure, against), Target(None, None))
        self.results.compare(measure, name, ours, against, target._asdict().get(self.name), share=share)


def measure_step(bench: Bench) -> None:
    """One vector, one batch, up to its gradient."""
    ours = Steps(bench.bridge, bench.shape, bench.rows, 1)
    plain = opponents.whole_loss(bench.eager, bench.shape, bench.tokens, all_logits=False)
    floor = opponents.floor_loss(bench.eager, bench.shape, bench.tokens)
    by_hand = {"naive": bench.naive_step(), "plain HF, response logits": bench.step(plain), "floor": bench.step(floor)}
    if (pv := opponents.pyvene()) is None:
        bench.results.skip("pyvene is not installed")
    else:
        model = plain_model(bench.shape, bench.device)
        by_hand["pyvene"] = bench.step(opponents.pyvene_loss(pv, model, bench.shape, bench.tokens))
    sides = {"steerlens": ours, "what lies below, once": ours.keep_lower_half, **by_hand}
    gave = bench.results.turns("step", sides, bench.repeats)
    losses, gradients = gave["steerlens"]
    for side in by_hand:
        bench.check_step(f"steerlens and {side}", (losses[0], gradients[0]), gave[side])
    times, whole = bench.results.sides["step"], f"steerlens, with 1/{EPOCHS} of what lies below"
    pairs = zip(times["steerlens"], times["what lies below, once"], strict=True)
    times[whole] = [step + below / EPOCHS for step, below in pairs]
    for side in by_hand:
        bench.compare("training step", "step", "steerlens", side)
    bench.compare(f"training step, with 1/{EPOCHS} of what lies below", "step", whole, "naive")


def measure_concepts(bench: Bench) -> None:
    """Several vectors in shared passes, per vector."""
    sides: dict[str, Callable[[], Any]] = {"naive": bench.naive_step()}
    for n in bench.concepts:
        sides[f"steerlens, K = {n}"] = Steps(bench.bridge, bench.shape, bench.rows, n)
    gave = bench.results.turns("concepts", sides, bench.repeats)
    for n in bench.concepts:
        losses, gradients = gave[f"steerlens, K = {n}"]
        for concept in sorted({0, n - 1}):
            right = bench.naive_step(concept)()
            bench.check_step(f"concept {concept} of {n} and naive", (losses[concept], gradients[concept]), right)
        bench.compare(f"per concept, K = {n}", "concepts", f"steerlens, K = {n}", "naive", n)


def measure_generation(bench: Bench) -> None:
    """Greedy and sampled, unsteered and steered, always with all new tokens."""
    shape, direction = bench.shape, directions(bench.shape, 1)[0]
    tokens = torch.tensor(bench.prompts, device=bench.device)
    default = plain_model(shape, bench.device, None)
    vectors = {"PrOSV": "p2+s2", "FSSV": "all"}
    steered = {name: steerlens.SteeringVector(direction, FACTOR, shape.layer, positions=at) for name, at in vectors.items()}
    ours = partial(generate, bench.bridge, bench.prompts, shape.new_tokens)
    hf = partial(opponents.hf_generate, tokens=tokens, new_tokens=shape.new_tokens)
    sides = {
        "HF generate, eager": partial(hf, bench.eager),
        "HF generate, its default attention": partial(hf, default),
        "HF generate, eager, sampled": partial(hf, bench.eager, sample=True),
        "steerlens, unsteered": ours,
        "steerlens, unsteered, sampled": partial(ours, sample=True),
    }
    sides |= {f"steerlens, {name}": partial(ours, vector) for name, vector in steered.items()}
    gave = bench.results.turns("generation", sides, bench.repeats)
    _check_texts(
        bench, gave, {name: (vector.vector.to(bench.device), vectors[name]) for name, vector in steered.items()}, tokens
    )
    bench.compare("greedy generation", "generation", "steerlens, unsteered", "HF generate, eager")
    bench.compare("greedy generation", "generation", "steerlens, unsteered", "HF generate, its default attention")
    bench.compare("sampled generation", "generation", "steerlens, unsteered, sampled", "HF generate, eager, sampled")
    for name in vectors:
        bench.compare(f"{name} generation", "generation", f"steerlens, {name}", "steerlens, unsteered")


def _check_texts(bench: Bench, gave: dict[str, Any], vectors: dict[str, tuple[Tensor, str]], tokens: Tensor) -> None:
    """Greedy tokens, also of the vectors by a hook around Hugging Face's own generation."""
    ours, check = gave["steerlens, unsteered"], bench.results.check
    check("greedy tokens, steerlens and HF, eager", tokens_apart(ours, gave["HF generate, eager"]), 0)
    other = gave["HF generate, its default attention"]
    check("greedy tokens, steerlens and HF, its default attention", tokens_apart(ours, other), 0, required=False)
    for name, (vector, positions) in vectors.items():
        right = opponents.hf_steered(bench.eager, bench.shape, tokens, vector, positions == "all")
        check(f"greedy tokens, {name} and a hook around HF", tokens_apart(gave[f"steerlens, {name}"], right), 0)


def measure_evaluation(bench: Bench) -> None:
    """As many vectors as prompts, one prompt each, judged by a judge that costs nothing."""
    shape = bench.shape
    prompts = [" ".join(f"w{token}" for token in prompt[1:]) for prompt in bench.prompts]
    found = [steerlens.SteeringVector(row, FACTOR, shape.layer) for row in directions(shape, len(prompts))]
    concepts = [f"concept {number}" for number in range(len(prompts))]
    judge = steerlens.ScriptedJudge(lambda concept, prompt, response: steerlens.Scores(1, 1, 1))

    def responses(steer: Any, names: Sequence[str], texts: Sequence[str]) -> list[str]:
        evaluation = steerlens.evaluate(
            bench.bridge, steer, names, texts, judge, max_new_tokens=shape.evaluated_tokens, temperature=0, chat=False
        )
        return evaluation.frame["response"].tolist()

    def one_by_one() -> list[str]:
        rows = zip(found, concepts, prompts, strict=True)
        return [response for vector, name, text in rows for response in responses(vector, [name], [text])]

    sides = {"one batch": lambda: responses(steerlens.PerPrompt(found), concepts, prompts), "one by one": one_by_one}
    gave = bench.results.turns("evaluation", sides, bench.repeats)
    other = sum(a != b for a, b in zip(gave["one batch"], gave["one by one"], strict=True)) / len(prompts)
    bench.results.check("responses, together and alone", other, 0, required=shape.dtype is torch.float32)
    bench.compare("evaluate, all vectors in one batch", "evaluation", "one batch", "one by one")


def measure_terrarium(bench: Bench) -> None:
    """Vectors for many concepts by `train_many`, against as many naive trainings one after the other."""
    if bench.device != "cpu":
        bench.results.skip("Terrarium is a model for the CPU")
        return
    n_concepts, n_examples, epochs = (2, 12, 1) if bench.name == "tiny" else (16, 72, TERRARIUM_EPOCHS)
    data = {name: terrarium.data(name, n_examples) for name in terrarium.concepts()[:n_concepts]}
    bridge = steerlens.load_model("terrarium")
    plain = AutoModelForCausalLM.from_pretrained(terrarium.path(), attn_implementation="eager").requires_grad_(False)
    runs = prepare(bridge, data, [terrarium.LAYER], settings=Settings(), changes={"epochs": epochs})

    def ours() -> list[steerlens.SteeringVector]:
        trained = steerlens.train_many(bridge, data, layer=terrarium.LAYER, epochs=epochs, progress=False)
        return list(trained.values())

    def naive() -> list[tuple[list[float], Tensor]]:
        return [opponents.naive_training(plain, run) for run in runs.values()]

    gave = bench.results.turns("terrarium", {"steerlens": ours, "naive": naive}, min(bench.repeats, 3))
    loss, vector = 0.0, 0.0
    for trained, (losses, final) in zip(gave["steerlens"], gave["naive"], strict=True):
        pairs = zip(trained.history["loss"], losses, strict=True)
        loss = max(loss, *(abs(a - b) / abs(b) for a, b in pairs))
        vector = max(vector, apart(trained.vector, final))
    bench.results.check("losses of all steps on Terrarium, train_many and naive", loss, LOSS[torch.float32])
    bench.results.check("vectors from Terrarium, train_many and naive", vector, 1e-2, required=False)
    bench.compare("train_many on Terrarium", "terrarium", "steerlens", "naive")


MEASURES: dict[str, Callable[[Bench], None]] = {
    "step": measure_step,
    "concepts": measure_concepts,
    "generation": measure_generation,
    "evaluation": measure_evaluation,
    "terrarium": measure_terrarium,
}


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - set(MEASURES):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))} is none of {', '.join(MEASURES)}")
    return [name for name in MEASURES if name in names]


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main() -> None:
    parser = arguments(__doc__ or "", SHAPES)
    parser.add_argument("--only", type=_names, default=list(MEASURES), help=f"of {','.join(MEASURES)}")
    parser.add_argument("--repeats", type=int, default=5, help="turns that count, after one that does not (5)")
    parser.add_argument("--concepts", type=_numbers, default=[8, 32], help="trained together (8,32)")
    given = parser.parse_args()
    results = begin(given)
    bench = Bench(given, results)
    for name in given.only:
        print(f"{name}:", flush=True)
        MEASURES[name](bench)
        results.save(given.out)
    results.finish()


if __name__ == "__main__":
    main()
