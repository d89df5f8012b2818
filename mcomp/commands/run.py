"""`mcomp run`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mcomp.commands.arrays import example_arrays, read_arrays
from mcomp.commands.common import INPUTS, emit_json, made_up_sizes, tell_sizes, writable
from mcomp.errors import CallError
from mcomp.files import replacing
from mcomp.ir.types import TensorType, Type
from mcomp.runtime.program import CompiledProgram


def add(parser: argparse.ArgumentParser) -> None:
    """Options."""
    parser.add_argument("file", help="a .mcomp file")
    parser.add_argument("--input", action="append", default=[], metavar="NPY", help=INPUTS)
    parser.add_argument("--size", action="append", default=[], metavar="B=8", help="size of a symbol for made-up inputs")
    parser.add_argument("-o", "--output", metavar="NPZ", help="where to write the results: .npz, or .npy for a single one")
    parser.add_argument("--trust-code", action="store_true", help="use the compiled code in the file")
    parser.add_argument("--isa", help="instruction set to use, such as avx2 (default: that of the file's code where it is "
                        "used, else the best of this machine)")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", action="store_true")


def run(arguments: argparse.Namespace) -> int:
    """Run on arrays (made-up ones without --input), tell their sizes, and write or describe the flat results."""
    import mcomp

    sizes = made_up_sizes(arguments)
    if arguments.output:
        writable(arguments.output)
    model = mcomp.load(arguments.file, trust_code=arguments.trust_code, threads=arguments.threads, isa=arguments.isa)
    program = model.only_program("run")
    types = _result_types(program)
    if arguments.output and arguments.output.endswith(".npy") and len(types) != 1:
        raise CallError(f"{arguments.output} holds one array, and the model returns {len(types)}", help="write a .npz file")
    inputs = read_arrays(arguments.input, [v.name for v in program.input_values()])
    inputs = inputs or example_arrays(program.graph, sizes)
    outputs = program.run(inputs, numpy=True)
    if arguments.output:
        _write(Path(arguments.output), outputs)
    rows = [_row(i, output, type) for i, (output, type) in enumerate(zip(outputs, types, strict=True))]
    used = program.symbols(inputs)
    if arguments.json:
        emit_json([row | {"sizes": used} for row in rows])
    else:
        tell_sizes(used)
        for row in rows:
            print(f"output {row['output']}: {row['dtype']}{row['shape']}, mean {row['mean']}")
    return 0


def _result_types(program: CompiledProgram) -> list[Type]:
    return [v.type for v, s in zip(program.graph.outputs, program.graph.output_specs) if s.kind == "result"]


def _write(path: Path, outputs: Sequence[np.ndarray]) -> None:
    """Whole or not at all, under the very name that was asked for; numpy would add one more ending."""
    named: dict[str, Any] = {f"output{i}": o for i, o in enumerate(outputs)}
    with replacing(path) as temporary, open(temporary, "wb") as file:
        if path.suffix == ".npy":
            np.save(file, outputs[0])
        else:
            np.savez(file, **named)


def _row(index: int, output: np.ndarray, type: Type) -> dict[str, Any]:
    """What an output is; of bf16 and fp8, which numpy lacks, the mean is of what their bits mean."""
    dtype, values = str(output.dtype), output
    if isinstance(type, TensorType) and not type.dtype.is_numpy_native:
        dtype, values = str(type.dtype), type.dense().encoding.decode({"values": output}, type.dense())
    mean = float(np.mean(values)) if values.size and values.dtype.kind in "fiub" else None
    return {"output": index, "dtype": dtype, "shape": list(output.shape), "mean": mean}
