"""The parts of IR text that stand in a line: dims, types, encodings, attributes, locations."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from mcomp.ir import dims
from mcomp.ir.dims import Dim
from mcomp.ir.dtypes import DTYPES, DType
from mcomp.ir.encoding import DENSE, NM, Affine, BlockSparse, Encoding, Scaled
from mcomp.ir.loc import UNKNOWN, Loc
from mcomp.ir.scanner import FLOAT, IDENT, INT, NAME, STRING, Scanner
from mcomp.ir.types import Layout, ScalarType, TensorType, Type

_T = TypeVar("_T")

_AFFINE_FIELDS: dict[str, Callable[[Any], bool]] = {
    "axis": lambda v: isinstance(v, tuple) and all(type(a) is int for a in v),
    "group": lambda v: type(v) is int,
    "zero_point": lambda v: isinstance(v, bool),
    "scale": lambda v: isinstance(v, float),
    "zero": lambda v: type(v) is int,
}
_SCALED_FIELDS = {name: _AFFINE_FIELDS[name] for name in ("axis", "scale")}

_CONSTANTS = {"none": None, "true": True, "false": False}
WORDS = frozenset({*_CONSTANTS, "type", "complex", "inf", "nan"})
"""Words that begin another attribute than a size: no symbol can have such a name."""


class TermReader(Scanner):
    """Reads what has a value by itself. Nested graphs are read by `graph`, which subclasses define."""

    def graph(self) -> Any:
        """A nested graph."""
        raise self.error("a graph cannot stand here")

    def name(self) -> str:
        if self.peek('"'):
            return self.string()
        return self.need(NAME, "a name")

    def string(self) -> str:
        at = self.pos
        text = self.need(STRING, "a string")
        try:
            return str(json.loads(text))
        except ValueError as e:
            raise self.error("not a string", at) from e

    def attribute(self) -> tuple[str, Any]:
        name = self.need(IDENT, "an attribute")
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
        for word, value in _CONSTANTS.items():
            if self.word(word):
                return value
        if self.word("type"):
            self.expect("(")
            type = self.type()
            self.expect(")")
            return type
        if self.word("complex"):
            self.expect("(")
            real = float(self.need(FLOAT, "a float"))
            self.expect(",")
            imaginary = float(self.need(FLOAT, "a float"))
            self.expect(")")
            return complex(real, imaginary)
        if self.text.startswith("graph @", self.pos):
            return self.graph()
        number = self.match(FLOAT)
        return float(number) if number is not None else self.dim()

    def dtype(self) -> DType:
        at = self.pos
        name = self.need(IDENT, "an element type")
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
            dtype, fields = self.fields("affine", _AFFINE_FIELDS)
            return Affine(dtype, **fields)
        if self.word("scaled"):
            dtype, fields = self.fields("scaled", _SCALED_FIELDS)
            return Scaled(dtype, **fields)
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

    def fields(self, of: str, known: Mapping[str, Callable[[Any], bool]]) -> tuple[DType, dict[str, Any]]:
        """The element type and the named fields of an encoding."""
        self.expect("<")
        dtype = self.dtype()
        fields: dict[str, Any] = {}
        while self.take(","):
            at = self.pos
            name, value = self.attribute()
            if name not in known:
                raise self.error(f"{of} has no field {name}", at)
            if name == "axis" and isinstance(value, int):
                value = (value,)
            if name == "scale" and isinstance(value, int):
                value = float(value)
            if not known[name](value):
                from mcomp.ir.printer import attr_text

                raise self.error(f"{attr_text(value)} is no {name} of an encoding", at)
            fields[name] = value
        self.expect(">")
        return dtype, fields

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
        if INT.match(self.text, self.pos):
            return self.integer()
        name = self.need(IDENT, "a size")
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
            path = self.need(NAME, "a module path")
            quoted = False
        if not quoted and self.take("["):
            return Loc(rule=path, parts=self.nested(lambda: tuple(self.items("]", self.place))))
        if not self.peek('"'):
            return Loc(path)
        return self.source(path, self.string())

    def source(self, path: str, file: str) -> Loc:
        self.expect(":")
        return Loc(path, file, self.integer("a line number"))


def parse_type(text: str) -> Type:
    """Read a type, such as `f32[B, 768]`."""
    return _whole(text, TermReader.type)


def parse_dim(text: str) -> Dim:
    """Read a dim, such as `(S + 3)//4`."""
    return _whole(text, TermReader.dim)


def _whole(text: str, rule: Callable[[TermReader], _T]) -> _T:
    reader = TermReader(text)
    found = rule(reader)
    reader.space()
    if reader.pos != len(text):
        raise reader.error("expected the end of the text")
    return found
