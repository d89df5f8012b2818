"""Importers of calls that hold graphs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import fx

from mcomp.capture.importing import Call, imports
from mcomp.capture.symbols import Unsupported
from mcomp.ir.dims import Expr
from mcomp.ir.graph import Graph, Value

if TYPE_CHECKING:
    from mcomp.capture.convert import Builder


def _bind(builder: Builder, module: fx.GraphModule, arguments: list[Any]) -> list[Any]:
    """Convert a nested graph in place, its inputs being `arguments`."""
    places = [node for node in module.graph.nodes if node.op == "placeholder"]
    builder.env.update(zip(places, arguments, strict=True))
    return builder.run(module)


@imports("higher_order.wrap_with_set_grad_enabled", "higher_order.wrap_with_autocast")
def inlined(call: Call) -> Any:
    builder: Builder = call["builder"]
    args = call["args"]
    at = next(i for i, one in enumerate(args) if isinstance(one, fx.GraphModule))
    if "autocast" in call.name and args[2]:
        raise Unsupported("a region runs under autocast")
    return _bind(builder, args[at], args[at + 1 :])


@imports("higher_order.cond")
def cond(call: Call) -> Any:
    from mcomp.capture.convert import Builder

    builder: Builder = call["builder"]
    pred, then, other, operands = call["args"]
    if not isinstance(pred, Value):
        raise Unsupported("a choice depends on sizes")
    values = [one for one in operands if isinstance(one, Value)]
    if any(not isinstance(one, Value | Expr | int) for one in operands):
        raise Unsupported("a choice takes arguments that are no tensors")
    bodies = {}
    for name, module in (("then", then), ("else", other)):
        body = Graph(name, builder.editor.graph.store)
        body.symbols = builder.editor.graph.symbols
        inside = [body.add_input(f"x{i}", value.type) for i, value in enumerate(values)]
        replaced = iter(inside)
        with body.edit("capture") as editor:
            inner = Builder(editor, builder.symbols, builder.converted)
            results = _bind(inner, module, [next(replaced) if isinstance(one, Value) else one for one in operands])
        body.set_outputs(results)
        bodies[name] = body
    return list(builder.editor.add("cond", [pred, *values], bodies, name=call.node.name, loc=call.loc).results)
