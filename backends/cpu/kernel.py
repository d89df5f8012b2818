"""What lowering produces: kernels with their arguments, steps in order, and the program they make up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from mcomp.backends.cpu.access import Access, Buffer
from mcomp.backends.cpu.cxx import Real, Size
from mcomp.ir.dims import Dim
from mcomp.ir.dtypes import f32
from mcomp.ir.encoding import Affine
from mcomp.ir.graph import Graph, Node, Value
from mcomp.ir.types import TensorType


@dataclass(frozen=True)
class Pointer:
    """A pointer argument: the name that the body uses, its C++ element type, what it points to, and how it is used."""

    name: str
    type: str
    access: Access
    write: bool = False


@dataclass(frozen=True)
class Kernel:
    """A C++ function body over named pointers and numbers.

    `body` may use `w` (the Worker), `fault` (the Fault of this step), the pointers and the numbers. Kernels with one body
    and one signature become one function, so that what differs between layers belongs into `numbers` (int64, or double
    for Real). `headers` are names of kernel headers.
    """

    name: str
    body: str
    pointers: tuple[Pointer, ...]
    numbers: tuple[tuple[str, Size | Real], ...] = ()
    headers: tuple[str, ...] = ()

    @property
    def reads(self) -> list[Buffer]:
        return [p.access.buffer for p in self.pointers if not p.write]

    @property
    def writes(self) -> list[Buffer]:
        return [p.access.buffer for p in self.pointers if p.write]


@dataclass(frozen=True)
class Work:
    """Operations, bytes read and bytes written by one step."""

    flops: Dim = 0
    read: Dim = 0
    write: Dim = 0


@dataclass
class KernelStep:
    """A kernel at its place. `node` is the node of the graph (or body) it computes, None for packing and final copies.

    `piece`: it writes a part of its results that no other piece of the same node writes, so that pieces may overlap.
    """

    kernel: Kernel
    node: Node | None
    work: Work = field(default_factory=Work)
    ops: tuple[str, ...] = ()
    piece: bool = False


@dataclass
class TorchStep:
    """A node that torch runs. `inputs` are dense row-major accesses to whole buffers; a tuple of them, by part name, for
    an encoded operand."""

    node: Node
    inputs: list[Access | EncodedAccess | None]
    outputs: list[Access | EncodedAccess]
    work: Work = field(default_factory=Work)


@dataclass(frozen=True)
class EncodedAccess:
    """The buffers of an encoded tensor by part name. Its type says how they stand for numbers; a view of it need not be a
    value of the graph."""

    type: TensorType
    parts: tuple[tuple[str, Access], ...]

    def part(self, name: str) -> Access | None:
        """The access of a part, or None when the encoding does not store it."""
        return next((a for n, a in self.parts if n == name), None)

    @property
    def static_bytes(self) -> tuple[Access, float, int] | None:
        """The bytes of a float32 tensor, with the scale and the zero point that all of them have and that are known when
        compiling: an element is scale * (byte - zero point). None for other encodings."""
        encoding, values = self.type.encoding, self.part("values")
        if not isinstance(encoding, Affine) or encoding.dtype.bits != 8 or self.type.dtype is not f32:
            return None
        return None if encoding.scale is None or values is None else (values, encoding.scale, encoding.zero)

    def moved(self, result: Value, values: Access) -> EncodedAccess:
        """A dense result whose bytes, at `values`, stand for numbers as those of this value do."""
        return EncodedAccess(replace(result.tensor, encoding=self.type.encoding), (("values", values),))


Step = KernelStep | TorchStep


@dataclass
class Segment:
    """Kernels that run in one parallel region. `buffers` in the order of the region's slots."""

    steps: list[KernelStep]
    buffers: list[Buffer] = field(default_factory=list)

    def slot(self, buffer: Buffer) -> int:
        return self._slots[buffer]

    def __post_init__(self) -> None:
        found: dict[Buffer, None] = {}
        for step in self.steps:
            for pointer in step.kernel.pointers:
                found[pointer.access.buffer] = None
        self.buffers = list(found)
        self._slots = {b: i for i, b in enumerate(self.buffers)}


@dataclass
class Program:
    """A lowered graph: segments of native code between steps that torch runs, and a segment that packs constants."""

    graph: Graph
    symbols: tuple[str, ...]
    parts: list[Segment | TorchStep]
    packing: Segment
    outputs: list[Buffer]

    @property
    def segments(self) -> list[Segment]:
        """The native segments, packing first."""
        return [self.packing, *(p for p in self.parts if isinstance(p, Segment))]


def arguments(*pointers: Pointer | None) -> tuple[Pointer, ...]:
    """The present ones among optional pointers."""
    return tuple(p for p in pointers if p is not None)


def unique(items: Sequence[str]) -> tuple[str, ...]:
    """Items without repetition, in order."""
    return tuple(dict.fromkeys(items))
