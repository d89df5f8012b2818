"""Lowering a graph: walks over the nodes, asks for a kernel for each, keeps track of where values live."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mcomp.backend import Declined, lowering
from mcomp.backends.cpu.access import Access, Buffer, ConstSource, bytes_of, dense, row_major
from mcomp.backends.cpu.cxx import Computed, Real, Size, c_type, integer
from mcomp.backends.cpu.kernel import EncodedAccess, Kernel, KernelStep, Pointer, Program, Segment, Step, TorchStep, Work
from mcomp.backends.cpu.loops import channels_last, common_order, order_of
from mcomp.errors import BackendError
from mcomp.ir import dims
from mcomp.ir.dims import Dim
from mcomp.ir.encoding import DENSE, NM, BlockSparse, Scaled
from mcomp.ir.graph import Graph, Node, Value
from mcomp.ir.store import Weight
from mcomp.ir.types import TensorType
from mcomp.manager.context import Context
from mcomp.ops.base import total_bytes

TARGET = "cpu"
_KEEPS_ORDER = frozenset({"reshape", "squeeze", "unsqueeze", "contiguous", "dropout"})
Number = Any
"""A Python number or a Dim: the value of a `full`."""


class Builder:
    """Given to every lowering. Lowerings read operands with `read` or `contiguous`, make room for results with `write`
    (or declare them views with `bind`), and add kernels with `emit`."""

    def __init__(self, graph: Graph, context: Context | None = None) -> None:
        self.graph = graph
        self.context = context or Context(target=TARGET)
        self.steps: list[Step] = []
        self.packing: list[KernelStep] = []
        self.outputs = [Buffer("output", _bytes_of(v), i) for i, v in enumerate(graph.outputs)]
        self._places: dict[Value, Access | EncodedAccess] = {}
        self._numbers: dict[Value, Number] = {}
        self._alias: dict[Value, Value] = {}
        self._copies: dict[tuple[Value, tuple[int, ...]], Access] = {}
        self._consts: dict[ConstSource, Buffer] = {}
        self._packed: dict[tuple[Any, ...], Buffer] = {}
        self._taken: set[int] = set()
        self._node: Node | None = None
        self._part: tuple[Node, ...] = ()
        for i, value in enumerate(graph.inputs):
            buffer = Buffer("input", _bytes_of(value), i)
            self._places[value] = dense(buffer, value.type.dtype, _shape(value))

    # reading

    def number(self, value: Value | None) -> Number | None:
        """The number that every element of a value is, when it is a `full`; else None."""
        return None if value is None else self._numbers.get(self._origin(value))

    def read(self, value: Value) -> Access:
        """Where the elements of a dense value are, with whatever strides they have."""
        place = self.place(value)
        if isinstance(place, Access):
            return place
        if self.weight(value) is not None:
            return self.decoded(value)
        values = place.part("values")
        order = None if values is None else order_of(values)
        key = (self._origin(value), tuple(range(value.tensor.rank)) if order is None else order)
        if key not in self._copies:
            self._copies[key] = self._decode(place)
        return self._copies[key]

    def place(self, value: Value) -> Access | EncodedAccess:
        """Where a value is: one access, or one per part of its encoding."""
        value = self._origin(value)
        if value not in self._places:
            if value in self._numbers:
                return self._filled(value)
            if value.is_const:
                self._places[value] = self._const(value)
            else:
                raise BackendError(f"%{value.name} has no place", where=value.producer.layer if value.producer else None)
        return self._places[value]

    def known_place(self, value: Value) -> Access | EncodedAccess | None:
        """Where a value was put so far, if anywhere."""
        return self._places.get(self._origin(value))

    def contiguous(self, value: Value, order: Sequence[int] | None = None) -> Access:
        """The elements of a value without gaps, axes from slowest to fastest as in `order` (default: row-major); copied
        when they are not so already."""
        value = self._origin(value)
        access = self.read(value)
        if access.is_dense(order):
            return access
        chosen = tuple(order) if order is not None else tuple(range(access.rank))
        key = (value, chosen)
        if key not in self._copies:
            copy = self.temp(access.dtype, access.shape, chosen)
            self.copy(access, copy)
            self._copies[key] = copy
        return self._copies[key]

    def weight(self, value: Value | None) -> Weight | None:
        """The constant that a value is, or None."""
        return None if value is None else self._origin(value).weight

    def decoded(self, value: Value) -> Access:
        """A constant as a dense array, decoded once when the code is loaded."""
        weight = self.weight(value)
        if weight is None:
            raise BackendError(f"%{value.name} is no constant")
        type = weight.type
        decoded = type.encoding != DENSE
        if isinstance(type.encoding, (NM, BlockSparse)) and self._node is not None:
            from mcomp.backends.cpu.lower.sparse import decoded_because

            self.context.missed("lower", self._node, f"its weight, {type.encoding}, is decoded when the code is loaded",
                                decoded_because(type.encoding))
        source = ConstSource(weight.digest, "values", decoded)
        return dense(self._source(source, bytes_of(type.dtype, type.numel)), type.dtype, type.shape)

    # writing

    def write(self, value: Value, order: Sequence[int] | None = None) -> Access:
        """Memory for a result, dense with axes in this order: the caller's for an output in row-major order."""
        dtype, shape = value.type.dtype, _shape(value)
        access = dense(self._room(value, order), dtype, shape, order)
        self._places[value] = access
        return access

    def is_output(self, value: Value) -> bool:
        """Whether the caller receives a value, perhaps under another shape."""
        return any(self._same(output, value) for output in self.graph.outputs)

    def result_order(self, value: Value, operands: Sequence[Access]) -> tuple[int, ...] | None:
        """The order of axes for an element-wise result: that of its operands, row-major for what the caller receives."""
        if self.is_output(value):
            return None
        return common_order(value.tensor.shape, operands)

    def follow(self, value: Value, *operands: Value) -> tuple[int, ...] | None:
        """Channels-last for a result when its operands are dense so and the caller does not receive it; else None."""
        order = channels_last(value.tensor.rank)
        if order is None or self.is_output(value):
            return None
        fits = all(self.read(x).rank == value.tensor.rank and self.read(x).is_dense(order) for x in operands)
        plain = all(self.read(x).is_dense() for x in operands)
        return order if fits and not plain else None

    def write_encoded(self, value: Value, order: Sequence[int] | None = None) -> EncodedAccess:
        """Memory for the parts of an encoded result, axes in this order."""
        parts = []
        for name, buffer in value.tensor.encoding.buffers(value.tensor).items():
            parts.append((name, dense(Buffer("temp", buffer.nbytes), buffer.dtype, buffer.shape, order)))
        place = EncodedAccess(value.tensor, tuple(parts))
        self._places[value] = place
        return place

    def bind(self, value: Value, access: Access | EncodedAccess) -> None:
        """Declare that a result is a view of memory that holds it already."""
        self._places[value] = access

    def bind_number(self, value: Value, number: Number) -> None:
        """Declare that every element of a result is this number."""
        self._numbers[value] = number

    def alias(self, value: Value, of: Value) -> None:
        """Declare that a value is another one."""
        self._alias[value] = self._origin(of)

    def rename(self, result: Value, inside: Value) -> None:
        """Declare that a result of a fused node is a value of its body that is still to be computed."""
        self._alias[result] = inside

    def temp(self, dtype: Any, shape: Sequence[Dim], order: Sequence[int] | None = None) -> Access:
        """Memory for something in between."""
        return dense(Buffer("temp", bytes_of(dtype, dims.product(tuple(shape)))), dtype, shape, order)

    def scratch(self, size: Size, name: str = "scratch") -> Pointer:
        """Memory that one kernel needs while it runs, 64-byte aligned."""
        from mcomp.ir.dtypes import u8

        return Pointer(name, "char", Access(Buffer("scratch", size), u8, (0,), (1,)), write=True)

    def packed(self, key: tuple[Any, ...], size: Size, kernel: Any) -> Buffer:
        """Memory that `kernel(buffer)` fills once, when the code is loaded. Equal keys share it."""
        if key not in self._packed:
            buffer = Buffer("packed", size)
            self._packed[key] = buffer
            self.packing.append(KernelStep(kernel(buffer), None))
        return self._packed[key]

    def prepare(self, value: Value, key: tuple[Any, ...], size: Size, kernel: Callable[[Buffer], Kernel]) -> Buffer:
        """Another form of an operand: made once when it is a constant, else by a kernel before every use."""
        weight = self.weight(value)
        if weight is not None:
            return self.packed((weight.digest, *key), size, kernel)
        buffer = Buffer("temp", size)
        self.emit(kernel(buffer), Work(0, value.tensor.nbytes, value.tensor.nbytes))
        return buffer

    def emit(self, kernel: Kernel, work: Work | None = None) -> None:
        """Add a kernel. Its work is that of the node, or of the part of it that is being lowered, unless given."""
        node, part = self._node, self._part
        chosen = work
        if chosen is None:
            chosen = work_of_part(part) if part else Work() if node is None else work_of(node)
        names = tuple(n.op.name for n in part) if part else () if node is None else op_names(node)
        self.steps.append(KernelStep(kernel, node, chosen, names))

    def copy(self, source: Access, target: Access, *, piece: bool = False) -> None:
        """Add a kernel that copies elements; see `KernelStep` for `piece`."""
        from mcomp.backends.cpu.lower.shape import copy_kernel

        moved = bytes_of(source.dtype, source.numel)
        self.steps.append(KernelStep(copy_kernel(source, target), self._node, Work(0, moved, moved), ("copy",), piece))

    def call(
        self, name: str, text: str, *, outs: Mapping[str, Access], ins: Mapping[str, Access | None],
        numbers: Mapping[str, Size | Real] | None = None, headers: Sequence[str], scratch: Size | None = None,
        work: Work | None = None,
    ) -> None:
        """Add a kernel whose body is `text` over these pointers and numbers; absent inputs are left out. `work`: as
        `emit` takes it."""
        pointers = [pointer(n, a, write=True) for n, a in outs.items()]
        pointers += [pointer(n, a) for n, a in ins.items() if a is not None]
        if scratch is not None:
            pointers.append(self.scratch(scratch))
        self.emit(Kernel(name, text, tuple(pointers), tuple((numbers or {}).items()), tuple(headers)), work)

    def array(self, name: str, sizes: Sequence[Dim]) -> tuple[str, tuple[tuple[str, Dim], ...]]:
        """C++ text of a local array of sizes, and the numbers it needs: small literals stay literals."""
        texts, numbers = [], []
        for i, size in enumerate(sizes):
            if isinstance(size, int) and size in (0, 1):
                texts.append(integer(size))
            else:
                texts.append(f"{name}{i}")
                numbers.append((f"{name}{i}", size))
        return "{" + ", ".join(texts or ["0"]) + "}", tuple(numbers)

    # walking

    def build(self) -> Program:
        """Lower the whole graph."""
        for node in self.graph.nodes:
            self.lower(node)
        self._node = None
        for value, buffer in zip(self.graph.outputs, self.outputs):
            access = self.read(value)
            if access.buffer is not buffer or access.offset != 0 or not access.is_dense():
                self.copy(access, dense(buffer, access.dtype, access.shape))
        return Program(
            self.graph, tuple(sorted(self.graph.symbols)), _split(self.steps), Segment(self.packing), self.outputs
        )

    def lower(self, node: Node) -> None:
        """Lower one node: by its lowering, else its body node by node, else torch."""
        if node.op.name == "const":
            return
        outer, self._node = self._node, node
        rule = None if _has_scaled(node) else lowering(node, TARGET)
        result = Declined("there is no kernel for it") if rule is None else self.attempt(lambda: rule(node, self))
        if isinstance(result, Declined):
            self.context.missed("lower", node, f"{node.op.name}: {result.reason}", result.remedy)
            self._torch(node)
        self._node = outer

    def attempt(self, rule: Callable[[], Declined | None], part: Sequence[Node] = ()) -> Declined | None:
        """Run a lowering; when it declines, what it added and declared is undone. `part`: the nodes of a fused body that it
        computes, where those are not all."""
        places, numbers, alias = dict(self._places), dict(self._numbers), dict(self._alias)
        copies, taken, mark = dict(self._copies), set(self._taken), len(self.steps)
        outer, self._part = self._part, tuple(part) or self._part
        result = rule()
        self._part = outer
        if isinstance(result, Declined):
            del self.steps[mark:]
            self._places, self._numbers, self._alias, self._copies, self._taken = places, numbers, alias, copies, taken
        return result

    def _torch(self, node: Node) -> None:
        inputs: list[Access | EncodedAccess | None] = []
        for value in node.operands:
            if value is None:
                inputs.append(None)
                continue
            place = self.place(value)
            coded = isinstance(value.type, TensorType) and value.tensor.encoding != DENSE
            inputs.append(place if isinstance(place, EncodedAccess) and coded else self._whole(value))
        outputs: list[Access | EncodedAccess] = []
        for value in node.results:
            if isinstance(value.type, TensorType) and value.tensor.encoding != DENSE:
                outputs.append(self.write_encoded(value))
            else:
                outputs.append(self.write(value))
        self.steps.append(TorchStep(node, inputs, outputs, work_of(node)))

    def _whole(self, value: Value) -> Access:
        """A dense row-major access that covers its buffer from the start."""
        access = self.contiguous(value)
        if access.offset == 0:
            return access
        copy = self.temp(access.dtype, access.shape)
        self.copy(access, copy)
        return copy

    # places

    def _origin(self, value: Value) -> Value:
        while value in self._alias and value not in self._places:
            value = self._alias[value]
        return value

    def _room(self, value: Value, order: Sequence[int] | None) -> Buffer:
        shape = _shape(value)
        plain = order is None or row_major(shape, order) == row_major(shape)
        if plain and self._node is not None:
            for index, output in enumerate(self.graph.outputs):
                if index not in self._taken and self._same(output, value):
                    self._taken.add(index)
                    return self.outputs[index]
        return Buffer("temp", bytes_of(value.type.dtype, dims.product(shape)))

    def _same(self, output: Value, value: Value) -> bool:
        """Whether a graph output is this value or another shape of it, perhaps under the name of the fused node whose
        body computes it."""
        while output is not value:
            producer = output.producer
            if output in self._alias:
                output = self._alias[output]
            elif producer is not None and producer.op.name in _KEEPS_ORDER:
                output = producer.operand(0)
            else:
                return False
        return True

    def _const(self, value: Value) -> Access | EncodedAccess:
        weight = value.weight
        assert weight is not None
        if weight.type.encoding == DENSE:
            return self.decoded(value)
        parts = []
        for name, buffer in weight.type.encoding.buffers(weight.type).items():
            source = ConstSource(weight.digest, name)
            parts.append((name, dense(self._source(source, buffer.nbytes), buffer.dtype, buffer.shape)))
        return EncodedAccess(value.tensor, tuple(parts))

    def _source(self, source: ConstSource, size: Dim) -> Buffer:
        if source not in self._consts:
            self._consts[source] = Buffer("const", size, source=source)
        return self._consts[source]

    def _decode(self, place: EncodedAccess) -> Access:
        from mcomp.backends.cpu.lower.quantize import decode_kernel

        type = place.type
        values = place.part("values")
        assert values is not None
        target = self.temp(type.dtype, type.shape, order_of(values))
        self.emit(decode_kernel(place, target), Work(type.numel, type.nbytes, target.numel))
        return target

    def _filled(self, value: Value) -> Access:
        from mcomp.backends.cpu.lower.creation import fill_kernel

        type = value.tensor
        key = (value, tuple(range(type.rank)))
        if key not in self._copies:
            target = self.temp(type.dtype, type.shape)
            self.emit(fill_kernel(target, self._numbers[value]), Work(0, 0, type.nbytes))
            self._copies[key] = target
        return self._copies[key]


