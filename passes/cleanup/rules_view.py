"""Views, joins and splits that undo or repeat each other: elements only move. Pointwise operators across views."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mcomp.ir import dims
from mcomp.ir.dims import Dim
from mcomp.ir.edit import Editor
from mcomp.ir.graph import Node, Value
from mcomp.manager import PassEffect
from mcomp.passes.cleanup.rules_identity import keeps_type
from mcomp.rewrite import NO, Match, Miss, Rule, op, rule, var
from mcomp.rewrite.facts import ramp

x = var("x")
_RESHAPES = "reshape|squeeze|unsqueeze"


@rule("same_view", op("reshape|expand|slice|squeeze|unsqueeze|pad|repeat|roll|flip|repeat_interleave", x),
      check=lambda match: NO if _moves(match.root) else keeps_type(match))
def same_view(match: Match, editor: Editor) -> Value:
    """A view that shows all of x in place -> x."""
    return match["x"]


def _moves(node: Node) -> bool:
    """Whether elements change places although the type is kept."""
    name, attrs = node.op.name, node.attrs
    if name == "slice":
        return attrs["start"] != 0 or attrs["step"] != 1
    if name == "pad":
        return any(d != 0 for d in (*attrs["low"], *attrs["high"]))
    if name == "roll":
        return any(d != 0 for d in attrs["shifts"])
    if name == "flip":
        return any(node.type.shape[a] != 1 for a in attrs["axes"])
    if name == "repeat":
        return any(d != 1 for d in attrs["repeats"])
    return name == "repeat_interleave" and attrs["repeats"] != 1


@rule("drop_contiguous", op("contiguous", x), check=keeps_type)
def drop_contiguous(match: Match, editor: Editor) -> Value:
    """contiguous(x) -> x."""
    return match["x"]


@rule("merge_reshapes", op(_RESHAPES, op(_RESHAPES, x)))
def merge_reshapes(match: Match, editor: Editor) -> Value:
    """A reshape, squeeze or unsqueeze of another -> one reshape, or x."""
    if match["x"].type == match.root.type:
        return match["x"]
    return match.add(editor, "reshape", [match["x"]], {"shape": match.root.type.shape})


@rule("merge_permutes", op("permute", op("permute", x)))
def merge_permutes(match: Match, editor: Editor) -> Value:
    """permute(permute(x)) -> one permute."""
    outer, inner = match.nodes[0].attrs["order"], match.nodes[1].attrs["order"]
    return match.add(editor, "permute", [match["x"]], {"order": tuple(inner[i] for i in outer)})


def _check_still(match: Match) -> Miss | None:
    shape, order = match["x"].tensor.shape, match.root.attrs["order"]
    moved = [i for i in order if shape[i] != 1]
    return None if moved == sorted(moved) else NO


@rule("permute_nothing", op("permute", x), check=_check_still)
def permute_nothing(match: Match, editor: Editor) -> Value:
    """A permute that moves only axes of size 1 -> reshape, or x."""
    if match["x"].type == match.root.type and match.root.attrs["order"] == tuple(range(match.root.type.rank)):
        return match["x"]
    return match.add(editor, "reshape", [match["x"]], {"shape": match.root.type.shape})


@rule("merge_expands", op("expand", op("expand", x)))
def merge_expands(match: Match, editor: Editor) -> Value:
    """expand(expand(x)) -> one expand."""
    return match.add(editor, "expand", [match["x"]], {"shape": match.root.attrs["shape"]})


def _check_slices(match: Match) -> Miss | None:
    outer, inner = (n.attrs for n in match.nodes[:2])
    return None if outer["axis"] == inner["axis"] and outer["step"] == inner["step"] == 1 else NO


@rule("merge_slices", op("slice", op("slice", x)), check=_check_slices)
def merge_slices(match: Match, editor: Editor) -> Value:
    """slice(slice(x)) along one axis -> one slice."""
    outer, inner = (n.attrs for n in match.nodes[:2])
    start = dims.add(inner["start"], outer["start"])
    stop = dims.add(inner["start"], outer["stop"])
    return match.add(editor, "slice", [match["x"]], {"axis": outer["axis"], "start": start, "stop": stop})


@rule("cat_one", op("cat", x))
def cat_one(match: Match, editor: Editor) -> Value:
    """cat of one tensor -> the tensor."""
    return match["x"]


def _present(node: Node) -> list[Value]:
    return [v for v in node.operands if v is not None]


def _check_cat_parts(match: Match) -> Miss | None:
    axis = match.root.attrs["axis"]
    parts = _present(match.root)
    return None if len(parts) > 1 and any(v.tensor.shape[axis] == 0 or _inner_cat(v, axis) for v in parts) else NO


def _inner_cat(value: Value, axis: int) -> bool:
    made = value.producer
    return made is not None and made.op.name == "cat" and made.attrs["axis"] == axis and len(value.uses) == 1


@rule("flatten_cat", op("cat", rest=True), check=_check_cat_parts)
def flatten_cat(match: Match, editor: Editor) -> Value:
    """cat(cat(a, b), c) -> cat(a, b, c); empty parts go."""
    axis = match.root.attrs["axis"]
    parts: list[Value] = []
    for value in _present(match.root):
        if _inner_cat(value, axis) and value.producer is not None:
            parts += _present(value.producer)
        elif value.tensor.shape[axis] != 0:
            parts.append(value)
    parts = parts or [match.root.operand(0)]
    return match.add(editor, "cat", parts, {"axis": axis})


def _check_rejoined(match: Match) -> Miss | None:
    pieces = _present(match.root)
    source = pieces[0].producer
    if source is None or source.op.name != "split" or source.attrs["axis"] != match.root.attrs["axis"]:
        return NO
    return None if tuple(pieces) == source.results and source.operand(0).type == match.root.type else NO


@rule("rejoin_split", op("cat", rest=True), check=_check_rejoined)
def rejoin_split(match: Match, editor: Editor) -> Value:
    """cat of all pieces of a split, in order -> what was split."""
    source = match.root.operand(0).producer
    assert source is not None
    return source.operand(0)


def _part_of_cat(match: Match) -> tuple[Value, Dim] | None:
    """The part of a cat that a slice or select of it lies in, and where the part starts."""
    node, joined = match.nodes[0], match.nodes[1]
    axis = joined.attrs["axis"]
    if node.attrs["axis"] != axis:
        return None
    first = node.attrs["start"] if node.op.name == "slice" else node.attrs["index"]
    last = node.attrs["stop"] if node.op.name == "slice" else dims.add(first, 1)
    start: Dim = 0
    for value in _present(joined):
        stop = dims.add(start, value.tensor.shape[axis])
        if _at_most(start, first) and _at_most(last, stop) and _at_most(first, stop):
            return value, start
        start = stop
    return None


def _at_most(a: Dim, b: Dim) -> bool:
    """Whether a <= b whatever the symbols are, as far as their difference shows."""
    difference = dims.add(b, dims.mul(a, -1))
    return isinstance(difference, int) and difference >= 0


@rule("slice_of_cat", op("slice|select", op("cat", rest=True)), check=lambda m: None if _part_of_cat(m) else NO)
def slice_of_cat(match: Match, editor: Editor) -> Value:
    """A slice of a cat that lies in one part -> a slice of the part."""
    found = _part_of_cat(match)
    assert found is not None
    value, start = found
    back = dims.mul(start, -1)
    attrs: dict[str, Any] = dict(match.root.attrs)
    for name in ("start", "stop", "index"):
        if name in attrs:
            attrs[name] = dims.add(attrs[name], back)
    return match.add(editor, match.root.op.name, [value], attrs)


@rule("split_one", op("split", x, index=None), check=lambda m: None if len(m.root.results) == 1 else NO)
def split_one(match: Match, editor: Editor) -> Sequence[Value]:
    """split into one piece -> what is split."""
    return [match["x"]]


def _check_parts(match: Match) -> Miss | None:
    split, joined = match.nodes[0], match.nodes[1]
    axis = joined.attrs["axis"]
    sizes = tuple(v.tensor.shape[axis] for v in _present(joined))
    return None if split.attrs["axis"] == axis and sizes == split.attrs["sizes"] else NO


@rule("split_of_cat", op("split", op("cat", rest=True), index=None), check=_check_parts)
def split_of_cat(match: Match, editor: Editor) -> Sequence[Value]:
    """split of a cat where it was joined -> the parts."""
    return _present(match.nodes[1])


_BROADCASTING = (
    "add|sub|mul|div|maximum|minimum|fmax|fmin|remainder|fmod|eq|ne|lt|le|gt|ge|logical_and|logical_or|logical_xor|"
    "bitwise_and|bitwise_or|bitwise_xor|where|clamp"
)


def _stretched(node: Node) -> dict[int, Value]:
    """Operands that an expand stretched, by index, whose stretching the operator's broadcasting does anyway."""
    from mcomp.errors import IRError

    found: dict[int, Value] = {}
    types = [None if v is None else v.tensor for v in node.operands]
    for i, value in enumerate(node.operands):
        made = None if value is None else value.producer
        if made is None or made.op.name != "expand" or made.operands[0] is None:
            continue
        before, types[i] = types[i], made.operands[0].tensor
        try:
            kept = node.op.infer(types, node.attrs) == (node.results[0].type,)
        except IRError:
            kept = False
        if kept:
            found[i] = made.operands[0]
        else:
            types[i] = before
    return found


