"""`mcomp optimize`."""

from __future__ import annotations

import argparse

from mcomp.commands.common import emit_json, open_source, writable


def add(parser: argparse.ArgumentParser) -> None:
    """Options."""
    parser.add_argument("source", help="package.module:function or file.py:function; it returns (module, args), or a "
                        "dict with model, args, kwargs, calibration, evaluate, dynamic, layers, students, seed: those of "
                        "mcomp.optimize")
    parser.add_argument("-o", "--output", required=True, help="where to save the .mcomp file")
    parser.add_argument("--pipeline", help='passes to run, such as "quantize{bits=8}"')
    parser.add_argument("--max-drop", type=float, help="how much evaluate may drop")
    parser.add_argument("--max-error", type=float, help="relative L2 error that outputs may have")
    parser.add_argument("--objective", choices=["latency", "size", "memory", "balanced"], default="latency")
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--exclude", action="append", default=[], help="module path pattern to leave alone; repeatable")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--time-limit", type=float, help="seconds for the search")
    parser.add_argument("--resume", metavar="DIR", help="keep the search in a folder, and go on from what is there")
    parser.add_argument("--no-code", action="store_true", help="leave compiled code out of the file")
    parser.add_argument("--dump", metavar="DIR", help="also write IR, source and report to a folder")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Compile, print the report, dump, save. 1 when a budget was not met, or could not be judged (the best model is saved
    all the same)."""
    import mcomp
    from mcomp.errors import CaptureError

    writable(arguments.output)
    source = open_source(arguments.source)
    if source.args is None and source.kwargs is None:
        raise CaptureError(f"{arguments.source} gives no example arguments", code="MC0304",
                           help="return (model, args), or a dict with model and args")
    fast = mcomp.optimize(
        source.model, source.args, source.kwargs, calibration=source.calibration, evaluate=source.evaluate,
        pipeline=arguments.pipeline, max_drop=arguments.max_drop, max_error=arguments.max_error,
        objective=arguments.objective, target=arguments.target, exclude=arguments.exclude, threads=arguments.threads,
        time_limit=arguments.time_limit, resume=arguments.resume, dynamic=source.dynamic, layers=source.layers,
        students=source.students, seed=source.seed,
    )
    report = fast.report()
    if arguments.json:
        emit_json(report.to_json())
    else:
        report.print()
    try:
        if arguments.dump:
            fast.dump(arguments.dump)
    finally:
        fast.save(arguments.output, code=not arguments.no_code)
    if not arguments.json:
        print(f"saved as {arguments.output}")
    return 1 if report.budget and not report.within_budget else 0
