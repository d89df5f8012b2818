"""``python -m benchmarks.beside_torch model.mcomp``: mcomp and torch in one process do not slow each other down.

In rounds: our model alone after a rest, our model right after torch products, torch products alone after a rest, torch
products right after our model. Every figure is the median of a burst of calls; the table shows the least and the median over
rounds, and both relative to those without the other. The first call of a burst, which may find threads asleep, is shown by
itself. On a machine that does other work, look at the least.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch

import mcomp
from mcomp.commands.arrays import example_arrays

REST_S = 0.1


def burst(call: Callable[[], object], calls: int) -> tuple[float, float]:
    """Milliseconds: the first call, and the median of the others."""
    times = []
    for _ in range(calls + 1):
        start = time.perf_counter_ns()
        call()
        times.append((time.perf_counter_ns() - start) / 1e6)
    return times[0], statistics.median(times[1:])


def main() -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.beside_torch", description=__doc__)
    parser.add_argument("file")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--calls", type=int, default=20, help="per burst")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = mcomp.load(options.file, threads=options.threads)
    program = model.only_program("timed")
    given = [torch.from_numpy(a) for a in example_arrays(program.graph, {})[: len(program.input_values())]]
    ours = model.bind(*given)
    a, b = torch.randn(256, 512), torch.randn(512, 512)

    def theirs() -> object:
        return torch.relu(a @ b)

    turns: dict[str, tuple[Callable[[], object] | None, Callable[[], object]]] = {
        "ours alone": (None, ours), "ours after torch": (theirs, ours), "torch alone": (None, theirs),
        "torch after ours": (ours, theirs),
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in turns}
    for _ in range(options.rounds):
        for name, (before, call) in turns.items():
            time.sleep(REST_S)
            if before is not None:
                burst(before, options.calls)
            found[name].append(burst(call, options.calls))
    print("| | first call ms, least | least ms | median ms | least, of alone | median, of alone |")
    print("|---|---|---|---|---|---|")
    base = (1.0, 1.0)
    for name, times in found.items():
        least, middle = min(t for _, t in times), statistics.median(t for _, t in times)
        base = (least, middle) if name.endswith("alone") else base
        print(f"| {name} | {min(f for f, _ in times):.3f} | {least:.3f} | {middle:.3f} "
              f"| {least / base[0]:.2f} | {middle / base[1]:.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