@rule("broadcast_expand", op(_BROADCASTING, rest=True), check=lambda m: None if _stretched(m.root) else NO)
def broadcast_expand(match: Match, editor: Editor) -> None:
    """f(expand(x), y) -> f(x, y) where broadcasting gives the same shape."""
    operands = list(match.root.operands)
    for i, value in _stretched(match.root).items():
        operands[i] = value
    editor.set_operands(match.root, tuple(operands))
    editor.set_loc(match.root, match.loc("broadcast_expand"))


_PLAIN = "cast|neg|abs|relu|relu6|hardtanh|logical_not|bitwise_not|floor|ceil|trunc|sign|square|sqrt"
"""Operators of one operand whose result does not depend on how an element lies in memory."""
_VECTORIZED = (
    "exp|log|rsqrt|reciprocal|sin|cos|tanh|sigmoid|gelu|silu|erf|mish|softplus|elu|leaky_relu|hardswish|hardsigmoid"
)
"""Operators that vector code and scalar code may round differently."""


def _sink_expand(match: Match, editor: Editor) -> Value:
    """f(expand(x)) -> expand(f(x)) for f of one operand: fewer elements to compute."""
    small = match.add(editor, match.root.op.name, [match["x"]], match.root.attrs)
    return match.add(editor, "expand", [small], {"shape": match.root.type.shape})


