"""What can be told about an attention mask without running the model."""

from __future__ import annotations

import math

import numpy as np

from mcomp.ir.dtypes import DType
from mcomp.ir.encoding import DENSE
from mcomp.ir.graph import Node, Value
from mcomp.rewrite.facts import interval, number_of, ramp

HIDDEN = -1e30
"""Added to a score, a number at or below this leaves it no weight, in f32 and bf16."""
_HIDDEN_F16 = -6e4
LARGEST = {
    "f16": 65504.0, "bf16": float.fromhex("0x1.fep127"), "f32": float.fromhex("0x1.fffffep127"),
    "f64": float.fromhex("0x1.fffffffffffffp1023"),
}
"""The largest number of an element type."""
_LARGEST = 1 << 24
_VIEWS = ("expand", "reshape", "squeeze", "unsqueeze", "contiguous")
_DEPTH = 24


def hides(number: object, dtype: str) -> bool:
    """Whether adding a number to a score, or putting it in its place, leaves the score no weight."""
    limit = _HIDDEN_F16 if dtype == "f16" else HIDDEN
    return isinstance(number, (int, float)) and number <= limit


def _same_last_axes(node: Node) -> bool:
    """Whether a view keeps its operand's last two axes, so that rows stay rows."""
    return _same_rows(node.operand(0), node.results[0])


def _same_rows(a: Value, b: Value) -> bool:
    """Whether two values have the same last two axes."""
    return a.tensor.rank >= 2 and a.tensor.shape[-2:] == b.tensor.shape[-2:]


def causal(value: Value, depth: int = _DEPTH) -> bool:
    """Whether a mask, bool or added, keeps for row i exactly columns 0 to i, as long as its rows are not stretched."""
    node = value.producer
    if node is None or depth == 0 or value.tensor.rank < 2:
        return False
    name = node.op.name
    if name == "const":
        return _constant_causal(value)
    if name in _VIEWS:
        return _same_last_axes(node) and causal(node.operand(0), depth - 1)
    if name == "where":
        if not _same_rows(node.operand(0), value):
            return False
        dtype = value.tensor.dtype.name
        kept, hidden = number_of(node.operand(1)), number_of(node.operand(2))
        if kept == 0 and hides(hidden, dtype):
            return causal(node.operand(0), depth - 1)
        return hidden == 0 and hides(kept, dtype) and anticausal(node.operand(0), depth - 1)
    if name in ("logical_not", "bitwise_not"):
        return anticausal(node.operand(0), depth - 1)
    if name == "tril":
        return node.attrs["diagonal"] == 0 and number_of(node.operand(0)) is True
    return _compares(node, ("le", "ge"))


def anticausal(value: Value, depth: int = _DEPTH) -> bool:
    """Whether a bool tensor is true exactly above the diagonal."""
    node = value.producer
    if node is None or depth == 0:
        return False
    name = node.op.name
    if name in _VIEWS:
        return _same_last_axes(node) and anticausal(node.operand(0), depth - 1)
    if name in ("logical_not", "bitwise_not"):
        return causal(node.operand(0), depth - 1)
    if name == "triu":
        return node.attrs["diagonal"] == 1 and number_of(node.operand(0)) is True
    return _compares(node, ("gt", "lt"))


def _compares(node: Node, names: tuple[str, str]) -> bool:
    """Whether a node compares column indices with row indices that start and step alike."""
    if node.op.name not in names or node.type.rank < 2:
        return False
    left, right = (node.operand(0), node.operand(1)) if node.op.name == names[0] else (node.operand(1), node.operand(0))
    columns, rows = ramp(left), ramp(right)
    if columns is None or rows is None or (columns[0], rows[0]) != (-1, -2):
        return False
    stretched = left.tensor.shape[-1] != node.type.shape[-1] or right.tensor.shape[-2] != node.type.shape[-2]
    return not stretched and columns[1:] == rows[1:] and columns[2] > 0


