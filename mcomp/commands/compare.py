"""`mcomp compare`."""

from __future__ import annotations

import argparse
import math

from mcomp.commands.arrays import example_sizes, tensors_for
from mcomp.commands.common import INPUTS, emit_json, made_up_sizes, open_graph, print_table, tell_sizes


def add(parser: argparse.ArgumentParser) -> None:
    """Options."""
    parser.add_argument("first", help="a .mcomp or .mir file: the reference")
    parser.add_argument("second", help="another version of it, or another stage")
    parser.add_argument("--weights", help="safetensors file with the weights of .mir files")
    parser.add_argument("--input", action="append", default=[], metavar="NPY", help=INPUTS)
    parser.add_argument("--size", action="append", default=[], metavar="B=8")
    parser.add_argument("--tolerance", type=float, default=1e-3, help="relative L2 error from which a layer diverges")
    parser.add_argument("--all", action="store_true", help="list every value, not only the last of each layer")
    parser.add_argument("--json", action="store_true")


def run(arguments: argparse.Namespace) -> int:
    """Compare values of the same name in both graphs, and their outputs. 1 when some layer or output diverges."""
    from mcomp.runtime.compare import compare_graphs

    sizes = made_up_sizes(arguments)
    first, second = (open_graph(f, arguments.weights) for f in (arguments.first, arguments.second))
    inputs = tensors_for(first, arguments.input, sizes)
    used = None if arguments.input else example_sizes(first, sizes)
    rows = compare_graphs(first, second, inputs, every=arguments.all)
    diverging = next((r for r in rows if not r.error <= arguments.tolerance), None)
    if arguments.json:
        emit_json({"rows": [vars(r) | {"snr_db": r.snr_db} for r in rows],
                   "first_divergence": diverging.layer if diverging else None, "sizes": used})
        return 1 if diverging else 0
    tell_sizes(used or {})
    print_table(f"{arguments.second} against {arguments.first}", [
        ("layer", "l"), ("value", "l"), ("relative error", "r"), ("signal to noise", "r"), ("", "l"),
    ], [
        (r.layer or "(model)", f"%{r.value}", f"{r.error:.3e}", _decibel(r.snr_db),
         "<- first to diverge" if r is diverging else "")
        for r in rows
    ])
    if diverging is None:
        print(f"no layer differs by more than {arguments.tolerance:g}")
        return 0
    print(f"the first layer that differs by more than {arguments.tolerance:g} is {diverging.layer or diverging.value}")
    return 1


def _decibel(value: float) -> str:
    """`equal` without an error, `-` for an infinite one."""
    if value == math.inf:
        return "equal"
    return f"{value:.1f} dB" if math.isfinite(value) else "-"