_HOISTING = frozenset({"reshape", "permute", "squeeze", "unsqueeze"})
_PRODUCERS = frozenset({"linear", "matmul", "conv", "conv_transpose", "batch_norm"})


def _leads_to_layer(value: Value) -> bool:
    """Whether a value is a layer's result, seen through views that nobody else needs."""
    while len(value.uses) == 1 and value.producer is not None:
        if value.producer.op.name in _PRODUCERS:
            return True
        if value.producer.op.name not in _HOISTING:
            return False
        value = value.producer.operand(0)
    return False


def _check_hoist(match: Match) -> Miss | None:
    return None if _leads_to_layer(match.root.operand(0)) else NO


def _hoist(match: Match, editor: Editor) -> Value:
    """f(view(layer(y))) -> view(f(layer(y))) for f of one operand: the layer's kernel can compute f."""
    view = match.nodes[1]
    inner = match.add(editor, match.root.op.name, [match["x"]], match.root.attrs)
    return match.add(editor, view.op.name, [inner], view.attrs)


def _moves_of(names: str, effect: PassEffect) -> tuple[Rule, ...]:
    views = op("|".join(sorted(_HOISTING)), x)
    return (
        Rule("sink_expand", op(names, op("expand", x)), _sink_expand, None, effect),
        Rule("hoist_pointwise", op(names, views), _hoist, _check_hoist, effect),
    )


def _check_ramps(match: Match) -> Miss | None:
    node = match.root
    source, shape = match["x"].tensor, node.type.shape
    indices = node.operands[1:]
    if node.attrs["axes"] != tuple(range(source.rank)) or len(indices) != source.rank:
        return NO
    places = []
    for size, value in zip(source.shape, indices):
        found = None if value is None else ramp(value)
        if value is None or found is None or found[1:] != (0, 1) or value.tensor.shape[found[0]] != size:
            return NO
        places.append(len(shape) + found[0])
    others = [d for i, d in enumerate(shape) if i not in places]
    in_order = places == sorted(set(places)) and all(d == 1 for d in others)
    return None if in_order and [shape[i] for i in places] == list(source.shape) else NO


@rule("index_everything", op("index", x, rest=True), check=_check_ramps)
def index_everything(match: Match, editor: Editor) -> Value:
    """x[0..n-1, 0..m-1] by index tensors -> reshape of x."""
    return match.add(editor, "reshape", [match["x"]], {"shape": match.root.type.shape})


@rule("embedding_of_expand", op("embedding", var("weight"), op("expand", x)))
def embedding_of_expand(match: Match, editor: Editor) -> Value:
    """Rows of a table by indices that repeat -> the rows once, repeated; constants fold."""
    rows = match.add(editor, "embedding", [match["weight"], match["x"]])
    return match.add(editor, "expand", [rows], {"shape": match.root.type.shape})


VIEW_RULES: tuple[Rule, ...] = (
    same_view, drop_contiguous, merge_reshapes, merge_permutes, permute_nothing, merge_expands, merge_slices, cat_one,
    flatten_cat, rejoin_split, slice_of_cat, split_one, split_of_cat, broadcast_expand,
    index_everything, embedding_of_expand, *_moves_of(_PLAIN, PassEffect.EXACT),
)

MOVED_POINTWISE_RULES: tuple[Rule, ...] = _moves_of(_VECTORIZED, PassEffect.ROUNDING)
