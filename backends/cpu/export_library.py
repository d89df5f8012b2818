"""What is exported as a C library: the program, and what C calls it, its tensors and sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mcomp.backend import Interface
from mcomp.backends.cpu.emit import SegmentCode
from mcomp.backends.cpu.executor import Code
from mcomp.backends.cpu.kernel import Program, Segment
from mcomp.ir.dims import Bounds
from mcomp.ir.dtypes import DType
from mcomp.ir.graph import Value
from mcomp.runtime.export_c import identifiers

_C_TYPES = {
    "f64": "double", "f32": "float", "i64": "int64_t", "i32": "int32_t", "i16": "int16_t", "i8": "int8_t", "u8": "uint8_t",
    "bool": "uint8_t", "f16": "uint16_t", "bf16": "uint16_t", "f8e4m3": "uint8_t", "f8e5m2": "uint8_t",
    "complex64": "float",
}
_NOTES = {"bool": "0 or 1", "f16": "bits of half floats", "bf16": "bits of bfloat16", "f8e4m3": "bits of fp8",
          "f8e5m2": "bits of fp8", "complex64": "real and imaginary parts in turns"}


@dataclass(frozen=True)
class Library:
    """Everything that the files are written from."""

    program: Program
    main: Segment
    codes: Sequence[SegmentCode]
    code: Code
    interface: Interface

    @property
    def name(self) -> str:
        return self.interface.name

    @property
    def symbols(self) -> dict[str, tuple[str, Bounds]]:
        """Symbols of the graph: the name that C uses, and bounds."""
        names = identifiers(self.program.symbols, "size_", taken=(*self.interface.inputs, *self.interface.outputs))
        bounds = self.program.graph.symbols
        return {s: (name, bounds.get(s, Bounds())) for s, name in zip(self.program.symbols, names)}

    @property
    def inputs(self) -> list[tuple[str, Value]]:
        return list(zip(self.interface.inputs, self.program.graph.inputs))

    @property
    def outputs(self) -> list[tuple[str, Value]]:
        return list(zip(self.interface.outputs, self.program.graph.outputs))


def _shape_text(value: Value) -> str:
    return "[" + ", ".join(str(d) for d in value.tensor.shape) + "]"


def c_type(dtype: DType) -> str:
    """The type that C has for elements."""
    return _C_TYPES[dtype.name]


def tensor_lines(library: Library) -> list[str]:
    """A line for each input and output: name, element type, shape."""
    lines = []
    for kind, tensors in (("in ", library.inputs), ("out", library.outputs)):
        for n, v in tensors:
            note = _NOTES.get(v.tensor.dtype.name)
            lines.append(f"  {kind} {n}: {v.tensor.dtype}{_shape_text(v)}" + (f" ({note})" if note else ""))
    return lines
