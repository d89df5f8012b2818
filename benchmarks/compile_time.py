"""``python -m benchmarks.compile_time``: how long it takes to compile MiniLM, and to bind a small MLP.

MiniLM is captured and compiled again and again, each time with an empty cache of compiled code but with the cost table of
tiles that the first time, which is not counted, has filled: seconds of capture, of everything after it until the model runs,
and of the C++ compiler alone. The MLP 100-64-32-1 at batch 1: microseconds of `bind(x)` and of a call of what it returns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine, timing
from benchmarks.models import _minilm_module
from benchmarks.networks import mlp, randomize

AFTER_CAPTURE = ("lossless", "search")
"""What `report().seconds` calls the time from the captured model to compiled ones."""


def compiled(model: Any, args: tuple[Any, ...], folder: Path, **options: Any) -> tuple[Any, dict[str, float]]:
    """A model compiled with code that is cached in a new folder only, and the seconds that it took: of capture, after
    capture, and of the C++ compiler alone on the code of the model that was kept."""
    import mcomp
    from mcomp.backend import backend_named, register_backend
    from mcomp.backends.cpu.backend import CpuBackend
    from mcomp.backends.cpu.cache import CodeCache
    from mcomp.backends.cpu.compiler import build
    from mcomp.backends.cpu.isa import choose

    usual = backend_named("cpu")
    register_backend(CpuBackend(CodeCache(folder / "code")))
    try:
        fast = mcomp.optimize(model, args, progress=False, **options)
    finally:
        register_backend(usual)
    spent = fast.report().seconds
    begin = time.perf_counter()
    build(fast.only_program("timed").executable.source(), choose(None), CodeCache(folder / "alone"))
    alone = time.perf_counter() - begin
    return fast, {
        "capture": spent["capture"], "after capture": sum(spent[name] for name in AFTER_CAPTURE), "C++ compiler": alone,
    }


def minilm(tokens: int, threads: int, starts: int, pipeline: str | None) -> dict[str, list[float]]:
    """Seconds of each of `starts` compilations, by what they were spent on."""
    import torch

    model, mask = _minilm_module(), torch.ones(1, tokens, dtype=torch.int64)
    draw = torch.Generator().manual_seed(0)
    calls = [(torch.randint(1000, 20000, (1, tokens), generator=draw), mask) for _ in range(16)]
    extra: dict[str, Any] = {} if pipeline is None else {"pipeline": pipeline, "calibration": calls}
    found: dict[str, list[float]] = {}
    for number in range(starts + 1):
        with tempfile.TemporaryDirectory() as folder:
            seconds = compiled(model, calls[0], Path(folder), threads=threads, **extra)[1]
        for name, value in seconds.items() if number else ():
            found.setdefault(name, []).append(value)
    return found


def binding(threads: int, times: int = 200, burst: float = 0.3) -> dict[str, float]:
    """Microseconds of `bind(x)`, median, and of a call of what it returns, for the MLP 100-64-32-1 at batch 1."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        model = compiled(randomize(mlp((100, 64, 32, 1))), (torch.ones(1, 100),), Path(folder), threads=threads)[0]
        x = torch.ones(1, 100).numpy()
        bound = []
        for _ in range(times):
            begin = time.perf_counter_ns()
            run = model.bind(x)
            bound.append((time.perf_counter_ns() - begin) / 1e3)
        return {"bind us": statistics.median(bound), "call us": 1e3 * timing.measure(run, burst).milliseconds}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print a table."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compile_time", description=__doc__)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--times", type=int, default=3, metavar="N", help="compilations that count")
    parser.add_argument("--pipeline", help="passes, such as 'quantize{bits=8}'; default: lossless")
    parser.add_argument("--no-minilm", action="store_true", help="the MLP only")
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write the figures there")
    options = parser.parse_args(words)
    made = machine.provenance("compile_time", words, options.threads)
    seconds = {} if options.no_minilm else minilm(options.tokens, options.threads, options.times, options.pipeline)
    bound = binding(options.threads)
    print("| | median | least | greatest |")
    print("|---|---|---|---|")
    for name, values in seconds.items():
        print(f"| MiniLM, {name}, s | {statistics.median(values):.2f} | {min(values):.2f} | {max(values):.2f} |")
    for name, value in bound.items():
        print(f"| MLP 100-64-32-1, batch 1, {name} | {value:.2f} | | |")
    if options.json:
        from mcomp.files import write_whole

        write_whole(options.json, json.dumps({**made, "minilm_s": seconds, "mlp": bound}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