def _constant_causal(value: Value) -> bool:
    data = _data(value)
    if data is None or data.shape[-1] != data.shape[-2] or not data.size:
        return False
    wanted = np.tril(np.ones(data.shape[-2:], bool))
    if data.dtype == bool:
        return bool((data == wanted).all())
    limit = _HIDDEN_F16 if value.tensor.dtype.name == "f16" else HIDDEN
    return bool(((data == 0) == wanted).all() and ((data <= limit) == ~wanted).all())


def _data(value: Value) -> np.ndarray | None:
    weight = value.weight
    if weight is None or weight.type.encoding != DENSE or value.tensor.rank < 2:
        return None
    data = weight.decode()
    return data if data.size <= _LARGEST else None


def rows_kept(value: Value, depth: int = _DEPTH) -> bool:
    """Whether a bool mask is known to keep a column in every row."""
    node = value.producer
    if number_of(value) is True or causal(value):
        return True
    if node is None or depth == 0:
        return False
    name = node.op.name
    if name == "const":
        data = _data(value)
        return data is not None and bool((data != 0).any(axis=-1).all())
    if name in _VIEWS:
        return _same_last_axes(node) and rows_kept(node.operand(0), depth - 1)
    if name in ("logical_or", "bitwise_or"):
        return any(
            v is not None and v.tensor.shape[-2:] == value.tensor.shape[-2:] and rows_kept(v, depth - 1)
            for v in node.operands
        )
    return False


def rows_above(value: Value, least: float) -> bool:
    """Whether a constant is known to hold a number above `least` in every row."""
    data = _data(value)
    return data is not None and bool((data > least).any(axis=-1).all())


_THROUGH = ("add", "sub", "where", "permute", "slice", "select", "neg", "cat", "index", "gather", "take", "pad",
            "maximum", "repeat", "flip", "roll", "repeat_interleave", *_VIEWS)


def lost_below(source: DType, target: DType) -> float:
    """The highest number that a cast may turn into -inf; -inf where the type holds all numbers of the source."""
    largest = LARGEST.get(target.name, math.inf)
    return math.nextafter(-largest, -math.inf) if largest < LARGEST.get(source.name, math.inf) else -math.inf


def may_hide_rows(value: Value, depth: int = _DEPTH, low: float = -math.inf) -> bool:
    """Whether something added to scores may be -inf along a whole row: softmax then gives NaN, attention zeros. Numbers at
    or below `low` become -inf later, by a cast.

    Results of layers count as finite, as the scores do; graph inputs, constants with infinities and products with huge
    numbers do not.
    """
    known = interval(value)
    if known is not None and known[0] > low:
        return False
    node = value.producer
    if node is None or depth == 0:
        return True
    name = node.op.name
    if name == "where" and number_of(node.operand(1)) == 0 and _at_most(node.operand(2), low):
        return not rows_kept(node.operand(0))
    if name == "const":
        return not rows_above(value, low)
    if causal(value):
        return False
    if name == "full":
        return True
    if name == "cast":
        source = node.operand(0)
        if not source.tensor.dtype.is_float:
            return known is not None
        return may_hide_rows(source, depth - 1, max(low, lost_below(source.tensor.dtype, node.type.dtype)))
    if known is not None and low > -math.inf and name in ("add", "sub", "neg", "mul", "div"):
        return True
    if name in _THROUGH:
        given = node.operands[1:] if name == "where" else node.operands
        return any(v is not None and v.tensor.dtype.is_float and may_hide_rows(v, depth - 1, low) for v in given)
    if name in ("mul", "div"):
        numbers = [number_of(v) for v in node.operands if v is not None]
        if any(isinstance(n, (int, float)) and not abs(n) < -max(HIDDEN, low) for n in numbers):
            return True
        return any(v is not None and may_hide_rows(v, depth - 1, low) for v in node.operands)
    return name in ("log", "log1p", "log2")


def _at_most(value: Value, limit: float) -> bool:
    """Whether a value is one number, and that no higher than a limit."""
    known = number_of(value)
    return isinstance(known, (int, float)) and known <= limit
