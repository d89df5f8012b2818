"""Attention written out, back into one operator; its masks, scales and repeated heads. Rounding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from mcomp.errors import IRError
from mcomp.ir import dims
from mcomp.ir.dims import Dim
from mcomp.ir.edit import Editor
from mcomp.ir.graph import Node, Value
from mcomp.ir.types import TensorType
from mcomp.ir.verifier import compatible
from mcomp.manager import PassEffect
from mcomp.ops.base import normalize, op_named
from mcomp.passes.cleanup.masks import causal
from mcomp.passes.cleanup.scores import Scores, combined_mask, hidden_rows, not_held, read_scores, regrouped
from mcomp.rewrite import NO, Match, Miss, Rule, either, maybe, number, op, rule, through, var
from mcomp.rewrite.facts import number_of

_ROUNDING = PassEffect.ROUNDING

_weights = through("cast|reshape", op("softmax", var("scores"), bind="softmax"))


def _check_attention(match: Match) -> Miss | None:
    softmax = match.node("softmax")
    scores = read_scores(match["scores"])
    if scores is None or softmax.attrs["axis"] != softmax.type.rank - 1:
        return NO
    query, keys, value = (v.tensor for v in (*_factors(scores), match["value"]))
    if query.rank < 3 or keys.rank != query.rank or value.rank != query.rank:
        return NO
    if query.shape[:-2] != keys.shape[:-2] or query.shape[:-2] != value.shape[:-2]:
        return NO
    shape = softmax.type.shape
    views = [n for n in match.nodes if n.op.name == "reshape"]
    if shape[-2:] != scores.product.type.shape[-2:] or any(n.type.shape[-2:] != shape[-2:] for n in views):
        return NO
    for term in scores.terms:
        wanted = regrouped(term.value.tensor, term, shape[:-2])
        if wanted is None or not _broadcasts(wanted, shape):
            return NO
    match.include(*scores.nodes)
    return _unlike(query, value) or hidden_rows(scores) or not_held(scores, query.dtype)


def _unlike(query: TensorType, value: TensorType) -> Miss | None:
    """Attention computes in the element type of the query; narrower values are cast to it, which is exact."""
    if query.dtype == value.dtype or value.dtype.bits < query.dtype.bits:
        return None
    return Miss(f"queries and keys are {query.dtype}, values {value.dtype}", "cast queries and keys before their product")


def _factors(scores: Scores) -> tuple[Value, Value]:
    return scores.product.operand(0), scores.product.operand(1)


def _broadcasts(mask: tuple[Dim, ...], shape: tuple[Dim, ...]) -> bool:
    lead = len(shape) - len(mask)
    return lead >= 0 and all(d in (1, shape[i + lead]) for i, d in enumerate(mask))


@rule("attention", op("matmul", _weights, var("value")), check=_check_attention, effect=_ROUNDING, private=True)
def attention(match: Match, editor: Editor) -> Value:
    """softmax(query @ keyᵀ * scale + mask) @ value -> attention(query, key, value, mask) {scale}.

    Conditions that put a number in place of scores become masks to add, so that what is hidden must be finite for the
    results to be the same. Masks and values are cast to the element type of the query, which must hold them.
    """
    scores = read_scores(match["scores"])
    assert scores is not None
    leading = match.node("softmax").type.shape[:-2]
    query, keys = _factors(scores)
    rank = keys.tensor.rank
    key = match.add(editor, "permute", [keys], {"order": (*range(rank - 2), rank - 1, rank - 2)})
    value = match["value"]
    if value.tensor.dtype != query.tensor.dtype:
        value = match.add(editor, "cast", [value], {"dtype": query.tensor.dtype})
    operands: list[Value | None] = [query, key, value]
    moved = leading != query.tensor.shape[:-2]
    if moved:
        operands = [
            match.add(editor, "reshape", [v], {"shape": (*leading, *v.tensor.shape[-2:])})
            for v in operands if v is not None
        ]
    mask = combined_mask(match, editor, scores, leading, query.tensor.dtype)
    found = match.add(editor, "attention", [*operands, mask], {"scale": scores.scale})
    if found.tensor.dtype != match.root.type.dtype:
        found = match.add(editor, "cast", [found], {"dtype": match.root.type.dtype})
    if moved:
        found = match.add(editor, "reshape", [found], {"shape": match.root.type.shape})
    return found


def _attention(query: Any, key: Any, value: Any, mask: Any) -> Any:
    return op("attention", query, key, value, mask, bind="attention")


_any = _attention(var("query"), var("key"), var("value"), var("mask"))


@rule("attention_full_mask", _any, effect=_ROUNDING,
      check=lambda m: None if _hides_nothing(m["mask"]) else NO)
def attention_full_mask(match: Match, editor: Editor) -> Value:
    """A mask that keeps everything, or adds zero, goes."""
    return match.add(editor, "attention", [match[n] for n in ("query", "key", "value")], match.root.attrs)


def _hides_nothing(mask: Value) -> bool:
    known = number_of(mask)
    return known is True if mask.tensor.dtype.kind == "bool" else known == 0


def _check_causal(match: Match) -> Miss | None:
    rows, columns = (match[name].tensor.shape[-2] for name in ("query", "key"))
    return None if match["mask"].tensor.shape[-2:] == (rows, columns) and causal(match["mask"]) else NO


@rule("attention_causal", _any, check=_check_causal, effect=_ROUNDING)
def attention_causal(match: Match, editor: Editor) -> Value:
    """A mask that keeps column <= row -> causal = true."""
    operands = [match[n] for n in ("query", "key", "value")]
    return match.add(editor, "attention", operands, {**match.root.attrs, "causal": True})


def _check_expanded(match: Match) -> Miss | None:
    small = match["small"]
    return None if small.tensor.rank >= 2 and fits(match.root, {3: small}) else NO


@rule("attention_mask_expand", _attention(var("query"), var("key"), var("value"), op("expand", var("small"))),
      check=_check_expanded, effect=_ROUNDING)
def attention_mask_expand(match: Match, editor: Editor) -> Value:
    """attention(..., expand(mask)) -> attention(..., mask): it broadcasts."""
    operands = [match[n] for n in ("query", "key", "value", "small")]
    return match.add(editor, "attention", operands, match.root.attrs)


def fits(node: Node, changed: dict[int, Value], **attrs: Any) -> bool:
    """Whether a node with other operands and attributes has the same type of result."""
    types = [None if v is None else v.tensor for v in node.operands]
    for i, value in changed.items():
        types[i] = value.tensor
    return fits_op(node.op.name, types, node, **{**node.attrs, **attrs})


def fits_op(name: str, types: Sequence[TensorType | None], node: Node, **attrs: Any) -> bool:
    """Whether an operator on operands of these types gives the type of a node's result."""
    chosen = op_named(name)
    try:
        found = chosen.infer(types, normalize(chosen, attrs))
    except IRError:
        return False
    return compatible(found[0], node.results[0].type)


