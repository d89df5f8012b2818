"""How good the cost model is: predicted beside measured time of every kernel, over the benchmark models.

    python -m benchmarks.cost --models resnet18,mlp_large --data DIR --json benchmarks/results/cost.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.case import tensors
from benchmarks.machine import describe
from benchmarks.metrics import ranks
from benchmarks.models import CASES, Options, Unavailable, load
from mcomp.files import write_whole


@dataclass(frozen=True)
class Row:
    """One compiled model. Times in microseconds a call; `ratio` is the median over kernels of predicted / measured, `spread`
    the median of max(predicted / measured, measured / predicted); `rank` is Spearman's correlation over kernels."""

    model: str
    variant: str
    kernels: int
    predicted_us: float
    measured_us: float
    ratio: float
    spread: float
    rank: float


def measure(name: str, variant: str, options: Options, threads: int) -> Row:
    """Compile a model and compare prediction and measurement of its kernels."""
    import mcomp
    from mcomp.plan.profile import kernel_predictor

    case = load(name, options)
    args = tensors(case.example)
    extra = {}
    if variant == "int8":
        batches = [tensors(b) for b in case.calibration.batches(case.batch)][:16]
        extra = {"calibration": batches, "pipeline": "quantize{bits=8}"}
    fast = mcomp.optimize(case.build(), args, threads=threads, progress=False, **extra)
    program = fast.only_program("measured")
    symbols = program.symbols(args)
    kernels = program.executable.kernels(symbols)
    rounds = [program.executable.profile(list(args), symbols, repeats=20) for _ in range(5)]
    measured = [min(times) for times in zip(*rounds)]
    weights = float(sum(k.weights for k in kernels))
    predict = kernel_predictor("cpu", threads, all_weights=weights)
    predicted = [predict(k) for k in kernels]
    pairs = [(p, m) for p, m in zip(predicted, measured) if m > 0 and p > 0]
    ratios = [p / m for p, m in pairs]
    return Row(
        name, variant, len(pairs), sum(predicted), sum(measured), statistics.median(ratios),
        statistics.median(max(r, 1 / r) for r in ratios), spearman([p for p, _ in pairs], [m for _, m in pairs]),
    )


def spearman(a: list[float], b: list[float]) -> float:
    """Spearman's rank correlation; ties get their mean rank."""
    return float(np.corrcoef(ranks(np.asarray(a)), ranks(np.asarray(b)))[0, 1])


def main(argv: list[str] | None = None) -> int:
    """Print the table; returns 1 when a model was skipped."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=",".join(CASES))
    parser.add_argument("--variants", default="fp32,int8")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(argv)
    rows: list[Row] = []
    skipped = 0
    made_on = describe(arguments.threads)
    print("| model | variant | kernels | predicted us | measured us | median ratio | median factor off | rank correlation |")
    print("|---|---|---|---|---|---|---|---|")
    for name in arguments.models.split(","):
        for variant in arguments.variants.split(","):
            try:
                row = measure(name, variant, Options(folder=arguments.data, limit=64), arguments.threads)
            except Unavailable as e:
                print(f"skipped: {e}", file=sys.stderr)
                skipped += 1
                break
            rows.append(row)
            if arguments.json:
                found = {"machine": made_on, "rows": [asdict(r) for r in rows]}
                write_whole(arguments.json, json.dumps(found, indent=1) + "\n")
            print(f"| {row.model} | {row.variant} | {row.kernels} | {row.predicted_us:.0f} | {row.measured_us:.0f} "
                  f"| {row.ratio:.2f} | {row.spread:.2f} | {row.rank:.2f} |", flush=True)
    return 1 if skipped else 0


if __name__ == "__main__":
    sys.exit(main())
