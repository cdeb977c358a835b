"""Sides that take turns, what their times say, and which machine they ran on."""

import argparse
import datetime
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

Work = Callable[[], object]
PACKAGES = ("torch", "transformers", "transformer-lens", "steerlens")


@dataclass
class Check:
    """Whether two sides gave the same."""

    name: str
    value: float
    """The difference: relative, or the part of the tokens that are others."""
    allowed: float
    required: bool
    """False where it is only told: kernels for another number of rows may round another way."""
    holds: bool


@dataclass
class Ratio:
    """One side against another."""

    measure: str
    against: str
    ratio: float
    low: float
    """Smallest ratio of a single turn."""
    high: float
    target: float | None = None
    met: bool | None = None
    """None without a target."""


@dataclass
class Results:
    """All that a run found."""

    machine: dict[str, Any]
    settings: dict[str, Any]
    sides: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    """Measure -> side -> seconds of each turn, or bytes."""
    ratios: list[Ratio] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def check(self, name: str, value: float, allowed: float, *, required: bool = True) -> None:
        """Say whether two sides gave the same. Once a required check has failed no target counts as met."""
        found = Check(name, value, allowed, required, bool(value <= allowed))
        self.checks.append(found)
        verdict = "same" if found.holds else "DIFFERENT" if required else "not quite the same"
        print(f"    {verdict}: {name} (by {value:.1e}; allowed {allowed:.0e})", flush=True)

    def skip(self, reason: str) -> None:
        self.skipped.append(reason)
        print(f"    skipped: {reason}", flush=True)

    def turns(self, name: str, sides: Mapping[str, Work], repeats: int) -> dict[str, Any]:
        """Time the sides in turns, nobody always first, after one turn that warms up; what each gave."""
        times: dict[str, list[float]] = {side: [] for side in sides}
        gave: dict[str, Any] = {}
        order = list(sides.items())
        for turn in range(repeats + 1):
            for side, work in order[turn % len(order) :] + order[: turn % len(order)]:
                seconds, gave[side] = timed(work)
                if turn:
                    times[side].append(seconds)
        self.sides[name] = times
        for side, values in times.items():
            spread = f"{min(values):.3f} to {max(values):.3f}"
            print(f"    {name}: {side:42} {statistics.median(values):8.3f} s ({spread})", flush=True)
        return gave

    def compare(
        self, measure: str, name: str, ours: str, against: str, target: float | None = None, *, share: float = 1
    ) -> None:
        """The ratio of two sides of `name`, where ours does `share` times the work of the other."""
        mine, other = self.sides[name][ours], self.sides[name][against]
        each = [a / share / b for a, b in zip(mine, other, strict=True)]
        ratio = statistics.median(mine) / share / statistics.median(other)
        met = None if target is None else self.sound() and ratio <= target
        self.ratios.append(Ratio(measure, against, ratio, min(each), max(each), target, met))

    def sound(self) -> bool:
        """Whether all required checks hold."""
        return all(check.holds for check in self.checks if check.required)

    def save(self, out: Path | None) -> None:
        """Write what is known by now."""
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    def finish(self) -> None:
        """Print the table, and leave with 1 where the sides did not give the same."""
        print(f"\n{'measure':48} {'against':38} ratio (of single turns) target  met")
        for row in self.ratios:
            target, met = "-" if row.target is None else f"{row.target:.2f}", {None: "-", True: "yes", False: "no"}[row.met]
            print(f"{row.measure:48} {row.against:38} {row.ratio:5.2f} ({row.low:.2f} to {row.high:.2f}) {target:>6}  {met}")
        if not self.sound():
            raise SystemExit("the sides did not give the same: the times do not compare")


def timed(work: Work) -> tuple[float, object]:
    """Seconds, until the device has finished, and what came of it."""
    _synchronize()
    start = time.perf_counter()
    outcome = work()
    _synchronize()
    return time.perf_counter() - start, outcome


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def apart(ours: torch.Tensor, right: torch.Tensor) -> float:
    """The largest difference over the largest value."""
    return float((ours.double() - right.double()).abs().max() / right.double().abs().max())


def tokens_apart(ours: list[list[int]], right: list[list[int]]) -> float:
    """The part of the tokens that are others."""
    pairs = [pair for a, b in zip(ours, right, strict=True) for pair in zip(a, b, strict=True)]
    return sum(a != b for a, b in pairs) / len(pairs)


def arguments(text: str, shapes: Mapping[str, Any]) -> argparse.ArgumentParser:
    """The options that the benchmarks share."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--shape", default="cpu", choices=tuple(shapes))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of PyTorch on the CPU")
    parser.add_argument("--out", type=Path, help="a JSON file")
    return parser


def begin(given: argparse.Namespace) -> Results:
    """Empty results of this machine and these options."""
    torch.set_num_threads(given.threads)
    told = {name: str(value) if isinstance(value, Path) else value for name, value in vars(given).items() if name != "out"}
    return Results(machine(given.device), told)


def machine(device: str) -> dict[str, Any]:
    """What the numbers depend on besides the code."""
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else _processor(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.system(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "date": datetime.date.today().isoformat(),
    }


def _processor() -> str:
    """The name the system gives the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
