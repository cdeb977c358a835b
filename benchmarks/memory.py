"""Memory of one training step beyond the model: steerlens against the whole sequence with all logits, and by concepts.

    python benchmarks/memory.py                                  # on the CPU, minutes, up to 8 GB
    python benchmarks/memory.py --device cuda --shape gemma2b    # on a GPU
    python benchmarks/memory.py --out memory.json

The vocabulary has 256,000 words. On a GPU it is the largest amount allocated, less what was allocated before; on the CPU each
side runs in a process of its own, and it is the largest resident set, less that before; blocks that are freed go back to the
system at once (glibc), so that it is what was in use and not what the heap had kept. What steerlens keeps from below the edited
layer counts. The sides must give the same loss.
"""

import contextlib
import ctypes
import gc
import multiprocessing
import platform
import resource
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import opponents
import torch
from ours import FACTOR, Steps
from shapes import SHAPES, Shape, bridge_model, directions, examples, plain_model
from timing import Results, arguments, begin

TARGET = 0.35
WORDS = 256_000
GIB = 2**30
M_MMAP_THRESHOLD = -3
"""In glibc's malloc.h: the size from which a block is the system's own and goes back to it."""
LOSS = {torch.float32: 1e-4, torch.bfloat16: 1e-3}
"""What the losses may differ by, relative."""


class Size(NamedTuple):
    """Shapes of the two comparisons."""

    step: Shape
    concepts: Shape
    """Where a batch of one vector all but fills a pass, and many vectors take seconds."""


SIZES = {
    "tiny": Size(SHAPES["tiny"], SHAPES["tiny"]),
    "cpu": Size(
        SHAPES["cpu"]._replace(vocabulary=WORDS),
        SHAPES["cpu"]._replace(width=128, inner=512, layers=4, heads=2, layer=1),
    ),
    "gemma2b": Size(SHAPES["gemma2b"], SHAPES["gemma2b"]),
}


class Found(NamedTuple):
    """Of one step."""

    extra: int
    """Bytes."""
    loss: float
    """Of the first vector."""


def naive(shape: Shape, device: str) -> Callable[[], float]:
    model, tokens = plain_model(shape, device), opponents.ids(shape, examples(shape), device)
    loss = opponents.whole_loss(model, shape, tokens, all_logits=True)
    return lambda: opponents.step(loss, directions(shape, 1)[0].to(device), FACTOR)()[0]


def steerlens(shape: Shape, device: str, n: int) -> Callable[[], float]:
    model, rows = bridge_model(shape, device), examples(shape)
    return lambda: Steps(model, shape, rows, n)()[0][0]


def extra(shape: Shape, device: str, n: int | None, threads: int) -> Found:
    """What a step of n vectors needs beside the model; `n=None` = naive, of one."""
    torch.set_num_threads(threads)
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**16)
    step = naive(shape, device) if n is None else steerlens(shape, device, n)
    if device == "cuda":
        gc.collect()  # of models before this one
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before, loss = torch.cuda.memory_allocated(), step()
        return Found(torch.cuda.max_memory_allocated() - before, loss)
    before, loss = _start_of_peak(), step()
    return Found(_peak() - before, loss)


def _start_of_peak() -> int:
    """Resident bytes now, from where the peak is counted, where the system can begin anew."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak of a process is counted anew
    except OSError:
        return _peak()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _peak() -> int:
    """The largest resident set of this process, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def apart(shape: Shape, device: str, n: int | None, threads: int) -> Found:
    """`extra`, on the CPU in a process of its own: the memory of one that has run says nothing about the next."""
    if device == "cuda":
        return extra(shape, device, n, threads)
    start = multiprocessing.get_context("fork" if platform.system() == "Linux" else "spawn")  # this one has computed nothing
    with ProcessPoolExecutor(1, mp_context=start) as pool:
        return pool.submit(extra, shape, device, n, threads).result()


def measure(results: Results, shape: Shape, name: str, sides: dict[str, int | None], repeats: int) -> None:
    """Extra memory of each side: `n` vectors of steerlens, or None = naive."""
    device, threads = results.settings["device"], results.settings["threads"]
    losses: dict[str, float] = {}
    results.sides[name] = {side: [] for side in sides}
    for _ in range(repeats):
        for side, n in sides.items():
            found = apart(shape, device, n, threads)
            results.sides[name][side].append(found.extra)
            losses[side] = found.loss
    for side, values in results.sides[name].items():
        print(f"    {name}: {side:14} {min(values) / GIB:7.3f} to {max(values) / GIB:.3f} GiB", flush=True)
    first, *others = losses
    for side in others:
        difference = abs(losses[side] - losses[first]) / abs(losses[first])
        results.check(f"loss, {side} and {first}", difference, LOSS[shape.dtype])


def main() -> None:
    parser = arguments(__doc__ or "", SIZES)
    parser.add_argument("--repeats", type=int, default=2)
    given = parser.parse_args()
    results, size = begin(given), SIZES[given.shape]
    print(f"a step with {size.step.vocabulary:,} words:")
    measure(results, size.step, "memory", {"naive": None, "steerlens": 1}, given.repeats)
    target = None if given.shape == "tiny" else TARGET
    results.compare("extra memory of a training step", "memory", "steerlens", "naive", target)
    print("by concepts:")
    measure(results, size.concepts, "memory by concepts", {"1 concept": 1, "8 concepts": 8, "32 concepts": 32}, 1)
    for n in (8, 32):
        results.compare(f"extra memory, {n} concepts", "memory by concepts", f"{n} concepts", "1 concept")
    results.save(given.out)
    results.finish()


if __name__ == "__main__":
    main()
