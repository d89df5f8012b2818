"""Rotary position embedding written out, back into `rope`. Exact: `rope` computes the same products and sum."""

from __future__ import annotations

from mcomp.ir import dims
from mcomp.ir.dims import Dim
from mcomp.ir.edit import Editor
from mcomp.ir.graph import Node, Value
from mcomp.passes.cleanup.rules_attention import fits_op
from mcomp.rewrite import NO, Match, Miss, Pattern, Rule, either, op, rule, var

x = var("x")


def _half(index: int, name: str) -> Pattern:
    return either(op("slice", var("y"), bind=name), op("split", var("y"), bind=name, index=index))


_rotated = op("cat", op("neg", _half(1, "second")), _half(0, "first"), bind="cat")


def _offset(match: Match) -> Dim | None:
    """Where x starts along the last axis of y, which it is or is a slice of; None when it is neither."""
    x, y = match["x"], match["y"]
    if x is y:
        return 0
    node = x.producer
    if node is None or node.op.name != "slice" or node.operand(0) is not y or node.attrs["step"] != 1:
        return None
    return node.attrs["start"] if node.attrs["axis"] == x.tensor.rank - 1 else None  # type: ignore[no-any-return]


def _takes(node: Node, start: Dim, stop: Dim, which: int) -> bool:
    """Whether a slice takes [start, stop) of the last axis, or a split into halves gives that half."""
    if node.attrs["axis"] != node.operand(0).tensor.rank - 1:
        return False
    half = dims.add(stop, dims.mul(start, -1))
    if node.op.name == "split":
        return bool(node.attrs["sizes"] == (half, half)) and start == dims.mul(half, which)
    return bool((node.attrs["start"], node.attrs["stop"], node.attrs["step"]) == (start, stop, 1))


def _broadcasts(match: Match) -> bool:
    types = [match[n].tensor for n in ("x", "cos", "sin")]
    return match.root.type == types[0] and fits_op("rope", types, match.root)


def _check_halves(match: Match) -> Miss | None:
    cat = match.node("cat")
    if cat.attrs["axis"] != cat.type.rank - 1 or not _broadcasts(match):
        return NO
    offset, size = _offset(match), match["x"].tensor.shape[-1]
    if offset is None or not isinstance(size, int) or size % 2:
        return NO
    middle, end = dims.add(offset, size // 2), dims.add(offset, size)
    first = _takes(match.node("first"), offset, middle, 0)
    return None if first and _takes(match.node("second"), middle, end, 1) else NO


@rule("rope", op("add", op("mul", x, var("cos")), op("mul", _rotated, var("sin"))), check=_check_halves)
def rope(match: Match, editor: Editor) -> Value:
    """x * cos + cat(-x[..., d/2:], x[..., :d/2]) * sin -> rope(x, cos, sin)."""
    return match.add(editor, "rope", [match["x"], match["cos"], match["sin"]])


_pairs = op("reshape", op(
    "cat", op("reshape|unsqueeze", op("neg", op("slice", x, bind="odd")), bind="odd_column"),
    op("reshape|unsqueeze", op("slice", x, bind="even"), bind="even_column"), bind="cat",
), bind="flat")


def _every_other(node: Node, start: int) -> bool:
    size = node.operand(0).tensor.shape[-1]
    attrs = node.attrs
    last = node.type.rank - 1
    if dims.mod(size, 2) != 0 or attrs["axis"] != last or attrs["step"] != 2 or attrs["start"] != start:
        return False
    return node.type.shape[-1] == dims.floordiv(size, 2)


def _check_pairs(match: Match) -> Miss | None:
    cat, flat = match.node("cat"), match.node("flat")
    columns = [match.node(n) for n in ("odd_column", "even_column")]
    if cat.attrs["axis"] != cat.type.rank - 1 or flat.type.shape != match["x"].tensor.shape:
        return NO
    if any(c.type.shape != (*c.operand(0).tensor.shape, 1) for c in columns) or not _broadcasts(match):
        return NO
    return None if _every_other(match.node("odd"), 1) and _every_other(match.node("even"), 0) else NO


@rule("rope_interleaved", op("add", op("mul", x, var("cos")), op("mul", _pairs, var("sin"))), check=_check_pairs)
def rope_interleaved(match: Match, editor: Editor) -> Value:
    """x * cos + stack(-x[..., 1::2], x[..., ::2]).flatten * sin -> rope(x, cos, sin) {interleaved = true}."""
    return match.add(editor, "rope", [match["x"], match["cos"], match["sin"]], {"interleaved": True})


ROPE_RULES: tuple[Rule, ...] = (rope, rope_interleaved)