def _finite(known: object) -> bool:
    return isinstance(known, float) and math.isfinite(known) and known > 0


def _check_scaled(match: Match) -> Miss | None:
    inner = next(n for n in match.nodes if n.op.name in ("mul", "div"))
    depth = match.root.operand(0).tensor.shape[-1]
    if match["x"].type != inner.results[0].type or inner.attrs.get("rounding", "none") != "none":
        return NO
    return None if match.root.attrs["scale"] is not None or isinstance(depth, int) else NO


_scaled_x = either(op("mul", var("x"), number("factor", where=_finite)),
                   op("div", var("x"), number("divisor", where=_finite)))


def _rescaled(match: Match, editor: Editor, index: int) -> Value:
    node = match.root
    scale = node.attrs["scale"]
    if scale is None:
        depth = node.operand(0).tensor.shape[-1]
        assert isinstance(depth, int)
        scale = 1 / math.sqrt(depth)
    operands = list(node.operands)
    operands[index] = match["x"]
    factor = match.number("factor") if "factor" in match.bindings else 1 / match.number("divisor")
    assert isinstance(factor, float)
    return match.add(editor, "attention", operands, {**node.attrs, "scale": scale * factor})


@rule("attention_query_scale", _attention(_scaled_x, var("key"), var("value"), maybe("mask")), check=_check_scaled,
      effect=_ROUNDING)
def attention_query_scale(match: Match, editor: Editor) -> Value:
    """attention(query * s, ...) {scale = t} -> attention(query, ...) {scale = s * t}."""
    return _rescaled(match, editor, 0)


@rule("attention_key_scale", _attention(var("query"), _scaled_x, var("value"), maybe("mask")), check=_check_scaled,
      effect=_ROUNDING)
def attention_key_scale(match: Match, editor: Editor) -> Value:
    """attention(query, key * s, ...) {scale = t} -> attention(query, key, ...) {scale = s * t}."""
    return _rescaled(match, editor, 1)


def _repeated(value: Value) -> tuple[Value, int] | None:
    """What a repetition of heads (axis -3) repeats, and how often each head in a row."""
    node = value.producer
    if node is None or value.tensor.rank < 3:
        return None
    heads_axis = value.tensor.rank - 3
    if node.op.name == "repeat_interleave":
        return (node.operand(0), node.attrs["repeats"]) if node.attrs["axis"] == heads_axis else None
    if node.op.name != "reshape":
        return None
    expand = node.operand(0).producer
    if expand is None or expand.op.name != "expand":
        return None
    opened = expand.operand(0).producer
    if opened is None or opened.op.name not in ("reshape", "unsqueeze"):
        return None
    source, wide = opened.operand(0), expand.type.shape
    shape = source.tensor.shape
    if len(wide) != len(shape) + 1 or len(shape) != value.tensor.rank:
        return None
    times = wide[heads_axis + 1]
    before = (*shape[: heads_axis + 1], 1, *shape[heads_axis + 1:])
    after = (*shape[: heads_axis + 1], times, *shape[heads_axis + 1:])
    merged = (*shape[:heads_axis], dims.mul(shape[heads_axis], times), *shape[heads_axis + 1:])
    same = opened.type.shape == before and wide == after and value.tensor.shape == merged
    return (source, times) if same and isinstance(times, int) and times > 1 else None


def _check_repeated(match: Match) -> Miss | None:
    key, value = _repeated(match["key"]), _repeated(match["value"])
    if key is None and value is None:
        return NO
    if key is None or value is None or key[1] != value[1]:
        return Miss("heads of key and value are not repeated alike", "repeat both, or neither")
    if match.root.attrs["grouped"]:
        return NO
    return None if fits(match.root, {1: key[0], 2: value[0]}, grouped=True) else NO


@rule("attention_grouped", _attention(var("query"), var("key"), var("value"), maybe("mask")), check=_check_repeated,
      effect=_ROUNDING)
def attention_grouped(match: Match, editor: Editor) -> Value:
    """attention(q, repeat(k), repeat(v)) -> attention(q, k, v) {grouped = true}."""
    key, value = _repeated(match["key"]), _repeated(match["value"])
    assert key is not None and value is not None
    operands = [match["query"], key[0], value[0], match.get("mask")]
    return match.add(editor, "attention", operands, {**match.root.attrs, "grouped": True})


ATTENTION_RULES: tuple[Rule, ...] = (
    attention, attention_full_mask, attention_causal, attention_mask_expand, attention_query_scale,
    attention_key_scale, attention_grouped,
)
