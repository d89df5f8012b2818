"""Reading IR text. The inverse of `printer`; errors show the line with a caret."""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import Any

import numpy as np

from mcomp.errors import IRError
from mcomp.ir.dims import Bounds
from mcomp.ir.edit import Editor
from mcomp.ir.encoding import DENSE
from mcomp.ir.graph import Graph, InputSpec, OutputSpec, Value
from mcomp.ir.scanner import DIGEST, IDENT, INT, OPNAME, VALUE
from mcomp.ir.store import WeightStore
from mcomp.ir.terms import TermReader, parse_dim, parse_type
from mcomp.ir.types import TensorType, Type
from mcomp.ops.base import ANY_ATTRS, op_named

__all__ = ["parse_dim", "parse_graph", "parse_type"]


def parse_graph(text: str, store: WeightStore | None = None, *, generate: bool = False) -> Graph:
    """Read one graph.

    Constants are found in `store` by digest or by a prefix of it. With `generate`, a constant may instead be written
    `@name#seed=7` (normal random numbers) or `@name#splat=0.5`, for tests and examples.
    Raises ParseError, with the place, for text that is no graph.
    """
    parser = _Parser(text, store if store is not None else WeightStore(), generate)
    graph = parser.graph()
    parser.space()
    if parser.pos != len(text):
        raise parser.error("expected the end of the text")
    return graph


