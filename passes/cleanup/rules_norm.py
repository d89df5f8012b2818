"""Norms written out, back into one operator: first the core, then scale, shift and casts around it. Rounding."""

from __future__ import annotations

from mcomp.ir import dims, dtypes
from mcomp.ir.edit import Editor
from mcomp.ir.graph import Node, Value
from mcomp.manager import PassEffect
from mcomp.rewrite import NO, Match, Miss, OpPattern, Pattern, Rule, either, maybe, number, op, rule, var
from mcomp.rewrite.facts import Number, number_of, shortest

_ROUNDING = PassEffect.ROUNDING
x = var("x")


def _eps(known: Number) -> bool:
    return isinstance(known, float) and 0 < known < 1


def trailing(match: Match) -> int | None:
    """Over how many trailing axes all reductions of the match go, keeping them; None when they do not."""
    rank = match["x"].tensor.rank
    reductions = [n for n in match.nodes if "keepdim" in n.attrs]
    axes = {tuple(sorted(n.attrs["axes"])) for n in reductions}
    if len(axes) != 1 or not all(n.attrs["keepdim"] for n in reductions):
        return None
    found = axes.pop()
    count = len(found)
    return count if found == tuple(range(rank - count, rank)) and count else None


def _trailing_only(match: Match) -> Miss | None:
    if trailing(match) is None or match["x"].type != match.root.type:
        return NO
    return None


def _square(of: Pattern) -> Pattern:
    return either(op("square", of), op("pow", of, number(2.0)), op("mul", of, of))


def _divided(top: Pattern, below: Pattern) -> tuple[OpPattern, ...]:
    """The ways to write top / sqrt(below)."""
    return (
        op("mul", top, op("rsqrt", below)),
        op("div", top, op("sqrt", below), attrs={"rounding": "none"}),
        op("mul", top, op("reciprocal", op("sqrt", below))),
        op("mul", top, op("pow", below, number(-0.5))),
        op("div", top, op("pow", below, number(0.5)), attrs={"rounding": "none"}),
    )


def _attrs(match: Match) -> dict[str, int | float | None]:
    return {"axes_count": trailing(match), "eps": shortest(match.number("eps"), match["x"].tensor.dtype)}


def _rms(match: Match, editor: Editor) -> Value:
    """x * rsqrt(mean(x**2) + eps) -> rms_norm(x)."""
    return match.add(editor, "rms_norm", [match["x"]], _attrs(match))


_RMS = tuple(
    Rule("rms_norm", p, _rms, _trailing_only, _ROUNDING)
    for p in _divided(x, op("add", op("mean", _square(x)), number("eps", where=_eps)))
)


def _check_centered(match: Match) -> Miss | None:
    norm, mean = match.root, match.node("mean")
    axes = tuple(range(norm.type.rank - norm.attrs["axes_count"], norm.type.rank))
    fits = mean.attrs["keepdim"] and tuple(sorted(mean.attrs["axes"])) == axes and norm.attrs["offset"] == 0
    return None if fits and match["x"].type == norm.type else NO


@rule("center_rms_norm", op("rms_norm", op("sub", x, op("mean", x, bind="mean")), maybe("weight")),
      check=_check_centered, effect=_ROUNDING)
def center_rms_norm(match: Match, editor: Editor) -> Value:
    """rms_norm(x - mean(x)) -> layer_norm(x)."""
    attrs = {k: match.root.attrs[k] for k in ("axes_count", "eps")}
    return match.add(editor, "layer_norm", [match["x"], match.get("weight")], attrs)


def _layer(match: Match, editor: Editor) -> Value:
    """(x - mean(x)) * rsqrt(var(x) + eps) -> layer_norm(x)."""
    return match.add(editor, "layer_norm", [match["x"]], _attrs(match))


_variance = op("var", x, attrs={"correction": 0.0})
_LAYER = tuple(
    Rule("layer_norm", p, _layer, _trailing_only, _ROUNDING)
    for p in _divided(op("sub", x, op("mean", x)), op("add", _variance, number("eps", where=_eps)))
)


def _used_once(node: Node) -> bool:
    return len(node.results[0].uses) == 1


def _affine(match: Match, name: str) -> tuple[Value, float] | None:
    """The matched factor or summand as a value of the normalized axes' shape and, for 1 + weight, the 1."""
    norm, value = match.node("norm"), match[name]
    shape = norm.type.shape[norm.type.rank - norm.attrs["axes_count"]:]
    offset = 0.0
    made = value.producer
    if made is not None and made.op.name == "add" and norm.op.name == "rms_norm" and name == "weight":
        for i in (0, 1):
            known = number_of(made.operand(i))
            if known == 1.0 and made.operand(1 - i).tensor.shape == shape:
                value, offset = made.operand(1 - i), 1.0
    lead = value.tensor.rank - len(shape)
    if lead < 0 or any(d != 1 for d in value.tensor.shape[:lead]) or value.tensor.shape[lead:] != shape:
        return None
    return value, offset


def _check_weight(match: Match) -> Miss | None:
    norm = match.node("norm")
    if norm.maybe(1) is not None or norm.maybe(2) is not None or norm.type != match.root.type:
        return NO
    if _affine(match, "weight") is None:
        return NO
    if not _used_once(norm):
        return Miss(f"%{norm.name} is used without the weight too", "use only the scaled result in the model")
    return None


def _vector(match: Match, editor: Editor, value: Value) -> Value:
    """A value without its leading axes of size 1, as the norm wants it."""
    norm = match.node("norm")
    shape = norm.type.shape[norm.type.rank - norm.attrs["axes_count"]:]
    return value if value.tensor.shape == shape else match.add(editor, "reshape", [value], {"shape": shape})


