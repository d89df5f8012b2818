"""`mcomp run`."""

from __future__ import annotations

import argparse

import numpy as np

from mcomp.commands.common import emit_json, example_arrays, parse_sizes, read_arrays, writable


def add(parser: argparse.ArgumentParser) -> None:
    """Options."""
    parser.add_argument("file", help="a .mcomp file")
    parser.add_argument("--input", action="append", default=[], metavar="NPY", help=".npy or .npz with arguments, in order")
    parser.add_argument("--size", action="append", default=[], metavar="B=8", help="size of a symbol for made-up inputs")
    parser.add_argument("-o", "--output", metavar="NPZ", help="where to write the results")
    parser.add_argument("--trust-code", action="store_true", help="use the compiled code in the file")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", action="store_true")


def run(arguments: argparse.Namespace) -> int:
    """Run on arrays (made-up ones without --input) and write or describe the flat results."""
    import mcomp

    if arguments.output:
        writable(arguments.output)
    model = mcomp.load(arguments.file, trust_code=arguments.trust_code, threads=arguments.threads)
    program = model.only_program("run")
    inputs = read_arrays(arguments.input) or example_arrays(program.graph, parse_sizes(arguments.size))
    outputs = program.run(inputs, numpy=True)
    if arguments.output:
        np.savez(arguments.output, **{f"output{i}": o for i, o in enumerate(outputs)})
    rows = [{"output": i, "dtype": str(o.dtype), "shape": list(o.shape),
             "mean": float(np.mean(o)) if o.size and o.dtype.kind in "fiub" else None} for i, o in enumerate(outputs)]
    if arguments.json:
        emit_json(rows)
    else:
        for row in rows:
            print(f"output {row['output']}: {row['dtype']}{row['shape']}, mean {row['mean']}")
    return 0
