"""`quantize`: weights, and activations where that pays, to integers or floats of 8 bits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from mcomp.errors import PassError
from mcomp.ir import dtypes
from mcomp.ir.encoding import DENSE, Affine, Encoding
from mcomp.ir.graph import Graph, LedgerEntry, Node, Value
from mcomp.ir.loc import fused
from mcomp.ir.printer import node_text
from mcomp.ir.store import Weight
from mcomp.ir.types import TensorType
from mcomp.manager.context import Context
from mcomp.manager.passes import NONE, Pass, PassEffect, PassResult, register_pass
from mcomp.passes.compress.averages import averaged_keys
from mcomp.passes.compress.encode import constant_bytes, dense_const, is_plain
from mcomp.passes.compress.float8 import float8_plans
from mcomp.passes.compress.layer import Layer, Plan, encoding_of, plan_layer, weight_of
from mcomp.passes.compress.moments import MomentSource
from mcomp.passes.compress.moves import move_bytes
from mcomp.passes.compress.options import check_layers, check_limit, switched_off
from mcomp.passes.compress.products import OPERANDS, activation_products, quantize_products
from mcomp.passes.compress.readers import TOO_WIDE, sharers, too_wide
from mcomp.passes.compress.recurrent import RECURRENT, quantize_recurrent, recurrent_nodes
from mcomp.passes.compress.relevance import mark_relevant
from mcomp.passes.compress.rounding import Rounder, Rounding
from mcomp.passes.compress.samples import Key, Ranges, Sample, collect, sample_key
from mcomp.passes.compress.tables import Table, quantize_tables, table_nodes
from mcomp.passes.compress.untouched import tell_untouched

if TYPE_CHECKING:
    from mcomp.ir.edit import Editor

_ROWS = 1 << 13
"""Positions that second moments are taken over, for rounding; twice as many as inputs, where these are more."""
_WEIGHTED = ("linear", "conv")


@register_pass
@dataclass(frozen=True)
class Quantize(Pass):
    """Weights of linear, conv, lstm, gru and rnn to integers, one scale per output channel; their activations to 8-bit
    integers. Zeros of pruned weights stay zero, and block-sparse and n:m weights keep their pattern.

    before:
        %w = const @fc.weight#9f3a : f32[64, 128]
        %y = linear %x, %w, %b : f32[B, 64]
    after, activations static:
        %w = const @fc.weight#51c0 : f32[64, 128] affine<i8, axis=0>
        %q = quantize %x {dtype = !u8, scale = 0.02, zero = 3} : f32[B, 128] affine<u8, scale=0.02, zero=3>
        %y = linear %q, %w, %b : f32[B, 64]

    format: fp8: linear layers in floats of 8 bits (e4m3) in place of integers, with scales as for 8 bits, and nothing else;
        for GPUs from sm_89 on. Activations are dynamic unless asked for.
    bits: of the weights. 8: with integer activations. 4, 3, 2: weights only, `group` consecutive ones to a scale, unless
        activations are asked for; then one scale for each output. Fewer than 4 save bytes of the file, not time.
    activations: static (ranges from calibration), dynamic (a scale per token at run time; not for conv), none
        (weights only), or auto (static with calibration data, else dynamic). Recurrent layers are dynamic or none.
    rounding: of the weights: nearest; feedback (later columns make up for earlier ones' rounding, on the second moments of
        the inputs); learned (integers and scales that no single change improves); or auto, which below 8 bits, and for 8
        where rounding the weights alone changes the output by more than 1%, takes the one with the least error. A weight
        that several layers share stays one in 8 bits, by auto: rounded to the nearest, for all of them.
    ranges: minmax, percentile (of the central `percentile` percent of the values) or mse (least squared error), for static
        activations; auto takes the one that changes the layer's output least.
    smooth: alpha of SmoothQuant for linear layers; none tries 0.5 and keeps it where it helps; 0 switches it off.
    attention: also quantize the operands of products between activations (static). true: of attention and matmul, where
        max_error allows; auto: of attention, where calibration data is given, results change by at most 15% and there are
        more than a few queries; false: none. With int8 operands the weights of an attention may be rounded to 255ths of
        a row's largest; measured errors include that. Not where the target multiplies floats by these operators.
    residual: a value that is quantized for one product and added to a result later is added as these integers, too, where
        rounding changes it by at most this (relative L2 error, root mean square over tokens or images); so are values
        pooled or joined in front of others that read them, and what is averaged; 0: never.
    max_error: a layer whose output changes by more (relative L2 error, root mean square over tokens or images of the
        calibration data) stays in float.
    correct: shift biases by the mean error on calibration data.
    tables: also the tables of embeddings, a scale for each row (below 8 bits: for groups of its elements).
    limit: at most so many calibration batches are used.
    leave: layers, by the name of their result, that stay as they are.
    relevant: look, by gradients, for positions (tokens) that the outputs do not depend on, such as padding that is masked
        out: they count for nothing then, as where prune, lowrank or treat came before.
    """

    name = "quantize"
    effect = PassEffect.APPROXIMATE

    format: Literal["integers", "fp8"] = "integers"
    bits: int = 8
    activations: Literal["auto", "static", "dynamic", "none"] = "auto"
    ranges: Ranges = "auto"
    percentile: float = 99.99
    smooth: float | None = None
    attention: bool | Literal["auto"] = "auto"
    group: int | None = None
    rounding: Rounding = "auto"
    residual: float = 0.02
    max_error: float = 0.25
    correct: bool = True
    tables: bool = True
    limit: int = 128
    leave: tuple[str, ...] = ()
    relevant: bool = False

    def check(self, graph: Graph, context: Context) -> None:
        check_limit(self.name, self.limit)
        self._check_values(context)
        own = ("bits", "activations", "group", "max_error")
        check_layers(self, graph, context, own, lambda given: given._check_values(context))
        for node in graph.nodes:
            if node.op.name == "linear" and node.layer and node.name not in self.leave:
                self._check_group(node, context)

    def _check_values(self, context: Context) -> None:
        """Raise PassError for values out of range, and for such as the target and the data do not allow."""
        if self.bits not in (2, 3, 4, 8):
            raise PassError(f"quantize: bits is {self.bits}", code="MC0204", help="use bits=8, 4, 3 or 2")
        if self.format == "fp8":
            self._check_floats(context)
        if self.group is not None and self.group < 1:
            raise PassError(f"quantize: group is {self.group}", code="MC0204", help="use a positive number")
        if not 50.0 < self.percentile <= 100.0:
            raise PassError(f"quantize: percentile is {self.percentile}", code="MC0204",
                            help="use more than 50, at most 100")
        if self.activations == "static" and context.calibration is None:
            raise PassError("quantize: static activations need calibration data", code="MC0205",
                            help="pass calibration=[...], or use activations=dynamic")

    def _check_floats(self, context: Context) -> None:
        if context.target.partition(":")[0] != "cuda":
            raise PassError(f"quantize: format=fp8 has no kernels on {context.target}", code="MC0204",
                            help='use format=integers, or target="cuda"')
        for name, good in (("bits", self.bits == 8), ("group", self.group is None), ("smooth", not self.smooth)):
            if not good:
                raise PassError(f"quantize: format=fp8 knows no {name}={getattr(self, name)}", code="MC0204",
                                help=f"leave {name} away")

    def _check_group(self, node: Node, context: Context) -> None:
        weight = node.operand(1)
        group = context.option(node, "group", self.group)
        if group is None or weight.weight is None or switched_off("quantize", node, context):
            return
        reason = Affine(dtypes.i8, axis=(0,), group=group).feasible(weight.tensor)
        if reason is not None and weight.producer is not None:
            width = weight.tensor.shape[-1]
            fit = next((g for g in (128, 64, 32, 16, 8) if isinstance(width, int) and width % g == 0), None)
            raise PassError(
                f"quantize: {reason} ({weight.producer.attrs['name']})", code="MC0203", where=str(node.loc) or None,
                ir=node_text(weight.producer, locations=False),
                help=(f"use group={fit}, or " if fit else "") + f'exclude "{node.layer}"',
            )

    def run(self, graph: Graph, context: Context) -> PassResult:
        before = context.skip
        context.skip = {**before, self.name: before.get(self.name, set()) | set(self.leave)}
        try:
            return self._run(graph, context)
        finally:
            context.skip = before

    def _run(self, graph: Graph, context: Context) -> PassResult:
        if self.relevant:
            mark_relevant(graph, context, self.limit)
        layers = self._layers(graph.nodes, context)
        if self.format == "fp8":
            tell_untouched("quantize", graph, context, _WEIGHTED, "fp8 kernel", "use format=integers for it")
            samples = self._samples(graph, context, layers, []) if layers else {}
            done = sum(self._apply(graph, context, plan, {}) for plan in self._floats(context, layers, samples))
            return PassResult(changed=done > 0, preserved=NONE, statistics={"layers": done})
        tell_untouched("quantize", graph, context, (*_WEIGHTED, *RECURRENT), "kernel for integer weights",
                       "it stays in float; prune it, or exclude it")
        pairs = activation_products(self, graph.nodes, context)
        recurrent = recurrent_nodes(self, graph.nodes, context)
        tables = table_nodes("quantize", graph, context) if self.tables else []
        if not layers and not pairs and not recurrent and not tables:
            return PassResult(changed=False)
        samples = self._samples(graph, context, layers, pairs, averaged_keys(graph, context) if self.residual else [])
        quantized = self._quantize(graph, context, layers, samples, tables)
        quantized += quantize_recurrent(self, graph, context, recurrent)
        count = quantize_products(self, graph, context, pairs, samples)
        moved = move_bytes(graph, context, samples, self.residual)
        return PassResult(
            changed=quantized + count > 0, preserved=NONE, statistics={"layers": quantized, "products": count, **moved},
        )

    def run_on(self, graph: Graph, context: Context, nodes: Sequence[Node]) -> int:
        """Quantize some nodes (linear, conv, embedding, recurrent ones, products between activations) and nothing else;
        returns how many were."""
        layers = self._layers(nodes, context)
        wanted = {n for n in nodes if n.op.name == "embedding"}
        tables = [t for t in table_nodes("quantize", graph, context) if wanted & set(t.nodes)] if wanted else []
        pairs, recurrent = activation_products(self, nodes, context), recurrent_nodes(self, nodes, context)
        if not layers and not tables and not pairs and not recurrent:
            return 0
        samples = self._samples(graph, context, layers, pairs)
        done = self._quantize(graph, context, layers, samples, tables)
        done += quantize_recurrent(self, graph, context, recurrent)
        return done + quantize_products(self, graph, context, pairs, samples)

    def _quantize(
        self, graph: Graph, context: Context, layers: list[Layer], samples: dict[Key, Sample], tables: list[Table]
    ) -> int:
        rounded: dict[str, Weight] = {}
        plans = self._plans(graph, context, layers, samples)
        done = sum(self._apply(graph, context, plan, rounded) for plan in plans)
        return done + quantize_tables(self, graph, context, tables, rounded)

    # which layers

    def _layers(self, nodes: Iterable[Node], context: Context) -> list[Layer]:
        found = []
        for node in nodes:
            if node.op.name not in _WEIGHTED or context.excluded("quantize", node):
                continue
            reason = self._infeasible(node, context)
            if reason is not None:
                context.missed("quantize", node, *reason)
                continue
            self._tell_group(node, context)
            bits = context.option(node, "bits", self.bits)
            found.append(Layer(node, self._mode(node, bits, context), bits))
        return found

    def _infeasible(self, node: Node, context: Context) -> tuple[str, str] | None:
        weight = node.operand(1)
        if weight.weight is None:
            return "its weight is computed, not constant", "run fold before quantize"
        if not is_plain(weight.tensor.encoding):
            return f"its weight is {weight.tensor.encoding} already", "leave it to the pass that came first"
        if not weight.tensor.dtype.is_float:
            return f"its weight is {weight.tensor.dtype}", "cast it to a float type"
        if self.format == "fp8" and (node.op.name != "linear" or weight.tensor.encoding != DENSE):
            which = f"{node.op.name} with a weight that is {weight.tensor.encoding}"
            return f"{which} has no fp8 kernel", "use format=integers for it"
        if node.operand(0).tensor.encoding != DENSE:
            return f"its input is {node.operand(0).tensor.encoding} already", "quantize it together with what reads the same"
        group = context.option(node, "group", self.group)
        reason = None
        if group is not None and _takes_groups(node):
            reason = Affine(dtypes.i8, axis=(0,), group=group).feasible(weight.tensor)
        return None if reason is None else (reason, "use another group for it")

    def _tell_group(self, node: Node, context: Context) -> None:
        if context.option(node, "group", self.group) is not None and not _takes_groups(node):
            context.missed("quantize", node, "its weight has one scale for each output, not for groups of inputs: those are "
                           "for dense weights of linear layers", "leave group away for it")

    def _mode(self, node: Node, bits: int, context: Context) -> str:
        mode = str(context.option(node, "activations", self.activations))
        if bits < 8 and mode == "auto":
            return "none"
        given = context.calibration is not None and context.calibration.given
        if mode == "auto":
            mode = "static" if given and self.format == "integers" else "dynamic"
        if mode == "dynamic" and node.op.name != "linear":
            if not given:
                context.missed("quantize", node, "activations of conv need static ranges; only its weights are quantized",
                               "pass calibration data")
                return "none"
            context.missed("quantize", node, f"activations of {node.op.name} are static: scales of tokens are for linear",
                           "use activations=static, or none, for it")
            mode = "static"
        if mode == "static" and not given:
            context.remark("warning", "quantize", node, "static ranges come from the example inputs only",
                           "pass calibration data")
        return mode

    # measuring

    def _samples(
        self, graph: Graph, context: Context, layers: list[Layer], products: list[Node], more: Iterable[Key] = ()
    ) -> dict[Key, Sample]:
        wanted = [*(sample_key(layer.node) for layer in layers), *more]
        for node in products:
            wanted += [(value, -1) for value in node.operands[: OPERANDS[node.op.name]] if value is not None]
        if context.calibration is None:
            raise PassError("quantize: the error of layers is measured on calibration data, and there is none",
                            code="MC0205", help="pass calibration=[...] or example inputs")
        return collect(graph, context.calibration, wanted, self.limit)

    def _plans(
        self, graph: Graph, context: Context, layers: list[Layer], samples: dict[Key, Sample]
    ) -> list[Plan]:
        layers = [_ranged(layer, samples[sample_key(layer.node)], context) for layer in layers]
        rounder = self._rounder(graph, context, layers, samples)
        shared: dict[Key, list[Layer]] = {}
        for layer in layers:
            shared.setdefault(sample_key(layer.node), []).append(layer)
        plans: list[Plan] = []
        for key, members in shared.items():
            if not samples[key].whole:
                for layer in members:
                    context.missed("quantize", layer.node, "calibration data never reached it", "give data that uses it")
                continue
            plans += plan_layer(self, members, samples[key], context, rounder)
        return plans

    def _floats(self, context: Context, layers: list[Layer], samples: dict[Key, Sample]) -> list[Plan]:
        for layer in layers:
            if not samples[sample_key(layer.node)].whole:
                context.missed("quantize", layer.node, "calibration data never reached it", "give data that uses it")
        ready = [_ranged(x, s, context) for x in layers if (s := samples[sample_key(x.node)]).whole]
        return float8_plans(ready, samples, self.correct)

    def _rounder(
        self, graph: Graph, context: Context, layers: list[Layer], samples: dict[Key, Sample]
    ) -> Rounder:
        assert context.calibration is not None
        plain = Rounder(self.rounding, None)
        by_value: dict[Value, list[Node]] = {}
        for layer in layers:
            node, sample = layer.node, samples[sample_key(layer.node)]
            affine = encoding_of(self, layer, context)
            if not sample.whole or not plain.matters(node, weight_of(node), affine, sample.rows()):
                continue
            if layer.bits == 8 and self.rounding == "auto" and sharers(node):
                continue
            if too_wide(node):
                reason = f"its weight is rounded to the nearest: {TOO_WIDE[0]}"
                context.missed("quantize", node, reason, "use more bits for it")
            else:
                by_value.setdefault(node.operand(0), []).append(node)
        ordered = [node for members in by_value.values() for node in members]
        return Rounder(self.rounding, MomentSource(graph, context.calibration, ordered, self.limit, _ROWS))

    # rewriting

    def _apply(self, graph: Graph, context: Context, plan: Plan, rounded: dict[str, Weight]) -> bool:
        """Rewrite one layer. A weight that keeps its meaning is added to `rounded`, by the digest it had."""
        node = plan.layer.node
        limit = context.option(node, "max_error", self.max_error)
        if not plan.error <= limit:
            context.missed("quantize", node, f"its output would change by {plan.error:.1%}, more than {limit:.1%}",
                           "raise max_error, or try smooth=0.5")
            return False
        if not context.allow_rewrite("quantize"):
            return False
        before, size = node.operand(1).weight, constant_bytes(graph)
        with graph.edit("quantize", loc=node.loc) as editor:
            self._rewrite(editor, plan)
        after = node.operand(1).weight
        if plan.factors is None and before is not None and after is not None and _fits_table(plan.encoding):
            rounded[before.digest] = after
        saved = size - constant_bytes(graph)
        context.record(graph, LedgerEntry("quantize", node.layer, node.name, plan.error, saved, detail=plan.detail))
        context.remark("applied", "quantize", node, plan.detail)
        return True

    def _rewrite(self, editor: Editor, plan: Plan) -> None:
        node = plan.layer.node
        loc = fused("quantize", node.loc)
        old = node.operand(1)
        assert old.producer is not None
        type = TensorType(old.tensor.shape, old.tensor.dtype, plan.encoding)
        weight = editor.const(
            plan.parts["values"], parts=plan.parts, type=type, name=old.producer.attrs["name"],
            loc=fused("quantize", old.producer.loc), before=node,
        )
        x = node.operand(0)
        if plan.factors is not None:
            factors = dense_const(editor, 1.0 / plan.factors, x.tensor, f"{node.name}.smooth", loc=loc, before=node)
            x = editor.add("mul", [x, factors], loc=loc, before=node, name=f"{x.name}_smooth").result
        if plan.activation is not None:
            x = editor.add("quantize", [x], plan.activation, loc=loc, before=node, name=f"{x.name}_q").result
        bias = old_bias = node.maybe(2)
        if plan.bias is not None:
            name = bias.producer.attrs["name"] if bias is not None and bias.producer is not None else f"{node.name}.bias"
            bias = dense_const(editor, plan.bias, node.type if bias is None else bias.tensor, name, loc=loc, before=node)
        editor.set_operands(node, (x, weight, bias))
        editor.set_loc(node, loc)
        for before, after in ((old, weight), (old_bias, bias)):
            if before is not None and after is not None and before.producer is not None and not before.uses:
                editor.replace(before, after)
                editor.erase(before.producer)


def _takes_groups(node: Node) -> bool:
    """Whether a weight may have a scale for each group of inputs."""
    return node.op.name == "linear" and node.operand(1).tensor.encoding == DENSE


def _ranged(layer: Layer, sample: Sample, context: Context) -> Layer:
    """The layer, without a static range where its input was always zero: nothing tells what it will be."""
    if layer.mode != "static" or not sample.whole or sample.low < 0 or sample.high > 0:
        return layer
    context.missed("quantize", layer.node, "its input was zero in all calibration data",
                   "give data that uses it, or activations=dynamic")
    return replace(layer, mode="dynamic" if layer.node.op.name == "linear" else "none")


def _fits_table(encoding: Encoding) -> bool:
    """Whether a weight of this encoding can also be the table of an embedding."""
    return isinstance(encoding, Affine) and encoding.group is None
