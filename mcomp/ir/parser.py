"""Reading IR text. The inverse of `printer`; errors show the line with a caret."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from mcomp.errors import IRError, ParseError
from mcomp.ir import dims
from mcomp.ir.dims import Bounds, Dim
from mcomp.ir.dtypes import DTYPES, DType
from mcomp.ir.edit import Editor
from mcomp.ir.encoding import DENSE, NM, Affine, BlockSparse, Encoding
from mcomp.ir.graph import Graph, InputSpec, OutputSpec, Value
from mcomp.ir.loc import UNKNOWN, Loc
from mcomp.ir.printer import attr_text
from mcomp.ir.store import WeightStore
from mcomp.ir.types import Layout, ScalarType, TensorType, Type
from mcomp.ops.base import ANY_ATTRS, op_named

_SPACE = re.compile(r"(?:\s|//[^\n]*)*")
_NAME = re.compile(r"[A-Za-z0-9_.\-]+")
_IDENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OPNAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
_VALUE = re.compile(r"%([A-Za-z0-9_]+)")
_STRING = re.compile(r'"(?:[^"\\\n]|\\.)*"')
_FLOAT = re.compile(r"-?(?:\d+\.\d*(?:e[+-]?\d+)?|\d+e[+-]?\d+|inf\b|nan\b)")
_INT = re.compile(r"\d+")
_DIGEST = re.compile(r"#([A-Za-z0-9=.+\-]+)")
_MAX_DEPTH = 100
_MAX_DIGITS = 40
_AFFINE_FIELDS: dict[str, Callable[[Any], bool]] = {
    "axis": lambda v: isinstance(v, tuple) and all(type(a) is int for a in v),
    "group": lambda v: type(v) is int,
    "zero_point": lambda v: isinstance(v, bool),
    "scale": lambda v: isinstance(v, float),
    "zero": lambda v: type(v) is int,
}

_T = TypeVar("_T")


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


def parse_type(text: str) -> Type:
    """Read a type, such as `f32[B, 768]`."""
    return _whole(text, _Parser.type)


def parse_dim(text: str) -> Dim:
    """Read a dim, such as `(S + 3)//4`."""
    return _whole(text, _Parser.dim)


def _whole(text: str, rule: Callable[[_Parser], _T]) -> _T:
    parser = _Parser(text, WeightStore(), False)
    found = rule(parser)
    parser.space()
    if parser.pos != len(text):
        raise parser.error("expected the end of the text")
    return found


class _Parser:
    def __init__(self, text: str, store: WeightStore, generate: bool) -> None:
        self.text = text
        self.store = store
        self.generate = generate
        self.pos = 0
        self.depth = 0

    # characters

    def space(self) -> None:
        match = _SPACE.match(self.text, self.pos)
        self.pos = match.end() if match else self.pos

    def peek(self, token: str) -> bool:
        self.space()
        return self.text.startswith(token, self.pos)

    def take(self, token: str) -> bool:
        if not self.peek(token):
            return False
        self.pos += len(token)
        return True

    def word(self, token: str) -> bool:
        """Take a whole identifier."""
        self.space()
        match = _IDENT.match(self.text, self.pos)
        if match is None or match.group() != token:
            return False
        self.pos = match.end()
        return True

    def expect(self, token: str) -> None:
        if not self.take(token):
            raise self.error(f"expected `{token}`")

    def match(self, pattern: re.Pattern[str]) -> str | None:
        self.space()
        match = pattern.match(self.text, self.pos)
        if match is None:
            return None
        self.pos = match.end()
        return match.group(match.lastindex or 0)

    def need(self, pattern: re.Pattern[str], what: str) -> str:
        found = self.match(pattern)
        if found is None:
            raise self.error(f"expected {what}")
        return found

    def error(self, message: str, at: int | None = None) -> ParseError:
        pos = min(self.pos if at is None else at, len(self.text))
        start = self.text.rfind("\n", 0, pos) + 1
        end = self.text.find("\n", pos)
        line = self.text[start:] if end < 0 else self.text[start:end]
        column = pos - start
        if len(line) > 160:
            cut = max(0, column - 80)
            line, column = line[cut : cut + 160], column - cut
        number = self.text.count("\n", 0, pos) + 1
        return ParseError(f"line {number}: {message}", ir=f"{line}\n{' ' * column}^")

    def nested(self, rule: Callable[[], _T]) -> _T:
        """Apply a rule that may contain itself; too deep a text is an error, not the end of the stack."""
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise self.error("nested too deep")
        found = rule()
        self.depth -= 1
        return found

    def integer(self, what: str = "a number") -> int:
        at = self.pos
        text = self.need(_INT, what)
        if len(text) > _MAX_DIGITS:
            raise self.error("the number is too large", at)
        return int(text)

    def items(self, close: str, item: Callable[[], _T]) -> list[_T]:
        found: list[_T] = []
        if self.take(close):
            return found
        found.append(item())
        while self.take(","):
            found.append(item())
        self.expect(close)
        return found

    # graph

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
        name = self.need(_IDENT, "a symbol")
        if not self.word("in"):
            raise self.error("expected `in`")
        low = self.integer()
        self.expect("..")
        self.space()
        high = self.integer() if _INT.match(self.text, self.pos) else None
        return name, Bounds(low, high)

    def input(self, graph: Graph, values: dict[str, Value]) -> None:
        spec = InputSpec()
        if self.word("state"):
            self.expect("@")
            target = self.name()
            spec = InputSpec("state", target, self.resolve(self.match(_DIGEST)))
        at = self.pos
        name = self.need(_VALUE, "an input, such as %x")
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
            names.append(self.need(_VALUE, "a result"))
            while self.take(","):
                names.append(self.need(_VALUE, "a result"))
            self.expect("=")
        self.space()
        at = self.pos
        op_name = self.need(_OPNAME, "an operator")
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
        digest = self.need(_DIGEST, "a digest, such as #9f3a")
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
            if weight.type != type:
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
        name = self.need(_VALUE, "an operand")
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

    def name(self) -> str:
        if self.peek('"'):
            return self.string()
        return self.need(_NAME, "a name")

    def string(self) -> str:
        at = self.pos
        text = self.need(_STRING, "a string")
        try:
            return str(json.loads(text))
        except ValueError as e:
            raise self.error("not a string", at) from e

    def attribute(self) -> tuple[str, Any]:
        name = self.need(_IDENT, "an attribute")
        self.expect("=")
        return name, self.attribute_value()

    def attribute_value(self) -> Any:
        self.space()
        if self.peek('"'):
            return self.string()
        if self.take("["):
            return self.nested(lambda: tuple(self.items("]", self.attribute_value)))
        if self.take("!"):
            return self.dtype()
        for word, value in (("none", None), ("true", True), ("false", False)):
            if self.word(word):
                return value
        if self.word("type"):
            self.expect("(")
            type = self.type()
            self.expect(")")
            return type
        if self.word("complex"):
            self.expect("(")
            real = float(self.need(_FLOAT, "a float"))
            self.expect(",")
            imaginary = float(self.need(_FLOAT, "a float"))
            self.expect(")")
            return complex(real, imaginary)
        if self.text.startswith("graph @", self.pos):
            return self.graph()
        number = self.match(_FLOAT)
        return float(number) if number is not None else self.dim()

    def dtype(self) -> DType:
        at = self.pos
        name = self.need(_IDENT, "an element type")
        if name not in DTYPES:
            raise self.error(f"{name} is no element type", at)
        return DTYPES[name]

    def type(self) -> Type:
        if self.word("scalar"):
            self.expect("<")
            scalar = ScalarType(self.dtype())
            self.expect(">")
            return scalar
        self.space()
        dtype = self.dtype()
        self.expect("[")
        shape = tuple(self.items("]", self.dim))
        encoding = self.encoding() or DENSE
        layout: Layout | None = None
        if self.word("layout"):
            self.expect("<")
            order = [self.integer("an axis")]
            while self.take(","):
                order.append(self.integer("an axis"))
            block = 1
            if self.take(";"):
                if not self.word("block"):
                    raise self.error("expected `block`")
                self.expect("=")
                block = self.integer()
            self.expect(">")
            layout = Layout(tuple(order), block)
        return TensorType(shape, dtype, encoding, layout)

    def encoding(self) -> Encoding | None:
        if self.word("dense"):
            return DENSE
        if self.word("affine"):
            return self.affine()
        if self.word("nm"):
            self.expect("<")
            n = self.integer()
            self.expect(",")
            m = self.integer()
            return NM(n, m, self.inner())
        if self.word("blocksparse"):
            self.expect("<")
            rows = self.integer()
            self.expect(",")
            columns = self.integer()
            self.expect(",")
            if not self.word("count"):
                raise self.error("expected `count`")
            self.expect("=")
            return BlockSparse((rows, columns), self.integer(), self.inner())
        return None

    def inner(self) -> Encoding:
        if not self.take(","):
            self.expect(">")
            return DENSE
        found = self.nested(self.encoding)
        if found is None:
            raise self.error("expected an encoding")
        self.expect(">")
        return found

    def affine(self) -> Affine:
        self.expect("<")
        dtype = self.dtype()
        fields: dict[str, Any] = {}
        while self.take(","):
            at = self.pos
            name, value = self.attribute()
            if name not in _AFFINE_FIELDS:
                raise self.error(f"affine has no field {name}", at)
            if name == "axis" and isinstance(value, int):
                value = (value,)
            if name == "scale" and isinstance(value, int):
                value = float(value)
            if not _AFFINE_FIELDS[name](value):
                raise self.error(f"{attr_text(value)} is no {name} of an encoding", at)
            fields[name] = value
        self.expect(">")
        return Affine(dtype, **fields)

    def dim(self) -> Dim:
        total = self.term()
        while True:
            if self.take("+"):
                total = dims.add(total, self.term())
            elif self.peek("-") and not self.peek("->"):
                self.take("-")
                total = dims.add(total, dims.mul(self.term(), -1))
            else:
                return total

    def term(self) -> Dim:
        value = self.factor()
        while True:
            if self.slash():
                value = self.divide(dims.floordiv, value)
            elif self.take("%"):
                value = self.divide(dims.mod, value)
            elif self.take("*"):
                value = dims.mul(value, self.factor())
            else:
                return value

    def divide(self, function: Callable[[Dim, Dim], Dim], value: Dim) -> Dim:
        at = self.pos
        try:
            return function(value, self.factor())
        except ZeroDivisionError as e:
            raise self.error("division by zero", at) from e

    def slash(self) -> bool:
        """`//` divides inside of a dim, where a comment cannot stand right after an operand without space."""
        if not self.text.startswith("//", self.pos):
            return False
        self.pos += 2
        return True

    def factor(self) -> Dim:
        if self.take("-"):
            return dims.mul(self.nested(self.factor), -1)
        if self.take("("):
            value = self.nested(self.dim)
            self.expect(")")
            return value
        self.space()
        if _INT.match(self.text, self.pos):
            return self.integer()
        name = self.need(_IDENT, "a size")
        if name in ("max", "min") and self.take("("):
            a = self.nested(self.dim)
            self.expect(",")
            b = self.nested(self.dim)
            self.expect(")")
            return dims.call(name, a, b)
        return dims.sym(name)

    def location(self) -> Loc:
        if not self.word("loc"):
            return UNKNOWN
        self.expect("(")
        found = self.place()
        self.expect(")")
        return found

    def place(self) -> Loc:
        if self.peek('"'):
            path = self.string()
            if self.peek(":"):
                return self.source("", path)
            quoted = not self.peek("[")
            if quoted:
                self.expect("@")
        else:
            path = self.need(_NAME, "a module path")
            quoted = False
        if not quoted and self.take("["):
            return Loc(rule=path, parts=self.nested(lambda: tuple(self.items("]", self.place))))
        if not self.peek('"'):
            return Loc(path)
        return self.source(path, self.string())

    def source(self, path: str, file: str) -> Loc:
        self.expect(":")
        return Loc(path, file, self.integer("a line number"))