@rule("norm_weight", op("mul", op("rms_norm|layer_norm", x, rest=True, bind="norm"), var("weight")),
      check=_check_weight, effect=_ROUNDING)
def norm_weight(match: Match, editor: Editor) -> Value:
    """norm(x) * w -> norm(x, w); rms_norm(x) * (1 + w) -> rms_norm(x, w) {offset = 1}."""
    norm, found = match.node("norm"), _affine(match, "weight")
    assert found is not None
    attrs = dict(norm.attrs)
    if found[1]:
        attrs["offset"] = found[1]
    return match.add(editor, norm.op.name, [match["x"], _vector(match, editor, found[0])], attrs)


def _check_shift(match: Match) -> Miss | None:
    norm = match.node("norm")
    if norm.maybe(2) is not None or norm.type != match.root.type or _affine(match, "bias") is None:
        return NO
    if not _used_once(norm):
        return Miss(f"%{norm.name} is used without the bias too", "use only the shifted result in the model")
    return None


@rule("norm_bias", op("add", op("layer_norm", x, rest=True, bind="norm"), var("bias")), check=_check_shift,
      effect=_ROUNDING)
def norm_bias(match: Match, editor: Editor) -> Value:
    """layer_norm(x, w) + b -> layer_norm(x, w, b)."""
    norm, found = match.node("norm"), _affine(match, "bias")
    assert found is not None
    operands = [match["x"], norm.maybe(1), _vector(match, editor, found[0])]
    return match.add(editor, "layer_norm", operands, norm.attrs)


_HALF = (dtypes.f16, dtypes.bf16)


def _check_upcast(match: Match) -> Miss | None:
    norm, source = match.node("norm"), match["x"].tensor.dtype
    if norm.type.dtype != dtypes.f32 or source not in _HALF or match.root.type.dtype != source:
        return NO
    return None if _used_once(norm) and _narrow(match) is not None else NO


def _narrow(match: Match) -> list[Value | None] | None:
    """The norm's weight and bias in x's element type, where they were cast up from it; None when one was not."""
    found: list[Value | None] = []
    for value in match.node("norm").operands[1:]:
        if value is None:
            found.append(None)
            continue
        made = value.producer
        if made is None or made.op.name != "cast" or made.operand(0).tensor.dtype != match["x"].tensor.dtype:
            return None
        found.append(made.operand(0))
    return found


@rule("norm_upcast", op("cast", op("rms_norm|layer_norm", op("cast", x), rest=True, bind="norm")),
      check=_check_upcast, effect=_ROUNDING)
def norm_upcast(match: Match, editor: Editor) -> Value:
    """The norm of a half-precision tensor in f32, cast back -> the norm of the tensor, which computes in f32 anyway."""
    norm, rest = match.node("norm"), _narrow(match)
    assert rest is not None
    return match.add(editor, norm.op.name, [match["x"], *rest], norm.attrs)


def _check_groups(match: Match) -> Miss | None:
    norm, source = match.node("norm"), match["x"].tensor
    grouped = norm.operand(0).tensor
    if source.rank < 3 or norm.maybe(1) is not None or norm.maybe(2) is not None or not _used_once(norm):
        return NO
    if grouped.rank - norm.attrs["axes_count"] != 2 or match.root.type != source or grouped.shape[0] != source.shape[0]:
        return NO
    groups = grouped.shape[1]
    return None if isinstance(groups, int) and dims.mod(source.shape[1], groups) == 0 else NO


@rule("group_norm", op("reshape", op("layer_norm", op("reshape", x), rest=True, bind="norm")), check=_check_groups,
      effect=_ROUNDING)
def group_norm(match: Match, editor: Editor) -> Value:
    """reshape(layer_norm(reshape(x, [N, G, ...]))) -> group_norm(x) {groups = G}."""
    norm = match.node("norm")
    attrs = {"groups": norm.operand(0).tensor.shape[1], "eps": norm.attrs["eps"]}
    return match.add(editor, "group_norm", [match["x"]], attrs)


def _per_channel(match: Match, name: str) -> bool:
    type, shape = match.root.type, match[name].tensor.shape
    lead = type.rank - len(shape)
    padded = (1,) * lead + shape
    return lead >= 0 and padded == (1, type.shape[1], *[1] * (type.rank - 2))


def _check_group_affine(match: Match) -> Miss | None:
    norm = match.node("norm")
    scale = match.root.op.name == "mul"
    taken = norm.maybe(1) is not None or norm.maybe(2) is not None if scale else norm.maybe(2) is not None
    if taken or norm.type != match.root.type or not _per_channel(match, "term") or not _used_once(norm):
        return NO
    return None


@rule("group_norm_affine", op("mul|add", op("group_norm", x, rest=True, bind="norm"), var("term")),
      check=_check_group_affine, effect=_ROUNDING)
def group_norm_affine(match: Match, editor: Editor) -> Value:
    """group_norm(x) * w + b per channel -> group_norm(x, w, b)."""
    norm = match.node("norm")
    term = match.add(editor, "reshape", [match["term"]], {"shape": (match.root.type.shape[1],)})
    operands = [match["x"], term] if match.root.op.name == "mul" else [match["x"], norm.maybe(1), term]
    return match.add(editor, "group_norm", operands, norm.attrs)


NORM_RULES: tuple[Rule, ...] = (
    *_LAYER, *_RMS, center_rms_norm, norm_weight, norm_bias, norm_upcast, group_norm, group_norm_affine,
)
