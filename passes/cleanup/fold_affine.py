"""Folding batch norm, scales and shifts into the weights of linear, conv and conv_transpose."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np

from mcomp.ir import dtypes
from mcomp.ir.edit import Editor
from mcomp.ir.encoding import DENSE
from mcomp.ir.graph import Graph, Node, Value
from mcomp.ir.types import TensorType
from mcomp.manager import PassEffect
from mcomp.rewrite import NO, Match, Miss, Pattern, const, either, maybe, number, op, rule, var
from mcomp.rewrite.facts import number_of, smallest_normal

_ROUNDING = PassEffect.ROUNDING
_LAYERS = "linear|conv|conv_transpose"
Array = np.ndarray


def _layer(x: Pattern) -> Pattern:
    return op(_LAYERS, x, var("weight"), maybe("bias"), bind="layer")


def _used_once(node: Node) -> bool:
    return len(node.results[0].uses) == 1


def channel_axis(layer: Node) -> int:
    """The axis of a layer's result that its weight's outputs are on."""
    return layer.type.rank - 1 if layer.op.name == "linear" else 1


def outputs(layer: Node) -> int | None:
    """How many outputs a layer's weight has; None when that is symbolic."""
    size = layer.type.shape[channel_axis(layer)]
    return size if isinstance(size, int) else None


def layer_miss(match: Match, *, result_folded: bool = True) -> Miss | None:
    """Why the weights of the matched `layer` cannot take a change."""
    layer = match.node("layer")
    weight, bias = layer.operand(1), layer.maybe(2)
    if result_folded and not _used_once(layer):
        return Miss(f"the result of {layer.op.name} %{layer.name} has other users too",
                    "use only the folded result in the model")
    if outputs(layer) is None:
        return Miss("the number of outputs is not known when compiling", "give the weight a fixed number of outputs")
    for value, what in ((weight, "weight"), (bias, "bias")):
        if value is None:
            continue
        if not value.is_const:
            return Miss(f"the {what} of {layer.op.name} %{layer.name} is computed", "keep it a parameter or a buffer")
        if value.tensor.encoding != DENSE:
            return Miss(f"the {what} of {layer.op.name} %{layer.name} is {value.tensor.encoding} already",
                        "fold before compressing")
    if _is_shared(weight):
        return Miss(f"the weight of {layer.op.name} %{layer.name} is shared with another layer", "untie the weights")
    return None


_constants: WeakKeyDictionary[Graph, dict[str, list[Node]]] = WeakKeyDictionary()


def index_constants(graph: Graph) -> None:
    """Note which constants of a graph have equal content, for the rules that ask whether a weight is shared."""
    found: dict[str, list[Node]] = {}
    for node in graph.nodes:
        if node.op.name == "const":
            found.setdefault(node.attrs["digest"], []).append(node)
    _constants[graph] = found


def _is_shared(weight: Value) -> bool:
    node = weight.producer
    assert node is not None
    if weight.graph not in _constants:
        index_constants(weight.graph)
    equal = _constants[weight.graph].get(node.attrs["digest"], [])
    return len(weight.uses) > 1 or any(n is not node and n.alive and n.results[0].uses for n in equal)


def per_output(layer: Node, factor: Value) -> Array | None:
    """A known factor or summand of a layer's result as one float64 number per output; None when it is anything else or
    makes the result larger."""
    type, axis, count = layer.type, channel_axis(layer), outputs(layer)
    shape = factor.tensor.shape
    if count is None or len(shape) > type.rank:
        return None
    known = number_of(factor)
    if known is not None and not isinstance(known, complex) and all(d == 1 for d in shape):
        return np.full(count, float(known))
    lead = type.rank - len(shape)
    if any(d != 1 and i + lead != axis for i, d in enumerate(shape)) or not factor.is_const:
        return None
    if factor.tensor.encoding != DENSE or factor.weight is None:
        return None
    found = factor.weight.decode().astype(np.float64).reshape(-1)
    return found if found.size == count else None