def pointer(name: str, access: Access, *, write: bool = False) -> Pointer:
    """A pointer to the elements of an access, of their stored C++ type."""
    return Pointer(name, c_type(access.dtype), access, write)


def computed(text: str, *sizes: Dim) -> Computed:
    """A size that C++ computes; see `Computed`."""
    return Computed(text, tuple(sizes))


def work_of(node: Node) -> Work:
    """The work of a node as its operator counts it."""
    cost = node.op.node_cost(node)
    return Work(cost.flops, cost.read, cost.write)


def work_of_part(nodes: Sequence[Node]) -> Work:
    """The work of some nodes computed as one: values that only they use are neither read nor written."""
    inside = set(nodes)
    read = dict.fromkeys(v for n in nodes for v in n.operands if v is not None and v.producer not in inside)
    write = [v for n in nodes for v in n.results if any(u not in inside for u in v.users)]
    flops: Dim = 0
    for node in nodes:
        flops = dims.add(flops, node.op.node_cost(node).flops)
    moved = [total_bytes([v.type for v in values if isinstance(v.type, TensorType)]) for values in (read, write)]
    return Work(flops, *moved)


def op_names(node: Node) -> tuple[str, ...]:
    """Names of the operators that a node computes."""
    if node.op.name == "fused":
        return tuple(n.op.name for n in node.attrs["body"].nodes if n.op.name not in ("const", "full"))
    return (node.op.name,)


def _shape(value: Value) -> tuple[Dim, ...]:
    """The shape of a tensor; a scalar has no axes."""
    return value.type.shape if isinstance(value.type, TensorType) else ()


def _bytes_of(value: Value) -> Dim:
    return bytes_of(value.type.dtype, dims.product(_shape(value)))


def _split(steps: Sequence[Step]) -> list[Segment | TorchStep]:
    parts: list[Segment | TorchStep] = []
    run: list[KernelStep] = []
    for step in steps:
        if isinstance(step, KernelStep):
            run.append(step)
            continue
        if run:
            parts.append(Segment(run))
            run = []
        parts.append(step)
    if run:
        parts.append(Segment(run))
    return parts


def _has_scaled(node: Node) -> bool:
    """Whether a node reads or gives floats of 8 bits with scales, which no CPU multiplies."""
    types = [v.type for v in (*node.operands, *node.results) if v is not None]
    return any(isinstance(t, TensorType) and isinstance(t.encoding, Scaled) for t in types)
