"""Lowering a graph: walks over the nodes, asks for a kernel for each, keeps track of where values live."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mcomp.backend import Declined, lowering
from mcomp.backends.triton.access import Buffer, Coded, ConstSource, Place, View, dense
from mcomp.backends.triton.program import Chip, Choice, Configs, Grid, Launch, Numbers, Program, Step, TorchStep, Work
from mcomp.backends.triton.text import KNOWN, KernelText
from mcomp.errors import BackendError
from mcomp.ir import dims
from mcomp.ir.dims import Dim
from mcomp.ir.dtypes import DType
from mcomp.ir.encoding import DENSE
from mcomp.ir.graph import Graph, Node, Value
from mcomp.ir.store import Weight
from mcomp.ir.types import TensorType
from mcomp.manager.context import Context
from mcomp.ops.base import total_bytes
from mcomp.ops.workload import PRODUCTS, compute_kind

TARGET = "cuda"
FUSION = "fuse{inputs=true}"
"""How graphs are fused for this backend."""


class Builder:
    """Given to every lowering. Lowerings read operands with `read`, make room for results with `write` (or declare them
    views with `bind`), and add kernels with `emit`."""

    def __init__(self, graph: Graph, context: Context | None = None) -> None:
        self.graph = graph
        self.context = context or Context(target=TARGET)
        self.steps: list[Step] = []
        self._places: dict[Value, Place] = {}
        self._numbers: dict[Value, Any] = {}
        self._alias: dict[Value, Value] = {}
        self._copies: dict[tuple[Value, tuple[int, ...]], View] = {}
        self._consts: dict[ConstSource, Buffer] = {}
        self._node: Node | None = None
        self._part: tuple[Node, ...] = ()
        self.inputs: list[Buffer] = []
        for i, value in enumerate(graph.inputs):
            shape = shape_of(value)
            buffer = Buffer("input", value.type.dtype, dims.product(shape), i)
            self.inputs.append(buffer)
            self._places[value] = dense(buffer, shape)

    # reading

    def number(self, value: Value | None) -> Any:
        """The number that every element of a value is, when it is a `full`; else None."""
        return None if value is None else self._numbers.get(self._origin(value))

    def place(self, value: Value) -> Place:
        """Where a value is: one view, or one per part of its encoding."""
        value = self._origin(value)
        if value not in self._places:
            if value in self._numbers:
                self._places[value] = self._filled(value)
            elif value.is_const:
                self._places[value] = self._const(value)
            else:
                raise BackendError(f"%{value.name} has no place", where=value.producer.layer if value.producer else None)
        return self._places[value]

    def read(self, value: Value) -> View:
        """Where the elements of a dense value are, with whatever strides they have; encoded values are decoded."""
        place = self.place(value)
        if isinstance(place, View):
            return place
        weight = self.weight(value)
        if weight is not None:
            return dense(self.constant(weight, "values", "decoded"), weight.type.shape)
        key = (self._origin(value), (-1,))
        if key not in self._copies:
            from mcomp.backends.triton.lower.quantize import decode

            self._copies[key] = decode(place, self)
        return self._copies[key]

    def contiguous(self, value: Value, order: Sequence[int] | None = None) -> View:
        """The elements of a value without gaps, axes in this order; copied when they are not so already."""
        view = self.read(value)
        if view.is_dense(order):
            return view
        key = (self._origin(value), tuple(order if order is not None else range(view.rank)))
        if key not in self._copies:
            copy = self.temp(view.dtype, view.shape, order)
            self.copy(view, copy)
            self._copies[key] = copy
        return self._copies[key]

    def weight(self, value: Value | None) -> Weight | None:
        """The constant that a value is, or None."""
        return None if value is None else self._origin(value).weight

    def constant(self, weight: Weight, part: str = "values", form: str = "plain") -> Buffer:
        """Memory of a constant in a form of `constants.py`, made when the program is loaded."""
        source = ConstSource(weight.digest, part, form)
        if source not in self._consts:
            type = weight.type
            plain = form.startswith("decoded")
            stored = Buffer("const", type.dtype, type.numel, 0, source)
            if not plain:
                part_type = type.encoding.buffers(type)[part]
                dtype, count = part_type.dtype, dims.product(part_type.shape)
                from mcomp.ir.dtypes import i32, u8

                if form == "nibbles":
                    dtype, count = u8, dims.floordiv(count, 2)
                elif form == "row_sums":
                    dtype, count = i32, part_type.shape[0]
                elif form == "block_sums":
                    dtype, count = i32, type.shape[0]
                stored = Buffer("const", dtype, count, 0, source)
            self._consts[source] = stored
        return self._consts[source]

    # writing

    def write(self, value: Value, order: Sequence[int] | None = None) -> View:
        """Memory for a result, dense with axes in this order (row-major for what the caller receives)."""
        chosen = None if self.is_output(value) else order
        shape = shape_of(value)
        view = dense(Buffer("temp", value.type.dtype, dims.product(shape)), shape, chosen)
        self._places[value] = view
        return view

    def write_coded(self, value: Value, order: Sequence[int] | None = None) -> Coded:
        """Memory for the parts of an encoded result, axes in this order."""
        parts = tuple(
            (name, dense(Buffer("temp", part.dtype, dims.product(part.shape)), part.shape, order))
            for name, part in value.tensor.encoding.buffers(value.tensor).items()
        )
        place = Coded(value.tensor, parts)
        self._places[value] = place
        return place

    def is_output(self, value: Value) -> bool:
        """Whether the caller receives a value."""
        found = self._origin(value)
        return any(self._origin(output) is found for output in self.graph.outputs)

    def bind(self, value: Value, place: Place) -> None:
        """Declare that a result is a view of memory that holds it already."""
        self._places[value] = place

    def bind_number(self, value: Value, number: Any) -> None:
        """Declare that every element of a result is this number."""
        self._numbers[value] = number

    def alias(self, value: Value, of: Value) -> None:
        """Declare that a value is another one."""
        self._alias[value] = self._origin(of)

    def rename(self, result: Value, inside: Value) -> None:
        """Declare that a result of a fused node is a value of its body that is still to be computed."""
        self._alias[result] = inside

    def temp(self, dtype: DType, shape: Sequence[Dim], order: Sequence[int] | None = None) -> View:
        """Memory for something in between."""
        return dense(Buffer("temp", dtype, dims.product(tuple(shape))), shape, order)

    def copy(self, source: View, target: View) -> None:
        """Add a kernel that copies elements between views of one shape."""
        from mcomp.backends.triton.lower.elementwise import copy_kernel

        copy_kernel(source, target, self)

    def launch(
        self, base: str, text: KernelText, grid: Grid, configs: Configs, *, sizes: Mapping[str, Dim] | None = None,
        work: Work | None = None, kind: str = "", ops: tuple[str, ...] | None = None, dtypes: tuple[str, ...] = (),
    ) -> Launch:
        """A launch of a finished text; `emit` adds it. Equal texts get equal names."""
        import hashlib

        content = text.source("kernel")
        name = f"{base}_{hashlib.sha256(content.encode()).hexdigest()[:10]}"
        pointers = tuple((param, buffer, dtype) for (buffer, dtype), param in text.pointers.items())
        numbers = tuple((param, dim) for dim, param in text.numbers.items())
        part = self._part
        names = tuple(n.op.name for n in part) if part else () if self._node is None else op_names(self._node)
        chosen = work or (work_of_part(part) if part else Work() if self._node is None else work_of(self._node))
        return Launch(
            name, text.source(name), pointers, numbers, tuple((sizes or {}).items()), tuple(text.metas), grid, configs,
            tuple(text.written), self._node, chosen, ops if ops is not None else names, text.fault, kind or base, dtypes,
        )

    def missed(self, reason: str, remedy: str = "") -> None:
        """Leave a remark about the node that is being lowered."""
        if self._node is not None:
            self.context.missed("lower", self._node, reason, remedy)

    def emit(self, step: Step) -> None:
        """Add a step."""
        self.steps.append(step)

    def choose(
        self, ways: Sequence[tuple[str, Sequence[Launch | TorchStep]]], default: Callable[[Numbers, Chip], int],
        sizes: Mapping[str, Dim], most: Mapping[str, int] | None = None,
    ) -> None:
        """Add several ways to compute the same; see `Choice`."""
        if len(ways) == 1:
            for step in ways[0][1]:
                self.emit(step)
            return
        self.emit(Choice(tuple((n, tuple(s)) for n, s in ways), tuple(sizes.items()), default, most or {}))

    # walking

    def build(self) -> Program:
        """Lower the whole graph."""
        for node in self.graph.nodes:
            self.lower(node)
        self._node = None
        views = [self.read(v) for v in self.graph.outputs]
        outputs, taken = [], set()
        for value, view in zip(self.graph.outputs, views):
            if view.buffer.kind != "temp" or not view.covers() or view.buffer in taken:
                copy = self.temp(view.dtype, shape_of(value))
                if view.dtype.name in KNOWN:
                    self.copy(view, copy)
                else:
                    self.emit(TorchStep(value.producer or self.graph.returns, [view], [copy], call=_same))
                view = copy
            taken.add(view.buffer)
            outputs.append(view)
        for i, view in enumerate(outputs):
            view.buffer.kind, view.buffer.index = "output", i
        places = {v.name: p for v, p in self._places.items()}
        return Program(self.graph, self.steps, self.inputs, outputs, places)

    def lower(self, node: Node) -> None:
        """Lower one node: by its lowering, else in torch."""
        if node.op.name == "const":
            return
        outer, self._node = self._node, node
        rule = lowering(node, TARGET)
        result = Declined("there is no Triton kernel for it") if rule is None else self.attempt(lambda: rule(node, self))
        if isinstance(result, Declined):
            self.context.missed("lower", node, f"{node.op.name}: {result.reason}; torch runs it", result.remedy)
            self.torch(node)
        self._node = outer

    def attempt(self, rule: Callable[[], Declined | None], part: Sequence[Node] = ()) -> Declined | None:
        """Run a lowering; when it declines, what it added and declared is undone. `part`: the nodes of a fused body that it
        computes, where those are not all."""
        places, numbers, alias = dict(self._places), dict(self._numbers), dict(self._alias)
        copies, mark = dict(self._copies), len(self.steps)
        outer, self._part = self._part, tuple(part) or self._part
        result = rule()
        self._part = outer
        if isinstance(result, Declined):
            del self.steps[mark:]
            self._places, self._numbers, self._alias, self._copies = places, numbers, alias, copies
        return result

    def torch(self, node: Node) -> None:
        """Let torch run a node."""
        inputs: list[Place | None] = []
        for value in node.operands:
            if value is None:
                inputs.append(None)
                continue
            place = self.place(value)
            coded = isinstance(value.type, TensorType) and value.tensor.encoding != DENSE
            inputs.append(place if isinstance(place, Coded) and coded else self.read(value))
        outputs: list[Place] = []
        for value in node.results:
            if isinstance(value.type, TensorType) and value.tensor.encoding != DENSE:
                found: Place = self.write_coded(value)
            else:
                found = self.write(value)
            for view in [found] if isinstance(found, View) else [v for _, v in found.parts]:
                view.buffer.kind = "torch"
            outputs.append(found)
        self.steps.append(TorchStep(node, inputs, outputs, work_of(node)))

    def _origin(self, value: Value) -> Value:
        while value in self._alias:
            value = self._alias[value]
        return value

    def _filled(self, value: Value) -> Place:
        """A number as a value in memory: one element, shown everywhere."""
        from mcomp.backends.triton.lower.elementwise import fill

        cell = self.temp(value.type.dtype, (1,))
        if value.type.dtype.name in KNOWN:
            fill(cell, self._numbers[value], self)
        else:
            self._fill_in_torch(value, cell)
        shape = shape_of(value)
        return View(cell.buffer, cell.dtype, shape, (0,) * len(shape))

    def _fill_in_torch(self, value: Value, cell: View) -> None:
        number = self._numbers[value]
        cell.buffer.kind = "torch"
        node = value.producer or self.graph.returns
        self.emit(TorchStep(node, [], [cell], call=lambda: _scalar(number, value.type.dtype)))

    def _const(self, value: Value) -> Place:
        weight = value.weight
        assert weight is not None
        type = weight.type
        if type.encoding == DENSE:
            return dense(self.constant(weight), type.shape)
        return Coded(type, tuple(
            (name, dense(self.constant(weight, name), part.shape))
            for name, part in type.encoding.buffers(type).items()
        ))


def _same(x: Any) -> Any:
    return x.contiguous()


def _scalar(number: Any, dtype: DType) -> Any:
    import torch

    from mcomp.ir.dtypes import to_torch

    return torch.tensor([number], dtype=to_torch(dtype))


def shape_of(value: Value) -> tuple[Dim, ...]:
    """The shape of a tensor; a scalar has no axes."""
    return value.type.shape if isinstance(value.type, TensorType) else ()


def work_of(node: Node) -> Work:
    """The work of a node as its operator counts it."""
    return work_of_part([node])


def work_of_part(nodes: Sequence[Node]) -> Work:
    """The work of some nodes computed as one: values that only they use are neither read nor written."""
    inside = set(nodes)
    read = dict.fromkeys(v for n in nodes for v in n.operands if v is not None and v.producer not in inside)
    write = [v for n in nodes for v in n.results if any(u not in inside for u in v.users)]
    flops: Dim = 0
    compute = "scalar"
    for node in nodes:
        flops = dims.add(flops, node.op.node_cost(node).flops)
        for inner in [*(n for body in node.bodies for n in body.walk()), node]:
            if inner.op.name in PRODUCTS and compute == "scalar":
                compute = compute_kind(inner)
    moved = [total_bytes([v.type for v in values if isinstance(v.type, TensorType)]) for values in (read, write)]
    return Work(flops, moved[0], moved[1], compute)


def op_names(node: Node) -> tuple[str, ...]:
    """Names of the operators that a node computes."""
    if node.op.name == "fused":
        return tuple(n.op.name for n in node.attrs["body"].nodes if n.op.name not in ("const", "full"))
    return (node.op.name,)
