"""Reading attention scores that are written out: query @ keyᵀ, scaled, with masks and biases."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from mcomp.ir.dims import Dim
from mcomp.ir.dtypes import DType
from mcomp.ir.edit import Editor
from mcomp.ir.graph import Node, Value
from mcomp.ir.types import TensorType
from mcomp.passes.cleanup.masks import LARGEST, anticausal, causal, hides, lost_below, may_hide_rows, rows_above, rows_kept
from mcomp.rewrite import Match, Miss
from mcomp.rewrite.facts import as_held, interval, number_of

Shape = tuple[Dim, ...]
_DEPTH = 16
_LARGE = {"f16": 3e4, "f64": 8e307}
_LARGE_DEFAULT = 1.7e38
"""Two numbers up to this may be added in an element type without overflow."""
_SAME_ELEMENTS = ("cast", "reshape", "expand", "squeeze", "unsqueeze", "contiguous", "permute", "slice")


@dataclass(frozen=True)
class Term:
    """What is done to the scores. kind `add`: `value` times `factor` is added. `keep` and `hide`: `fill` stands where
    the bool `value` is false, or true. `leading`: the leading axes of the scores there. `low`: numbers of `value` at or
    below this are -inf in the end, for the scores are cast to a type that does not hold them."""

    kind: str
    value: Value
    fill: float
    leading: Shape
    factor: float = 1.0
    low: float = -math.inf

    def scaled(self, by: float, dtype: DType) -> Term | None:
        """The term after a product with a positive number behind it; None when what it hides would not stay hidden."""
        if self.kind == "add":
            return replace(self, factor=self.factor * by)
        fill = as_held(self.fill * by, dtype)
        return replace(self, fill=fill) if isinstance(fill, float) and hides(fill, dtype.name) else None

    def cast(self, source: DType, target: DType) -> Term:
        """The term after a cast of the scores behind it."""
        if self.kind == "add":
            return replace(self, low=max(self.low, lost_below(source, target) / self.factor))
        fill = as_held(self.fill, target)
        return replace(self, fill=fill) if isinstance(fill, float) else self


@dataclass(frozen=True)
class Scores:
    """query @ keys * scale, then the terms; `nodes` computes it, last first."""

    product: Node
    scale: float
    terms: tuple[Term, ...]
    nodes: tuple[Node, ...]


def read_scores(value: Value, depth: int = _DEPTH) -> Scores | None:
    """The scores that a value is, or None."""
    node = value.producer
    if node is None or depth == 0 or value.tensor.rank < 2 or not value.tensor.dtype.is_float:
        return None
    name = node.op.name
    if name == "matmul":
        return Scores(node, 1.0, (), (node,))
    if name in ("cast", "reshape"):
        same_rows = node.operand(0).tensor.shape[-2:] == value.tensor.shape[-2:]
        inner = read_scores(node.operand(0), depth - 1) if same_rows else None
        return None if inner is None else _with_node(_cast(inner, node), node)
    if name in ("mul", "div"):
        return _read_scaled(node, depth)
    if name == "add":
        return _read_sum(node, depth)
    return _read_choice(node, depth) if name == "where" else None


def _cast(scores: Scores, node: Node) -> Scores:
    """Scores behind a cast or a view of them."""
    source, target = node.operand(0).tensor.dtype, node.type.dtype
    return scores if source == target else replace(scores, terms=tuple(t.cast(source, target) for t in scores.terms))


def _with_node(scores: Scores | None, node: Node, term: Term | None = None) -> Scores | None:
    if scores is None:
        return None
    terms = scores.terms if term is None else (*scores.terms, term)
    return replace(scores, terms=terms, nodes=(node, *scores.nodes))


def _read_scaled(node: Node, depth: int) -> Scores | None:
    for i in (0, 1) if node.op.name == "mul" else (0,):
        known = number_of(node.operand(1 - i))
        if not isinstance(known, float) or not math.isfinite(known) or known == 0:
            continue
        if node.operand(i).type != node.results[0].type or node.attrs.get("rounding", "none") != "none":
            continue
        inner = read_scores(node.operand(i), depth - 1)
        by = known if node.op.name == "mul" else 1 / known
        if inner is None or (inner.terms and by < 0):
            return None
        terms = [t.scaled(by, node.type.dtype) for t in inner.terms]
        kept = tuple(t for t in terms if t is not None)
        if len(kept) < len(terms):
            return None
        return _with_node(replace(inner, scale=inner.scale * by, terms=kept), node)
    return None


def _read_sum(node: Node, depth: int) -> Scores | None:
    for i in (0, 1):
        value, mask = node.operand(i), node.operand(1 - i)
        if value.type != node.results[0].type:
            continue
        inner = read_scores(value, depth - 1)
        if inner is not None:
            return _with_node(inner, node, Term("add", mask, 0.0, node.type.shape[:-2]))
    return None


def _read_choice(node: Node, depth: int) -> Scores | None:
    condition = node.operand(0)
    for i, kind in ((1, "keep"), (2, "hide")):
        fill = number_of(node.operand(3 - i))
        if not isinstance(fill, float) or not hides(fill, node.type.dtype.name):
            continue
        if node.operand(i).type != node.results[0].type:
            continue
        inner = read_scores(node.operand(i), depth - 1)
        return _with_node(inner, node, Term(kind, condition, fill, node.type.shape[:-2]))
    return None


def hidden_rows(scores: Scores) -> Miss | None:
    """Why a whole row might be hidden by -inf, which gives NaN when written out and zeros in attention."""
    large = []
    for term in scores.terms:
        keeps = _keeps_rows(term)
        if (term.kind == "add" and may_hide_rows(term.value, low=term.low)) or (term.fill == -math.inf and not keeps):
            return _miss(term)
        if _may_overflow(term):
            large.append((term, keeps))
    if len(large) < 2 or (len(large) == 2 and any(keeps for _, keeps in large)):
        return None
    return _miss(large[-1][0])


def not_held(scores: Scores, dtype: DType) -> Miss | None:
    """Why a row that finite numbers hide whole, which gives the mean of all values, might be hidden by -inf in `dtype`."""
    limit = LARGEST[dtype.name]
    for term in scores.terms:
        if term.kind == "add":
            held = term.value.tensor.dtype == dtype or _adds_within(term, limit)
        else:
            held = term.fill == -math.inf or (term.fill >= -limit and hides(term.fill, dtype.name))
        if not held:
            return Miss(
                f"%{term.value.name} hides scores with numbers that {dtype}, the type of the queries, may not hold",
                f"hide with a number that is finite in {dtype}, or with -inf where no row is hidden whole",
            )
    return None


def _adds_within(term: Term, limit: float) -> bool:
    """Whether numbers no larger than `limit` are added, or lower ones that leave a column of every row."""
    low, high = (bound * term.factor for bound in _bounds(term.value))
    if high > limit:
        return False
    return low >= -limit or _keeps_rows(term) or causal(term.value) or rows_above(term.value, -limit / term.factor)


def _bounds(value: Value) -> tuple[float, float]:
    """Bounds of all elements: those that are known, else those of the element types that they went through."""
    largest = math.inf
    for _ in range(_DEPTH):
        known = interval(value)
        if known is not None:
            return max(known[0], -largest), min(known[1], largest)
        largest = min(largest, LARGEST.get(value.tensor.dtype.name, math.inf))
        node = value.producer
        if node is None or node.op.name not in _SAME_ELEMENTS:
            break
        value = node.operand(0)
    return -largest, largest


def _miss(term: Term) -> Miss:
    return Miss(
        f"%{term.value.name} may hide a whole row, which gives NaN here and zeros in attention",
        "hide with a large finite number instead of -inf, or call scaled_dot_product_attention",
    )


def _may_overflow(term: Term) -> bool:
    """Whether what a term adds is so low that the sum with another such may be -inf."""
    if term.kind != "add":
        return True
    known = interval(term.value)
    limit = _LARGE.get(term.value.tensor.dtype.name, _LARGE_DEFAULT)
    return known is not None and known[0] * term.factor < -limit


def _keeps_rows(term: Term) -> bool:
    """Whether the term is known to leave a column of every row as it is."""
    if term.kind == "keep":
        return rows_kept(term.value)
    if term.kind == "hide":
        return hides_no_row(term.value)
    node = term.value.producer
    if node is None or node.op.name != "where":
        return False
    if number_of(node.operand(1)) == 0:
        return rows_kept(node.operand(0))
    return number_of(node.operand(2)) == 0 and hides_no_row(node.operand(0))


def hides_no_row(value: Value) -> bool:
    """Whether what is true in a bool tensor is known to leave a column of every row."""
    node = value.producer
    if number_of(value) is False or anticausal(value):
        return True
    return node is not None and node.op.name in ("logical_not", "bitwise_not") and rows_kept(node.operand(0))


def regrouped(type: TensorType, term: Term, leading: Shape) -> Shape | None:
    """The shape in which a term's value applies to scores of other leading axes; None when there is none."""
    if term.leading == leading:
        return type.shape
    if all(d == 1 for d in type.shape[:-2]):
        return type.shape[-2:]
    if type.shape[:-2] == term.leading:
        return (*leading, *type.shape[-2:])
    return None


