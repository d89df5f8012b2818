"""`mcomp bisect`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

from mcomp.commands.arrays import example_sizes, tensors_for
from mcomp.commands.common import INPUTS, emit_json, find_reference, made_up_sizes, open_graph, tell_sizes


def add(parser: argparse.ArgumentParser) -> None:
    """Options."""
    parser.add_argument("file", help="a .mir or .mcomp file, or a reproducer's folder")
    parser.add_argument("--pipeline", required=True, help='passes, such as "fold,cse,dce"')
    parser.add_argument("--weights", help="safetensors file with the weights of a .mir file")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="relative L2 error that counts as broken")
    parser.add_argument("--check", metavar="FILE:FUNCTION", help="your own check: function(graph) -> bool")
    parser.add_argument("--input", action="append", default=[], metavar="NPY", help=INPUTS)
    parser.add_argument("--size", action="append", default=[], metavar="B=8")
    parser.add_argument("--json", action="store_true")


def run(arguments: argparse.Namespace) -> int:
    """Print the first pass and rewrite that break the check. 1 when there is one, 0 when all is well."""
    from mcomp.manager import Context
    from mcomp.manager.bisect import bisect
    from mcomp.runtime.calibration import Calibration

    sizes = made_up_sizes(arguments)
    graph = open_graph(arguments.file, arguments.weights)
    inputs = tensors_for(graph, arguments.input, sizes)
    used = None if arguments.input else example_sizes(graph, sizes)
    calibration = Calibration([inputs], given=bool(arguments.input))
    if arguments.check:
        check = find_reference(arguments.check)
    else:
        check = _same_numbers(graph, calibration, inputs, arguments.tolerance)
    culprit = bisect(graph, arguments.pipeline, check, lambda: Context(calibration=calibration))
    if arguments.json:
        found = None if culprit is None else {"pass": culprit.index, "text": culprit.text, "rewrite": culprit.rewrite,
                                              "record": str(culprit.record) if culprit.record else None, "sizes": used}
        if found is None:
            tell_sizes(used or {}, sys.stderr)
        emit_json(found)
    else:
        tell_sizes(used or {})
        print("the check holds after the whole pipeline" if culprit is None else f"the check breaks in {culprit}")
    return 0 if culprit is None else 1


def _same_numbers(graph: Any, calibration: Any, inputs: list[Any], tolerance: float) -> Callable[[Any], bool]:
    from mcomp.ops.evaluate import run_graph
    from mcomp.plan.quality import relative_error

    given = calibration.inputs(graph, inputs)
    expected = list(run_graph(graph, given))

    def check(trial: Any) -> bool:
        return relative_error([list(run_graph(trial, given))], [expected]) <= tolerance

    return check

