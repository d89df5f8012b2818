"""The pass that prepares a graph for a backend: it tells what will run where, and writes layouts into types."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mcomp.backend import backend_named
from mcomp.backends.cpu.access import Access
from mcomp.backends.cpu.builder import Builder
from mcomp.backends.cpu.isa import choose
from mcomp.backends.cpu.tune import Table, settle
from mcomp.errors import PassError
from mcomp.ir.graph import Graph, Value
from mcomp.ir.types import Layout, TensorType
from mcomp.manager.context import UNMEASURED, Context
from mcomp.manager.passes import Pass, PassEffect, PassResult, register_pass


@register_pass
@dataclass(frozen=True)
class Legalize(Pass):
    """Settles the layout of every value for a target, and leaves a remark where a node will run in torch.

        %c = conv %x, %w : f32[B, 8, 16, 16]       ->  %c = conv %x, %w : f32[B, 8, 16, 16] layout<0,2,3,1>
        %r = relu %c : f32[B, 8, 16, 16]               %r = relu %c : f32[B, 8, 16, 16] layout<0,2,3,1>

    target: the backend, such as cpu or cuda. It takes part by having a method `legalize(graph, context) -> int`, which
        returns how many types it changed.
    """

    name = "legalize"
    effect = PassEffect.EXACT
    required = True
    target: str = "cpu"

    def run(self, graph: Graph, context: Context) -> PassResult:
        backend = backend_named(self.target)
        method = getattr(backend, "legalize", None)
        if method is None:
            raise PassError(f"the backend {backend.name} does not legalize", code="MC0203",
                            help="leave legalize out of the pipeline")
        changed = int(method(graph, context))
        return PassResult(bool(changed), statistics={"layouts": changed})


def legalize(graph: Graph, context: Context) -> int:
    """Lower the graph without keeping the kernels, and write the layouts that came out into its types."""
    builder = Builder(graph, context)
    builder.build()
    changed = 0
    with graph.edit("legalize") as editor:
        for node in graph.nodes:
            for value in node.results:
                type = _with_layout(value, builder)
                if type is not None and type != value.type:
                    editor.set_type(value, type)
                    changed += 1
    if not context.shared.get(UNMEASURED):
        changed += settle(graph, Table.load(choose(None)))
    with graph.edit("legalize") as editor:
        for node in graph.nodes:
            for body in node.bodies:
                if node.op.name == "fused":
                    _pass_on(node.operands, body)
    return changed


def _with_layout(value: Value, builder: Builder) -> TensorType | None:
    place = builder.known_place(value)
    if not isinstance(place, Access) or not isinstance(value.type, TensorType):
        return None
    order = place.dense_order()
    plain = order is None or place.is_dense()
    return replace(value.type, layout=None if plain or order is None else Layout(order))


def _pass_on(operands: tuple[Value | None, ...], body: Graph) -> None:
    """A fused body's inputs have the types of its operands."""
    with body.edit("legalize") as editor:
        for inner, operand in zip(body.inputs, operands):
            if operand is not None and inner.type != operand.type:
                editor.set_type(inner, operand.type)
