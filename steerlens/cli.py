"""The command line: `steerlens demo`, `steerlens train`, `steerlens generate`. Heavy imports happen in the commands."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from . import __version__

_TRAIN_OPTIONS = (
    # (TrainConfig field, type, help); left out ones come from the published settings
    ("epochs", int, "passes over the data"),
    ("batch_size", int, "examples per forward pass"),
    ("factor_init", float, "the factor starts at this times sqrt(d_model)"),
    ("direction_init", float, "the direction's entries start at this size over sqrt(d_model)"),
    ("factor_lr", float, "Adam's learning rate of the factor"),
    ("direction_lr", float, "Adam's learning rate of the direction"),
    ("max_response_tokens", int, "cut responses after so many tokens"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status (2 for input that cannot be used)."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        print(f"steerlens: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="steerlens", description="Train, apply and understand steering vectors on TransformerLens."
    )
    parser.add_argument("--version", action="version", version=f"steerlens {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_demo(commands)
    _add_train(commands)
    _add_generate(commands)
    return parser


def _add_demo(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    demo = commands.add_parser("demo", help="train, apply and judge vectors on the embedded model, in a few minutes")
    demo.add_argument(
        "--out", type=Path, default=Path("steerlens-demo"), help="folder for vectors and page (default: %(default)s)"
    )
    demo.add_argument("--seed", type=int, default=42)
    demo.set_defaults(run=_demo)


def _add_train(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    train = commands.add_parser("train", help="train a vector on your model and data")
    train.add_argument("--model", required=True, help="hub name, local folder, or terrarium")
    train.add_argument("--data", required=True, type=Path, help="jsonl, json, csv or parquet with prompt and response columns")
    train.add_argument("--layer", required=True, type=int, help="0-based block whose output is edited")
    train.add_argument("--out", required=True, type=Path, help="the vector's file, *.safetensors")
    train.add_argument(
        "--positions",
        default="p2+s2",
        help="tokens to edit: p2+s2, p4, s1, prompt, response, all (default: %(default)s)",
    )
    train.add_argument("--objective", default="lang", help="default: %(default)s")
    train.add_argument("--form", default="add", help="add or clamp (default: %(default)s)")
    train.add_argument(
        "--factor", default="joint", help="joint, a number, or numbers 2,4,8 to draw from (default: %(default)s)"
    )
    train.add_argument("--concept", help="what the responses show, kept in the file")
    train.add_argument("--seed", type=int, default=42)
    train.add_argument("--dtype", default="float32", help="of the model: float32, bfloat16, float16 (default: %(default)s)")
    for name, kind, text in _TRAIN_OPTIONS:
        train.add_argument(f"--{name.replace('_', '-')}", type=kind, help=f"{text} (default: published, for the model's width)")
    train.set_defaults(run=_train)


def _add_generate(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    generate = commands.add_parser("generate", help="answer prompts with and without a vector")
    generate.add_argument("--model", required=True, help="hub name, local folder, or terrarium")
    generate.add_argument("--vector", type=Path, help="a file written by steerlens train; without it the model is not steered")
    generate.add_argument("--scale", type=float, default=1.0, help="multiplies the vector's factor (default: %(default)s)")
    generate.add_argument("--max-new-tokens", type=int, default=128)
    generate.add_argument("--temperature", type=float, default=1.0, help="0 = greedy (default: %(default)s)")
    generate.add_argument("--seed", type=int, default=0)
    generate.add_argument("--dtype", default="float32", help="of the model (default: %(default)s)")
    generate.add_argument("prompts", nargs="+", help="one or more prompts")
    generate.set_defaults(run=_generate)


def _demo(options: argparse.Namespace) -> int:
    import torch

    from .demo import run

    torch.set_num_threads(1)  # the embedded model is too small for a second thread, and on a busy machine threads wait

    run(options.out, options.seed)
    return 0


def _train(options: argparse.Namespace) -> int:
    from .data import SteeringData
    from .model.bridge import load_model
    from .training.loop import train

    if options.out.suffix != ".safetensors":
        raise ValueError(f"--out {options.out.name}: name the file *.safetensors")
    data = SteeringData(options.data, concept=options.concept)
    model = load_model(options.model, dtype=_dtype(options.dtype))
    given = {name: value for name, _, _ in _TRAIN_OPTIONS if (value := getattr(options, name)) is not None}
    sv = train(
        model,
        data,
        layer=options.layer,
        positions=options.positions,
        objective=options.objective,
        form=options.form,
        factor=_factor(options.factor),
        seed=options.seed,
        **given,
    )
    sv.save(options.out)
    print(f'{sv}\nsaved to {options.out}; try:\n  steerlens generate --model {options.model} --vector {options.out} "..."')
    return 0


def _generate(options: argparse.Namespace) -> int:
    from .model.bridge import load_model
    from .steering.generation import generate
    from .vector import SteeringVector

    sv = None if options.vector is None else SteeringVector.load(options.vector).scaled(options.scale)
    model = load_model(options.model, dtype=_dtype(options.dtype))
    settings = {"max_new_tokens": options.max_new_tokens, "temperature": options.temperature, "seed": options.seed}
    for label, vector in (("unsteered", None), ("steered", sv)) if sv else (("unsteered", None),):
        responses = generate(model, options.prompts, vector, **settings)
        for prompt, response in zip(options.prompts, responses, strict=True):
            print(f"[{label}] {prompt}\n{response}\n")
    return 0


def _factor(text: str) -> str | float | list[float]:
    if text == "joint":
        return text
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"--factor {text!r}: use joint, a number, or numbers separated by commas") from None
    return numbers[0] if len(numbers) == 1 else numbers


def _dtype(name: str):  # the type lives in torch, which must not be imported for --help
    import torch

    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"--dtype {name!r} is unknown; use float32, bfloat16 or float16")
    return dtype


if __name__ == "__main__":
    raise SystemExit(main())
