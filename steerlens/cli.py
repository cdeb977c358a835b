"""The command line: `steerlens demo`, `steerlens train`, `steerlens generate`. Heavy imports happen in the commands."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from . import __version__

if TYPE_CHECKING:
    import torch


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status (2 for input that cannot be used, 130 after an interrupt)."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    options = _parser(next((word for word in given if not word.startswith("-")), None)).parse_args(given)
    try:
        return options.run(options)
    except (ValueError, TypeError, OSError, RuntimeError, ImportError) as error:
        print(f"steerlens: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("steerlens: interrupted", file=sys.stderr)
        return 130


def _parser(command: str | None) -> argparse.ArgumentParser:
    """The whole command line; of `train` with its options only if that is the command, since TrainConfig imports torch."""
    parser = argparse.ArgumentParser(
        prog="steerlens", description="Train, apply and understand steering vectors on TransformerLens."
    )
    parser.add_argument("--version", action="version", version=f"steerlens {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_demo(commands)
    train = commands.add_parser("train", help="train a vector on your model and data")
    if command == "train":
        _add_train_options(train)
    _add_generate(commands)
    return parser


def _add_demo(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    demo = commands.add_parser("demo", help="train, apply and compare vectors, in a few minutes")
    demo.add_argument(
        "--model",
        choices=("terrarium", "smollm2"),
        default="terrarium",
        help="terrarium: the embedded model with its judge; smollm2: one concept on a real model (default: %(default)s)",
    )
    demo.add_argument(
        "--out", type=Path, default=Path("steerlens-demo"), help="folder for vectors and page (default: %(default)s)"
    )
    demo.add_argument("--seed", type=int, default=42)
    demo.add_argument("--force", action="store_true", help="overwrite the files of an earlier demo")
    demo.set_defaults(run=_demo)


def _add_train_options(train: argparse.ArgumentParser) -> None:
    from .dataclass_options import add_options
    from .interventions import FORMS
    from .training.objectives import OBJECTIVES
    from .training.scaling import TrainConfig

    train.add_argument("--model", required=True, help="hub name, local folder, smollm2, or terrarium")
    train.add_argument("--data", required=True, type=Path, help="jsonl, json, csv or parquet with prompt and response columns")
    train.add_argument(
        "--layer",
        required=True,
        type=int,
        action="append",
        metavar="N",
        help="0-based block whose output is edited; given several times, a vector at each, trained together",
    )
    train.add_argument(
        "--out",
        required=True,
        type=Path,
        help="the vector's file, *.safetensors; of several layers one each, NAME-layer8.safetensors and so on",
    )
    train.add_argument(
        "--positions",
        default="p2+s2",
        help="tokens to edit: p2+s2, p4, s1, prompt, response, all (default: %(default)s)",
    )
    train.add_argument("--objective", default="lang", help=f"{', '.join(OBJECTIVES)} (default: %(default)s)")
    train.add_argument("--form", default="add", help=f"{', '.join(FORMS)} (default: %(default)s)")
    train.add_argument("--rank", type=int, default=1, metavar="N", help="of loreft and direft (default: %(default)s)")
    train.add_argument(
        "--factor", default="joint", help="joint, a number, or numbers 2,4,8 to draw from (default: %(default)s)"
    )
    train.add_argument("--force", action="store_true", help="overwrite the file if it is there")
    train.add_argument("--concept", help="what the responses show, kept in the file")
    train.add_argument("--seed", type=int, default=42)
    train.add_argument("--dtype", default="float32", help="of the model: float32, bfloat16, float16 (default: %(default)s)")
    add_options(
        train, TrainConfig, "settings of TrainConfig", "Each is as published, at the model's width, unless it is given."
    )
    train.set_defaults(run=_train)


def _add_generate(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    generate = commands.add_parser("generate", help="answer prompts with and without a vector")
    generate.add_argument("--model", required=True, help="hub name, local folder, smollm2, or terrarium")
    generate.add_argument(
        "--vector",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="written by steerlens train; given several times, all together; without it nothing is steered",
    )
    generate.add_argument("--scale", type=float, help="multiplies the vectors' factors (default: 1.0); needs --vector")
    generate.add_argument("--max-new-tokens", type=int, default=128)
    generate.add_argument("--temperature", type=float, default=1.0, help="0 = greedy (default: %(default)s)")
    generate.add_argument("--seed", type=int, default=0)
    generate.add_argument("--dtype", default="float32", help="of the model (default: %(default)s)")
    generate.add_argument("prompts", nargs="+", help="one or more prompts")
    generate.set_defaults(run=_generate)


def _demo(options: argparse.Namespace) -> int:
    import torch

    from . import demo, demo_smollm2

    chosen = demo if options.model == "terrarium" else demo_smollm2
    _check_outputs(chosen.files(options.out), options.force)
    if chosen is demo:
        torch.set_num_threads(1)  # the embedded model is too small for a second thread, and on a busy machine threads wait
    chosen.run(options.out, options.seed)
    return 0


def _train(options: argparse.Namespace) -> int:
    from .data import SteeringData
    from .dataclass_options import given
    from .model.loading import load_model
    from .training.loop import train_layers
    from .training.scaling import TrainConfig

    if options.out.suffix != ".safetensors":
        raise ValueError(f"--out {options.out.name}: name the file *.safetensors")
    several = len(set(options.layer)) > 1
    names = [options.out.with_stem(f"{options.out.stem}-layer{layer}") for layer in options.layer] if several else [options.out]
    _check_outputs(names, options.force)
    data = SteeringData(options.data, concept=options.concept)
    model = load_model(options.model, dtype=_dtype(options.dtype))
    names = ("positions", "objective", "form", "rank", "seed")
    settings = {name: getattr(options, name) for name in names} | {"factor": _factor(options.factor)}
    trained = train_layers(model, data, layers=options.layer, **settings, **given(options, TrainConfig))
    written = []
    for sv in trained.values():
        path = options.out if len(trained) == 1 else options.out.with_stem(f"{options.out.stem}-layer{sv.layer}")
        written.append(sv.save(path))
        print(f"{sv}\nsaved to {path}")
    chosen = " ".join(f"--vector {path}" for path in written)
    print(f'try:\n  steerlens generate --model {options.model} {chosen} "..."')
    return 0


def _generate(options: argparse.Namespace) -> int:
    from .model.loading import load_model
    from .steering.generation import generate
    from .vector import SteeringVector

    if options.scale is not None and not options.vector:
        raise ValueError(f"--scale {options.scale:g} multiplies the factors of vectors: give --vector")
    scale = 1.0 if options.scale is None else options.scale
    vectors = [SteeringVector.load(path).scaled(scale) for path in options.vector]
    model = load_model(options.model, dtype=_dtype(options.dtype))
    settings = {"max_new_tokens": options.max_new_tokens, "temperature": options.temperature, "seed": options.seed}
    for label, steering in (("unsteered", None), ("steered", vectors)) if vectors else (("unsteered", None),):
        responses = generate(model, options.prompts, steering, **settings)
        for prompt, response in zip(options.prompts, responses, strict=True):
            print(f"[{label}] {prompt}\n{response}\n")
    return 0


def _check_outputs(paths: Sequence[Path], force: bool) -> None:
    """Say before any work what would make it be lost at its end.

    Raises:
        OSError: a file is there, or none can be written there.
    """
    import os

    for path in paths:
        if path.is_dir() or (path.exists() and not path.is_file()):
            raise OSError(f"--out: {path} is there and is not a file: give another name")
        if path.exists() and not force:
            raise FileExistsError(f"--out: {path} is there already: give another name, or --force to overwrite it")
        nearest = next(parent for parent in path.absolute().parents if parent.exists() or parent.is_symlink())
        if not nearest.is_dir():
            raise NotADirectoryError(f"--out: {path} cannot be written: {nearest} is not a folder")
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise PermissionError(f"--out: {path} cannot be written: {nearest} may not be written to")


def _factor(text: str) -> str | float | list[float]:
    if text == "joint":
        return text
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"--factor {text!r}: use joint, a number, or numbers separated by commas") from None
    return numbers[0] if len(numbers) == 1 else numbers


def _dtype(name: str) -> "torch.dtype":
    import torch

    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"--dtype {name!r} is unknown; use float32, bfloat16 or float16")
    return dtype


if __name__ == "__main__":
    raise SystemExit(main())