class _Parser(TermReader):
    def __init__(self, text: str, store: WeightStore, generate: bool) -> None:
        super().__init__(text)
        self.store = store
        self.generate = generate

    def graph(self) -> Graph:
        return self.nested(self._graph)

    def _graph(self) -> Graph:
        if not self.word("graph"):
            raise self.error("expected `graph`")
        self.expect("@")
        graph = Graph(self.name(), self.store)
        if self.take("["):
            for symbol, bounds in self.items("]", self.symbol):
                graph.symbols[symbol] = bounds
        values: dict[str, Value] = {}
        self.expect("(")
        self.items(")", lambda: self.input(graph, values))
        self.expect("->")
        self.expect("(")
        declared = self.items(")", self.type)
        self.expect("{")
        with graph.edit("parse") as editor:
            while not self.word("return"):
                self.statement(graph, editor, values)
        self.returns(graph, values, declared)
        self.expect("}")
        graph.journal.clear()
        return graph

    def symbol(self) -> tuple[str, Bounds]:
        name = self.need(IDENT, "a symbol")
        if not self.word("in"):
            raise self.error("expected `in`")
        low = self.integer()
        self.expect("..")
        self.space()
        high = self.integer() if INT.match(self.text, self.pos) else None
        return name, Bounds(low, high)

    def input(self, graph: Graph, values: dict[str, Value]) -> None:
        spec = InputSpec()
        if self.word("state"):
            self.expect("@")
            target = self.name()
            spec = InputSpec("state", target, self.resolve(self.match(DIGEST)))
        at = self.pos
        name = self.need(VALUE, "an input, such as %x")
        self.expect(":")
        self.define(graph, values, graph.add_input(name, self.type(), spec), name, at)

    def define(self, graph: Graph, values: dict[str, Value], value: Value, name: str, at: int) -> None:
        if name in values or value.name != name:
            raise self.error(f"%{name} is defined twice", at)
        values[name] = value

    def resolve(self, digest: str | None) -> str:
        if not digest:
            return ""
        try:
            return self.store.get(digest).digest
        except KeyError as e:
            raise self.error(str(e.args[0])) from e

    def statement(self, graph: Graph, editor: Editor, values: dict[str, Value]) -> None:
        self.space()
        start = self.pos
        names: list[str] = []
        if self.peek("%"):
            names.append(self.need(VALUE, "a result"))
            while self.take(","):
                names.append(self.need(VALUE, "a result"))
            self.expect("=")
        self.space()
        at = self.pos
        op_name = self.need(OPNAME, "an operator")
        try:
            op = op_named(op_name)
        except IRError as e:
            raise self.error(e.message + (f"; {e.help}" if e.help else ""), at) from e
        if op_name == "const":
            self.const(editor, values, names, start)
            return
        operands: list[Value | None] = []
        if self.peek("%") or self.peek("_"):
            operands.append(self.operand(values))
            while self.take(","):
                operands.append(self.operand(values))
        attrs: dict[str, Any] = {}
        if self.take("{"):
            pairs = self.items("}", self.attribute)
            attrs = dict(pairs)
            if len(attrs) != len(pairs):
                raise self.error("an attribute is given twice")
        types: list[Type] = []
        if self.take(":"):
            types.append(self.type())
            while self.take(","):
                types.append(self.type())
        if len(types) != len(names):
            raise self.error(f"{len(names)} results but {len(types)} types", start)
        loc = self.location()
        if op.attrs is ANY_ATTRS:
            attrs["types"] = tuple(types)
        try:
            node = editor.add(op, operands, attrs, name=names, loc=loc, types=types)
        except IRError as e:
            raise self.error(e.message, at) from e
        for name, value in zip(names, node.results):
            self.define(graph, values, value, name, start)

    def const(self, editor: Editor, values: dict[str, Value], names: list[str], start: int) -> None:
        self.expect("@")
        weight_name = self.name()
        at = self.pos
        digest = self.need(DIGEST, "a digest, such as #9f3a")
        self.expect(":")
        type = self.type()
        if not isinstance(type, TensorType):
            raise self.error("a constant is a tensor", at)
        loc = self.location()
        if self.generate and ("=" in digest):
            full = self.generated(type, digest, weight_name, at)
        else:
            try:
                weight = self.store.get(digest)
            except KeyError as e:
                raise self.error(str(e.args[0]), at) from e
            if weight.type != replace(type, layout=weight.type.layout):
                raise self.error(f"the weight is {weight.type}", at)
            full = weight.digest
        if len(names) != 1:
            raise self.error("a constant has one result", start)
        node = editor.add("const", (), {"name": weight_name, "digest": full}, name=names, loc=loc, types=[type])
        self.define(editor.graph, values, node.result, names[0], start)

    def generated(self, type: TensorType, spec: str, name: str, at: int) -> str:
        kind, _, argument = spec.partition("=")
        shape = type.static_shape
        try:
            if kind == "seed":
                rng = np.random.default_rng([int(argument), zlib.crc32(name.encode())])
                data = rng.standard_normal(shape) if type.dtype.is_float else rng.integers(0, 8, shape)
            elif kind == "splat":
                data = np.full(shape, float(argument))
            else:
                raise ValueError(spec)
        except ValueError as e:
            raise self.error("expected #seed=<int> or #splat=<number>", at) from e
        if type.encoding != DENSE or not type.dtype.is_numpy_native:
            raise self.error("only dense numpy types can be generated", at)
        return self.store.add(type, np.asarray(data).astype(type.dtype.numpy)).digest

    def operand(self, values: dict[str, Value]) -> Value | None:
        self.space()
        at = self.pos
        if self.take("_"):
            return None
        name = self.need(VALUE, "an operand")
        if name not in values:
            raise self.error(f"%{name} is not defined before its use", at)
        return values[name]

    def returns(self, graph: Graph, values: dict[str, Value], declared: list[Type]) -> None:
        outputs: list[Value] = []
        specs: list[OutputSpec] = []
        at = self.pos
        while not self.peek("}"):
            if outputs:
                self.expect(",")
            spec = OutputSpec()
            for kind in ("state", "mutated"):
                if self.word(kind):
                    self.expect("@")
                    spec = OutputSpec(kind, self.name())
                    self.expect("=")
            value = self.operand(values)
            if value is None:
                raise self.error("an output cannot be absent")
            outputs.append(value)
            specs.append(spec)
        if [v.type for v in outputs] != declared:
            found = ", ".join(str(v.type) for v in outputs)
            raise self.error(f"the graph returns ({found}), which is not what its header says", at)
        graph.set_outputs(outputs, specs)

    # small things
