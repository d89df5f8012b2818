"""Matrix products with constants back into `linear`; padding into `conv`."""

from __future__ import annotations

from mcomp.ir.edit import Editor
from mcomp.ir.encoding import DENSE
from mcomp.ir.graph import Node, Value
from mcomp.manager import PassEffect
from mcomp.rewrite import NO, Match, Miss, Rule, const, maybe, op, rule, var

_ROUNDING = PassEffect.ROUNDING
x = var("x")


def _two_axes(value: Value) -> bool:
    return value.tensor.rank == 2


def _check_rows(match: Match) -> Miss | None:
    return NO if match["x"].tensor.rank < 1 or match["weight"].tensor.rank != 2 else None


@rule("linear_transposed", op("matmul", x, op("permute", var("weight", _two_axes), attrs={"order": (1, 0)})),
      check=_check_rows, effect=_ROUNDING)
def linear_transposed(match: Match, editor: Editor) -> Value:
    """x @ wᵀ -> linear(x, w)."""
    return match.add(editor, "linear", [match["x"], match["weight"]])


def _dense_matrix(value: Value) -> bool:
    return value.tensor.rank == 2 and value.tensor.encoding == DENSE


@rule("linear_constant", op("matmul", x, const("weight", _dense_matrix)), check=_check_rows, effect=_ROUNDING)
def linear_constant(match: Match, editor: Editor) -> Value:
    """x @ w -> linear(x, wᵀ) for a constant w; folding transposes it."""
    weight = match.add(editor, "permute", [match["weight"]], {"order": (1, 0)})
    return match.add(editor, "linear", [match["x"], weight])


def _once(node: Node) -> bool:
    return len(node.results[0].uses) == 1


def _check_bias(match: Match) -> Miss | None:
    bias, product = match["bias"].tensor, match.nodes[1].results[0]
    if bias.rank != 1 or product.type != match.root.type or bias.shape[0] != product.tensor.shape[-1]:
        return NO
    if product.tensor.rank == 1 and not match["bias"].is_const:
        return NO
    if bias.encoding != DENSE:
        return NO
    if not _once(match.nodes[1]):
        return Miss(f"%{product.name} is used without the bias too", "use only the sum in the model")
    return None


@rule("linear_bias", op("add", op("linear", x, var("weight"), None), var("bias")), check=_check_bias, effect=_ROUNDING)
def linear_bias(match: Match, editor: Editor) -> Value:
    """linear(x, w) + b -> linear(x, w, b) for a vector b of one element per output."""
    return match.add(editor, "linear", [match["x"], match["weight"], match["bias"]])


def _check_flattened(match: Match) -> Miss | None:
    source, result = match["x"].tensor, match.root.type
    flat = match.nodes[2].type
    if source.rank != result.rank or source.shape[:-1] != result.shape[:-1] or flat.rank > source.rank:
        return NO
    same = source.shape[-1] == flat.shape[-1] and result.shape[-1] == match.nodes[1].type.shape[-1]
    return None if same and _once(match.nodes[1]) else NO


@rule("linear_unflattened", op("reshape", op("linear", op("reshape", x), var("weight"), maybe("bias"))),
      check=_check_flattened, effect=_ROUNDING)
def linear_unflattened(match: Match, editor: Editor) -> Value:
    """reshape(linear(reshape(x))) -> linear(x) where only leading axes were flattened and restored."""
    return match.add(editor, "linear", [match["x"], match["weight"], match.get("bias")])


def _check_padding(match: Match) -> Miss | None:
    pad = match.node("pad").attrs
    edges = [*pad["low"], *pad["high"]]
    plain = pad["mode"] == "constant" and pad["value"] == 0 and all(isinstance(d, int) for d in edges)
    spatial = all(pad[side][axis] == 0 for side in ("low", "high") for axis in (0, 1))
    return None if plain and spatial else NO


@rule("conv_padding", op("conv", op("pad", x, bind="pad"), var("weight"), maybe("bias")), check=_check_padding,
      effect=_ROUNDING)
def conv_padding(match: Match, editor: Editor) -> Value:
    """conv(pad(x)) -> conv(x) with more padding, for zeros around the spatial axes."""
    pad, attrs = match.node("pad").attrs, dict(match.root.attrs)
    attrs["padding"] = tuple(
        (low + more_low, high + more_high)
        for (low, high), more_low, more_high in zip(attrs["padding"], pad["low"][2:], pad["high"][2:])
    )
    return match.add(editor, "conv", [match["x"], match["weight"], match.get("bias")], attrs)


LINEAR_RULES: tuple[Rule, ...] = (conv_padding, linear_transposed, linear_constant, linear_bias, linear_unflattened)