def scaled_weight(layer: Node, scale: Array) -> Array:
    """The layer's weight, in float64, with each output scaled."""
    weight = layer.operand(1).weight
    assert weight is not None
    data = weight.decode().astype(np.float64)
    if layer.op.name != "conv_transpose":
        return np.asarray(data * scale.reshape(-1, *[1] * (data.ndim - 1)))
    groups = layer.attrs["groups"]
    grouped = data.reshape(groups, data.shape[0] // groups, *data.shape[1:])
    return np.asarray(grouped * scale.reshape(groups, 1, -1, *[1] * (data.ndim - 2))).reshape(data.shape)


def bias_of(layer: Node) -> Array:
    """The layer's bias in float64; zeros without one."""
    value = layer.maybe(2)
    weight = None if value is None else value.weight
    return np.zeros(outputs(layer) or 0) if weight is None else weight.decode().astype(np.float64)


def rounded(data: Array, type: TensorType) -> tuple[Array, Array]:
    """float64 numbers in a type's element type: as stored, and as float64 again."""
    if type.dtype == dtypes.bf16:
        bits = dtypes.f32_to_bf16(data.astype(np.float32))
        return bits, dtypes.bf16_to_f32(bits).astype(np.float64)
    with np.errstate(over="ignore"):
        stored = data.astype(type.dtype.numpy)
    return stored, stored.astype(np.float64)


def _misfit(match: Match, weight: Array, *others: Array) -> Miss | None:
    """Why the layer's element type cannot hold new weights: they are infinite, or even the largest is so small that digits
    are lost."""
    type = match.node("layer").type
    if not all(np.isfinite(rounded(a, type)[1]).all() for a in (weight, *others)):
        return Miss("folded weights would not be finite", "look at the scale: it is huge, infinite or NaN")
    if 0 < np.abs(weight).max(initial=0.0) < smallest_normal(type.dtype):
        return Miss(f"folded weights would be too small for {type.dtype}", "look at the scale: it is tiny")
    return None


def _put(match: Match, editor: Editor, weight: Array | None, bias: Array | None) -> Value:
    """The layer with new weights (None: the old ones) in place of the root."""
    layer = match.node("layer")
    operands = list(layer.operands) + [None] * (3 - len(layer.operands))
    for index, data, what in ((1, weight, "weight"), (2, bias, "bias")):
        if data is None:
            continue
        old = operands[index]
        dtype = layer.operand(1).tensor.dtype
        type = TensorType(data.shape, dtype)
        name = str(old.producer.attrs["name"]) if old is not None and old.producer else _sibling(layer, what)
        operands[index] = editor.const(rounded(data, type)[0], name=name, type=type, before=match.root)
    return match.add(editor, layer.op.name, operands, layer.attrs)


def _sibling(layer: Node, what: str) -> str:
    weight = layer.operand(1).producer
    name = str(weight.attrs["name"]) if weight is not None and weight.op.name == "const" else layer.name
    return f"{name.removesuffix('.weight')}.{what}"


def _norm_terms(match: Match) -> tuple[Array, Array]:
    """Scale and shift of the matched batch norm."""
    node = match.root
    mean, variance = (_known(node.operand(i)) for i in (1, 2))
    gamma = np.ones_like(mean) if node.maybe(3) is None else _known(node.operand(3))
    beta = np.zeros_like(mean) if node.maybe(4) is None else _known(node.operand(4))
    with np.errstate(all="ignore"):
        scale = gamma / np.sqrt(variance + node.attrs["eps"])
        return scale, beta - mean * scale


def _known(value: Value) -> Array:
    weight = value.weight
    assert weight is not None
    return weight.decode().astype(np.float64)


def _check_norm(match: Match) -> Miss | None:
    layer = match.node("layer")
    if channel_axis(layer) != 1 and "view" not in match.bindings:
        return Miss(f"batch norm works on axis 1, the outputs of {layer.op.name} are on axis {channel_axis(layer)}",
                    "normalize along the axis of the layer's outputs")
    for value in match.root.operands[1:]:
        if value is not None and (not value.is_const or value.tensor.encoding != DENSE):
            return Miss(f"%{value.name} is no dense constant", "keep statistics and affine terms buffers or parameters")
    miss = layer_miss(match)
    if miss is not None:
        return miss
    scale, shift = _norm_terms(match)
    return _misfit(match, scaled_weight(layer, scale), bias_of(layer) * scale + shift)


@rule("fold_batch_norm", op("batch_norm", _layer(var("x")), rest=True), check=_check_norm, effect=_ROUNDING)
def fold_batch_norm(match: Match, editor: Editor) -> Value:
    """batch_norm(layer(x)) -> layer(x) with w * s and b * s + t; s = gamma / sqrt(variance + eps),
    t = beta - mean * s."""
    layer = match.node("layer")
    scale, shift = _norm_terms(match)
    return _put(match, editor, scaled_weight(layer, scale), bias_of(layer) * scale + shift)


def _check_flat_norm(match: Match) -> Miss | None:
    layer, view = match.node("layer"), match.node("view")
    flat = layer.op.name == "linear" and view.type.rank == 2 and view.type.shape[1] == layer.type.shape[-1]
    return _check_norm(match) if flat and _used_once(view) else NO


@rule("fold_flat_batch_norm", op("batch_norm", op("reshape", _layer(var("x")), bind="view"), rest=True),
      check=_check_flat_norm, effect=_ROUNDING)
def fold_flat_batch_norm(match: Match, editor: Editor) -> Value:
    """batch_norm(reshape(linear(x))) -> reshape(linear(x)), where rows were flattened for the norm."""
    layer = match.node("layer")
    scale, shift = _norm_terms(match)
    made = _put(match, editor, scaled_weight(layer, scale), bias_of(layer) * scale + shift)
    return match.add(editor, "reshape", [made], {"shape": match.root.type.shape})


def _factor(match: Match) -> Array | None:
    terms = per_output(match.node("layer"), match["factor"])
    if terms is None or match.root.op.name != "div":
        return terms
    with np.errstate(divide="ignore"):
        return np.asarray(1.0 / terms)


def _keeps_type(match: Match) -> bool:
    return match.root.type == match.node("layer").type and match.root.attrs.get("rounding", "none") == "none"


def _check_scale(match: Match) -> Miss | None:
    miss = layer_miss(match)
    if miss is not None:
        return miss
    terms, layer = _factor(match), match.node("layer")
    assert terms is not None
    return _misfit(match, scaled_weight(layer, terms), bias_of(layer) * terms)


def _is_factor(node: Node) -> bool:
    """Whether the node combines a layer's result with something known per output."""
    for i in (0, 1):
        layer = node.operand(i).producer
        if layer is not None and layer.op.name in _LAYERS.split("|") and layer.type == node.type:
            return per_output(layer, node.operand(1 - i)) is not None and node.attrs.get("rounding", "none") == "none"
    return False


@rule("fold_scale", op("mul|div", _layer(var("x")), var("factor"), where=_is_factor), check=_check_scale,
      effect=_ROUNDING)
def fold_scale(match: Match, editor: Editor) -> Value:
    """layer(x) * s -> layer(x) with w * s and b * s, for s one number or one per output."""
    layer, terms = match.node("layer"), _factor(match)
    assert terms is not None
    bias = bias_of(layer) * terms if layer.maybe(2) is not None else None
    return _put(match, editor, scaled_weight(layer, terms), bias)


def _check_shift(match: Match) -> Miss | None:
    layer = match.node("layer")
    if not _used_once(layer):
        return Miss(f"the result of {layer.op.name} %{layer.name} has other users too",
                    "use only the sum in the model")
    bias = layer.maybe(2)
    if bias is not None and (not bias.is_const or bias.tensor.encoding != DENSE):
        return Miss(f"the bias of {layer.op.name} %{layer.name} is computed", "keep it a parameter or a buffer")
    if outputs(layer) is None:
        return Miss("the number of outputs is not known when compiling", "give the weight a fixed number of outputs")
    return None


@rule("fold_shift", op("add|sub", _layer(var("x")), var("factor"), where=_is_factor), check=_check_shift,
      effect=_ROUNDING)
def fold_shift(match: Match, editor: Editor) -> Value:
    """layer(x) + t -> layer(x) with b + t, for t one number or one per output."""
    layer = match.node("layer")
    terms = per_output(layer, match["factor"])
    assert terms is not None
    return _put(match, editor, None, bias_of(layer) + (-terms if match.root.op.name == "sub" else terms))


def _finite(known: object) -> bool:
    return isinstance(known, (int, float)) and bool(np.isfinite(known)) and known != 0


def _input_scale(match: Match) -> float:
    known = match.number("s")
    assert isinstance(known, (int, float))
    inner = match.nodes[1]
    return 1.0 / known if inner.op.name == "div" else float(known)


def _check_input_scale(match: Match) -> Miss | None:
    if match["x"].type != match.nodes[1].type:
        return NO
    miss = layer_miss(match, result_folded=False)
    if miss is not None:
        return miss
    layer = match.node("layer")
    return _misfit(match, scaled_weight(layer, np.full(outputs(layer) or 0, _input_scale(match))))


_SCALED = either(
    op("mul", var("x"), number("s", where=_finite), where=_used_once),
    op("div", var("x"), number("s", where=_finite), where=_used_once, attrs={"rounding": "none"}),
)


@rule("fold_input_scale", op(_LAYERS, _SCALED, const("weight"), maybe("bias"), bind="layer"),
      check=_check_input_scale, effect=_ROUNDING)
def fold_input_scale(match: Match, editor: Editor) -> Value:
    """layer(x * s) -> layer(x) with w * s, for s one number."""
    layer = match.node("layer")
    weight = scaled_weight(layer, np.full(outputs(layer) or 0, _input_scale(match)))
    type = layer.operand(1).tensor
    old = layer.operand(1).producer
    assert old is not None
    made = editor.const(rounded(weight, type)[0], name=str(old.attrs["name"]), type=type, before=match.root)
    return match.add(editor, layer.op.name, [match["x"], made, match.get("bias")], layer.attrs)


AFFINE_RULES = (fold_batch_norm, fold_flat_batch_norm, fold_scale, fold_shift, fold_input_scale)


