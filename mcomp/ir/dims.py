"""Symbolic sizes: integer polynomials over symbols, with floor division, modulo, maximum and minimum.

A `Dim` is an int or an `Expr`. Expressions are kept in a canonical form, so that equal polynomials are equal objects:
`B*S + B*S == 2*B*S`, `(4*B + 8)//4 == B + 2`. Two expressions that differ in form may still be equal as functions;
code that needs a decision treats them as not provably equal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Union

Dim = Union[int, "Expr"]

_FUNCTIONS: dict[str, Callable[[int, int], int]] = {
    "floordiv": lambda a, b: a // b,
    "mod": lambda a, b: a % b,
    "max": max,
    "min": min,
}


@dataclass(frozen=True, slots=True)
class Symbol:
    """A named unknown size."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Call:
    """A function that is no polynomial: floordiv, mod, max or min of two dims."""

    function: str
    args: tuple[Dim, Dim]

    def __str__(self) -> str:
        a, b = self.args
        if self.function == "floordiv":
            return f"({a})//({b})" if isinstance(b, Expr) else f"({a})//{b}"
        if self.function == "mod":
            return f"({a})%({b})" if isinstance(b, Expr) else f"({a})%{b}"
        return f"{self.function}({a}, {b})"


Atom = Symbol | Call
Monomial = tuple[tuple[Atom, int], ...]  # (atom, power), sorted by text


class Expr:
    """A polynomial with integer coefficients; at least one term is not constant. Immutable and hashable."""

    __slots__ = ("_hash", "_text", "terms")

    terms: tuple[tuple[Monomial, int], ...]
    _hash: int
    _text: str | None

    def __init__(self, terms: tuple[tuple[Monomial, int], ...]) -> None:
        object.__setattr__(self, "terms", terms)
        object.__setattr__(self, "_hash", hash(terms))
        object.__setattr__(self, "_text", None)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("Expr is immutable")

    def __reduce__(self) -> tuple[object, ...]:
        return (Expr, (self.terms,))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Expr) and self.terms == other.terms

    def __add__(self, other: Dim) -> Dim:
        return add(self, other)

    __radd__ = __add__

    def __neg__(self) -> Dim:
        return mul(self, -1)

    def __sub__(self, other: Dim) -> Dim:
        return add(self, mul(other, -1))

    def __rsub__(self, other: Dim) -> Dim:
        return add(other, mul(self, -1))

    def __mul__(self, other: Dim) -> Dim:
        return mul(self, other)

    __rmul__ = __mul__

    def __floordiv__(self, other: Dim) -> Dim:
        return floordiv(self, other)

    def __rfloordiv__(self, other: Dim) -> Dim:
        return floordiv(other, self)

    def __mod__(self, other: Dim) -> Dim:
        return mod(self, other)

    def __rmod__(self, other: Dim) -> Dim:
        return mod(other, self)

    def __str__(self) -> str:
        if self._text is None:
            object.__setattr__(self, "_text", _render(self.terms))
        return str(self._text)

    __repr__ = __str__


def sym(name: str) -> Expr:
    """The dim that is just the symbol `name`."""
    return Expr(((((Symbol(name), 1),), 1),))


def _terms(d: Dim) -> dict[Monomial, int]:
    if isinstance(d, int):
        return {(): d} if d else {}
    return dict(d.terms)


def _build(terms: Mapping[Monomial, int]) -> Dim:
    kept = {m: c for m, c in terms.items() if c}
    if not kept:
        return 0
    if len(kept) == 1 and () in kept:
        return kept[()]
    return Expr(tuple(sorted(kept.items(), key=_term_key)))


def _term_key(term: tuple[Monomial, int]) -> tuple[int, str]:
    monomial, _ = term
    degree = sum(p for _, p in monomial)
    return (-degree, "*".join(f"{a}^{p}" for a, p in monomial))


def add(a: Dim, b: Dim) -> Dim:
    """a + b."""
    if isinstance(a, int) and isinstance(b, int):
        return a + b
    out = _terms(a)
    for m, c in _terms(b).items():
        out[m] = out.get(m, 0) + c
    return _build(out)