def combined_mask(match: Match, editor: Editor, scores: Scores, leading: Shape, dtype: DType) -> Value | None:
    """One mask for attention: bool where a single condition with -inf allows it, else a sum of numbers to add."""
    if len(scores.terms) == 1 and scores.terms[0].fill == -math.inf:
        term = scores.terms[0]
        kept = term.value if term.kind == "keep" else match.add(editor, "logical_not", [term.value])
        return _in_shape(match, editor, kept, term, leading)
    total: Value | None = None
    for term in scores.terms:
        value = _in_shape(match, editor, _as_number(match, editor, term, dtype), term, leading)
        total = value if total is None else match.add(editor, "add", [total, value])
    return total


def _as_number(match: Match, editor: Editor, term: Term, dtype: DType) -> Value:
    if term.kind == "add":
        value = term.value
        if value.tensor.dtype != dtype:
            value = match.add(editor, "cast", [value], {"dtype": dtype})
        if term.factor == 1:
            return value
        factor = match.add(editor, "full", [], {"value": term.factor, "shape": (), "dtype": dtype})
        return match.add(editor, "mul", [value, factor])
    zero, low = (
        match.add(editor, "full", [], {"value": v, "shape": (), "dtype": dtype}) for v in (0.0, term.fill)
    )
    return match.add(editor, "where", [term.value, zero, low] if term.kind == "keep" else [term.value, low, zero])


def _in_shape(match: Match, editor: Editor, value: Value, term: Term, leading: Shape) -> Value:
    shape = regrouped(value.tensor, term, leading)
    if shape is None or shape == value.tensor.shape:
        return value
    return match.add(editor, "reshape", [value], {"shape": shape})
