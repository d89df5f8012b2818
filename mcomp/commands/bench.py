"""`mcomp bench`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from mcomp.commands.arrays import example_arrays, read_arrays
from mcomp.commands.common import INPUTS, emit_json, made_up_sizes, print_table, sizes_text
from mcomp.errors import McompError
from mcomp.plan.measure import interleave
from mcomp.runtime.program import CompiledProgram

_SECONDS = 3.0
"""About how long models are timed where nothing else is said."""


def add(parser: argparse.ArgumentParser) -> None:
    """Options."""
    parser.add_argument("file", nargs="+", help=".mcomp files; several are timed in turns")
    parser.add_argument("--input", action="append", default=[], metavar="NPY", help=INPUTS)
    parser.add_argument("--size", action="append", default=[], metavar="B=8", help="size of a symbol for made-up inputs")
    parser.add_argument("--kernels", action="store_true", help="time every kernel of one file")
    parser.add_argument("--seconds", type=float, help="about how long to measure (default: 3; not with --kernels)")
    parser.add_argument("--trust-code", action="store_true", help="use the compiled code in the files")
    parser.add_argument("--isa", help="instruction set to use, such as avx2 (default: that of the file's code where it is "
                        "used, else the best of this machine)")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", action="store_true")


def run(arguments: argparse.Namespace) -> int:
    """Time models: milliseconds a call, or microseconds a kernel with the share of the measured peak."""
    import mcomp

    if arguments.kernels and len(arguments.file) > 1:
        raise McompError(f"--kernels times one file, and {len(arguments.file)} were given", code="MC0804",
                         help="give one file, or leave out --kernels")
    if arguments.kernels and arguments.seconds is not None:
        raise McompError("--kernels runs a fixed number of times, and --seconds was given", code="MC0804",
                         help="leave out one of them")
    sizes = made_up_sizes(arguments)
    models = [mcomp.load(f, trust_code=arguments.trust_code, threads=arguments.threads, isa=arguments.isa)
              for f in arguments.file]
    programs = [m.only_program("timed") for m in models]
    inputs = [
        read_arrays(arguments.input, [v.name for v in p.input_values()]) or example_arrays(p.graph, sizes) for p in programs
    ]
    if arguments.kernels:
        return _kernels(arguments, programs[0], inputs[0], models[0].target)
    runners = [(lambda p=p, i=i: p.run(i, numpy=True)) for p, i in zip(programs, inputs)]
    timing = interleave(runners, budget=_SECONDS if arguments.seconds is None else arguments.seconds)
    rows = []
    for index, file in enumerate(arguments.file):
        seconds = sorted(timing.seconds[index])
        rows.append({"file": file, "median_ms": timing.median(index) * 1e3, "min_ms": seconds[0] * 1e3,
                     "max_ms": seconds[-1] * 1e3, "speedup": timing.ratio(0, index),
                     "sizes": programs[index].symbols(inputs[index])})
    if arguments.json:
        emit_json(rows)
        return 0
    print_table("latency" + _at(*(r["sizes"] for r in rows)), [
        ("file", "l"), ("median ms", "r"), ("min", "r"), ("max", "r"), ("times the first", "r"),
    ], [
        (str(r["file"]), f"{r['median_ms']:.4g}", f"{r['min_ms']:.4g}", f"{r['max_ms']:.4g}", f"{r['speedup']:.2f}x")
        for r in rows
    ])
    return 0


def _kernels(arguments: argparse.Namespace, program: CompiledProgram, inputs: Sequence[Any], target: str) -> int:
    from mcomp.plan.peak import peak_fraction
    from mcomp.plan.profile import kernel_predictor

    symbols = program.symbols(inputs)
    kernels = program.executable.kernels(symbols)
    times = program.executable.profile(inputs, symbols, repeats=30)
    predict = kernel_predictor(target, arguments.threads)
    share = peak_fraction(target, arguments.threads)
    rows: list[dict[str, Any]] = []
    for kernel, time in zip(kernels, times):
        fraction, bound = share(kernel, time)
        rows.append({
            "kernel": kernel.name, "ops": " ".join(kernel.ops), "layers": list(kernel.layers), "native": kernel.native,
            "us": time, "predicted_us": predict(kernel), "flops": kernel.flops, "bytes": kernel.read + kernel.write,
            "peak_fraction": fraction, "bound": bound, "sizes": symbols,
        })
    if arguments.json:
        emit_json(rows)
        return 0
    total = sum(times)
    print_table(f"kernels{_at(symbols)}, {total:.1f} us in all", [
        ("kernel", "l"), ("ops", "l"), ("us", "r"), ("share", "r"), ("predicted", "r"), ("of peak", "r"), ("bound", "l"),
        ("layers", "l"),
    ], [
        (str(r["kernel"]), str(r["ops"]), f"{r['us']:.1f}", f"{r['us'] / max(total, 1e-9):.1%}",
         "-" if r["predicted_us"] is None else f"{r['predicted_us']:.1f}",
         "-" if r["peak_fraction"] is None else f"{r['peak_fraction']:.0%}", str(r["bound"]), ", ".join(r["layers"][:3]))
        for r in rows
    ])
    return 0


def _at(*sizes: Mapping[str, int]) -> str:
    """The sizes of what is timed, for a title; those of several models once where they are the same."""
    texts = dict.fromkeys(sizes_text(s) for s in sizes if s)
    return f" at {' and '.join(texts)}" if texts else ""