def mul(a: Dim, b: Dim) -> Dim:
    """a * b."""
    if isinstance(a, int) and isinstance(b, int):
        return a * b
    out: dict[Monomial, int] = {}
    for ma, ca in _terms(a).items():
        for mb, cb in _terms(b).items():
            m = _mul_monomials(ma, mb)
            out[m] = out.get(m, 0) + ca * cb
    return _build(out)


def _mul_monomials(a: Monomial, b: Monomial) -> Monomial:
    powers: dict[Atom, int] = dict(a)
    for atom, p in b:
        powers[atom] = powers.get(atom, 0) + p
    return tuple(sorted(powers.items(), key=lambda item: str(item[0])))


def _divide_monomial(a: Monomial, b: Monomial) -> Monomial | None:
    powers: dict[Atom, int] = dict(a)
    for atom, p in b:
        if powers.get(atom, 0) < p:
            return None
        powers[atom] -= p
    return tuple((atom, p) for atom, p in powers.items() if p)


def floordiv(a: Dim, b: Dim) -> Dim:
    """a // b, rounded down. Divides exactly what is divisible term by term. Raises ZeroDivisionError for b == 0."""
    if isinstance(b, int) and b == 0:
        raise ZeroDivisionError("a size was divided by zero")
    if isinstance(a, int) and isinstance(b, int):
        return a // b
    if a == b:
        return 1
    if b == 1:
        return a
    divisor = _terms(b)
    if len(divisor) != 1:
        return _call("floordiv", a, b)
    (monomial, coefficient), = divisor.items()
    whole: dict[Monomial, int] = {}
    rest: dict[Monomial, int] = {}
    for m, c in _terms(a).items():
        reduced = _divide_monomial(m, monomial)
        if reduced is not None and c % coefficient == 0:
            whole[reduced] = c // coefficient
        else:
            rest[m] = c
    if not rest:
        return _build(whole)
    remainder = _build(rest)
    if isinstance(remainder, int) and isinstance(b, int):
        return add(_build(whole), remainder // b)
    return add(_build(whole), _call("floordiv", remainder, b))


def ceildiv(a: Dim, b: Dim) -> Dim:
    """ceil(a / b)."""
    return floordiv(add(a, add(b, -1)), b)


def mod(a: Dim, b: Dim) -> Dim:
    """a % b with the sign of b, as in Python."""
    if isinstance(a, int) and isinstance(b, int):
        return a % b
    if a == b or b == 1:
        return 0
    if isinstance(b, int):
        rest = {m: c % b for m, c in _terms(a).items() if c % b}
        remainder = _build(rest)
        if isinstance(remainder, int):
            return remainder % b
        return _call("mod", remainder, b)
    if len(_terms(b)) == 1:
        (monomial, coefficient), = _terms(b).items()
        if all(
            _divide_monomial(m, monomial) is not None and c % coefficient == 0 for m, c in _terms(a).items()
        ):
            return 0
    return _call("mod", a, b)


def maximum(a: Dim, b: Dim) -> Dim:
    """The larger of two dims."""
    return _extreme("max", a, b)


def minimum(a: Dim, b: Dim) -> Dim:
    """The smaller of two dims."""
    return _extreme("min", a, b)


def _extreme(function: str, a: Dim, b: Dim) -> Dim:
    difference = add(a, mul(b, -1))
    if isinstance(difference, int):
        larger, smaller = (a, b) if difference >= 0 else (b, a)
        return larger if function == "max" else smaller
    if nonnegative(difference):
        return a if function == "max" else b
    if nonnegative(mul(difference, -1)):
        return b if function == "max" else a
    first, second = sorted((a, b), key=str)
    return _call(function, first, second)


def nonnegative(d: Dim) -> bool:
    """Whether a dim is known to be at least 0: symbols are sizes, and so never negative."""
    if isinstance(d, int):
        return d >= 0
    return all(c > 0 and all(_nonnegative_atom(atom) for atom, _ in monomial) for monomial, c in d.terms)


def _nonnegative_atom(atom: Atom) -> bool:
    if isinstance(atom, Symbol):
        return True
    a, b = map(nonnegative, atom.args)
    return (a or b) if atom.function == "max" else b if atom.function == "mod" else a and b


def _call(function: str, a: Dim, b: Dim) -> Dim:
    return Expr(((((Call(function, (a, b)), 1),), 1),))


def call(function: str, a: Dim, b: Dim) -> Dim:
    """One of the four functions by name: floordiv, mod, max, min."""
    return {"floordiv": floordiv, "mod": mod, "max": maximum, "min": minimum}[function](a, b)


def product(dims: tuple[Dim, ...] | list[Dim]) -> Dim:
    """The product of dims; 1 for none."""
    total: Dim = 1
    for d in dims:
        total = mul(total, d)
    return total


def symbols(d: Dim) -> frozenset[str]:
    """The names of the symbols that occur in a dim."""
    if isinstance(d, int):
        return frozenset()
    found: set[str] = set()
    for monomial, _ in d.terms:
        for atom, _power in monomial:
            if isinstance(atom, Symbol):
                found.add(atom.name)
            else:
                found |= symbols(atom.args[0]) | symbols(atom.args[1])
    return frozenset(found)


def symbols_in(attribute: object) -> frozenset[str]:
    """The names of the symbols that occur in an attribute, in nested dims too."""
    if isinstance(attribute, Expr):
        return symbols(attribute)
    return frozenset().union(*map(symbols_in, attribute)) if isinstance(attribute, tuple) else frozenset()


def evaluate(d: Dim, values: Mapping[str, int]) -> int:
    """The value of a dim where every symbol has one. Raises KeyError for a symbol without a value."""
    if isinstance(d, int):
        return d
    total = 0
    for monomial, coefficient in d.terms:
        term = coefficient
        for atom, power in monomial:
            if isinstance(atom, Symbol):
                value = values[atom.name]
            else:
                value = _FUNCTIONS[atom.function](evaluate(atom.args[0], values), evaluate(atom.args[1], values))
            term *= value**power
        total += term
    return total


def substitute(d: Dim, values: Mapping[str, Dim]) -> Dim:
    """The dim with some symbols replaced by other dims."""
    if isinstance(d, int) or not symbols(d) & values.keys():
        return d
    total: Dim = 0
    for monomial, coefficient in d.terms:
        term: Dim = coefficient
        for atom, power in monomial:
            if isinstance(atom, Symbol):
                value = values.get(atom.name, sym(atom.name))
            else:
                value = call(atom.function, substitute(atom.args[0], values), substitute(atom.args[1], values))
            for _ in range(power):
                term = mul(term, value)
        total = add(total, term)
    return total


def solve(d: Dim, value: int, known: Mapping[str, int]) -> tuple[str, int] | None:
    """Solve `d == value` for the one unknown symbol that occurs linearly: (name, value), or None if it cannot be.

    Raises ValueError when the equation has no integer solution.
    """
    reduced = substitute(d, dict(known))
    if isinstance(reduced, int):
        return None
    constant = 0
    unknown: tuple[str, int] | None = None
    for monomial, coefficient in reduced.terms:
        if not monomial:
            constant = coefficient
            continue
        atom, power = monomial[0]
        if unknown is not None or len(monomial) != 1 or power != 1 or not isinstance(atom, Symbol):
            return None
        unknown = (atom.name, coefficient)
    if unknown is None:
        return None
    name, coefficient = unknown
    if (value - constant) % coefficient:
        raise ValueError(f"{d} == {value} has no whole-number solution")
    return name, (value - constant) // coefficient


def _render(terms: tuple[tuple[Monomial, int], ...]) -> str:
    parts: list[str] = []
    for monomial, coefficient in terms:
        magnitude = abs(coefficient)
        alone = magnitude == 1 and coefficient > 0 and len(terms) == 1 and len(monomial) == 1 and monomial[0][1] == 1
        factors = ["*".join([_atom_text(a, alone)] * p) for a, p in monomial]
        if magnitude != 1 or not factors:
            factors.insert(0, str(magnitude))
        text = "*".join(factors)
        if not parts:
            parts.append(f"-{text}" if coefficient < 0 else text)
        else:
            parts.append(f"- {text}" if coefficient < 0 else f"+ {text}")
    return " ".join(parts)


def _atom_text(atom: Atom, alone: bool) -> str:
    divides = isinstance(atom, Call) and atom.function in ("floordiv", "mod")
    return f"({atom})" if divides and not alone else str(atom)


@dataclass(frozen=True, slots=True)
class Bounds:
    """Inclusive bounds of a symbol; `high` None means unbounded."""

    low: int = 0
    high: int | None = None

    def __str__(self) -> str:
        return f"{self.low}..{'' if self.high is None else self.high}"
