"""Rotary position embedding written out, back into `rope`. Exact: `rope` computes the same products and sum."""

from __future__ import annotations

from mcomp.ir import dims
from mcomp.ir.edit import Editor
from mcomp.ir.graph import Node, Value
from mcomp.passes.cleanup.rules_attention import fits_op
from mcomp.rewrite import NO, Match, Miss, Pattern, Rule, either, op, rule, var

x = var("x")


def _halves(index: int, name: str) -> Pattern:
    return either(op("slice", x, bind=name), op("split", x, bind=name, index=index))


_rotated = op("cat", op("neg", _halves(1, "second")), _halves(0, "first"), bind="cat")


def _is_half(node: Node, which: int) -> bool:
    """Whether a slice, or a split, takes half of the last axis of its operand."""
    shape = node.operand(0).tensor.shape
    size, axis = shape[-1], len(shape) - 1
    if not isinstance(size, int) or size % 2 or node.attrs["axis"] != axis:
        return False
    half = size // 2
    if node.op.name == "split":
        return node.attrs["sizes"] == (half, half)
    start, stop = (0, half) if which == 0 else (half, size)
    return (node.attrs["start"], node.attrs["stop"], node.attrs["step"]) == (start, stop, 1)


def _broadcasts(match: Match) -> bool:
    types = [match[n].tensor for n in ("x", "cos", "sin")]
    return match.root.type == types[0] and fits_op("rope", types, match.root)


def _check_halves(match: Match) -> Miss | None:
    cat = match.node("cat")
    if cat.attrs["axis"] != cat.type.rank - 1 or not _broadcasts(match):
        return NO
    return None if _is_half(match.node("first"), 0) and _is_half(match.node("second"), 1) else NO


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
