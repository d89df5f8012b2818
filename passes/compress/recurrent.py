"""Quantizing lstm, gru and rnn: their weights to int8, and what those are multiplied by while they run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mcomp.ir import dims, dtypes
from mcomp.ir.encoding import DENSE, Affine
from mcomp.ir.graph import Graph, LedgerEntry, Node, Value
from mcomp.ir.loc import fused
from mcomp.ir.types import TensorType
from mcomp.manager.context import Context
from mcomp.passes.compress.encode import constant_bytes
from mcomp.passes.compress.layer import encode_weight
from mcomp.passes.compress.samples import error_by_row
from mcomp.passes.compress.untouched import multiplies_floats
from mcomp.runtime.calibration import Calibration

if TYPE_CHECKING:
    from torch import Tensor

    from mcomp.passes.compress.quantize import Quantize

RECURRENT = ("lstm", "gru", "rnn")
_ENCODING = Affine(dtypes.i8, axis=(0,))
_BATCHES, _SEQUENCES, _STEPS = 2, 16, 64


@dataclass(frozen=True)
class RecurrentPlan:
    """New buffers of a node's matrices by operand index, whether rows are rounded, and the error of its output."""

    parts: Mapping[int, dict[str, np.ndarray]]
    dynamic: bool
    error: float


def recurrent_nodes(options: Quantize, nodes: Iterable[Node], context: Context) -> list[Node]:
    """Those of some nodes that are recurrent layers and can be quantized; remarks for the others."""
    found = []
    for node in nodes:
        if node.op.name not in RECURRENT or context.excluded("quantize", node):
            continue
        matrices = [node.operand(i) for i in _matrices(node)]
        if context.option(node, "bits", options.bits) != 8:
            context.missed("quantize", node, f"{node.op.name} has no kernel for 4-bit weights", "use bits=8 for it")
        elif any(m.weight is None for m in matrices):
            context.missed("quantize", node, "its weights are computed, not constant", "run fold before quantize")
        elif any(m.tensor.encoding != DENSE or m.tensor.dtype is not dtypes.f32 for m in matrices):
            context.missed("quantize", node, "its weights are not plain f32", "cast them to f32, and quantize once")
        elif not multiplies_floats("quantize", node, context):
            found.append(node)
    return found


def quantize_recurrent(options: Quantize, graph: Graph, context: Context, nodes: Sequence[Node]) -> int:
    """Quantize these nodes, where the error of their output allows; how many were.

    Rows are rounded with a scale of their own while the model runs (`dynamic` of the operator), also where static ranges
    are asked for: states have none. With activations=none, or where rounding costs too much and nobody asked for it, only
    the weights are quantized.
    """
    if not nodes or context.calibration is None:
        return 0
    samples = recurrent_samples(graph, context.calibration, nodes)
    return sum(_quantize(options, graph, context, node, samples) for node in nodes)


def _quantize(
    options: Quantize, graph: Graph, context: Context, node: Node, samples: Mapping[Value, list[Tensor]]
) -> bool:
    mode = str(context.option(node, "activations", options.activations))
    limit = context.option(node, "max_error", options.max_error)
    if not samples[node.operand(0)]:
        context.missed("quantize", node, "calibration data never reached it", "give data that uses it")
        return False
    plan = plan_recurrent(node, samples, mode != "none")
    if mode == "auto" and not plan.error <= limit:
        plan = plan_recurrent(node, samples, False)
    if not plan.error <= limit:
        context.missed("quantize", node, f"its output would change by {plan.error:.1%}, more than {limit:.1%}",
                       "raise max_error")
        return False
    if not context.allow_rewrite("quantize"):
        return False
    detail = f"weights i8, {'activations and states i8 dynamic' if plan.dynamic else 'float activations'}"
    layer, name, before = node.layer, node.name, constant_bytes(graph)
    rewrite_recurrent(graph, node, plan.parts, plan.dynamic)
    saved = before - constant_bytes(graph)
    context.record(graph, LedgerEntry("quantize", layer, name, error=plan.error, bytes_saved=saved, detail=detail))
    context.remark("applied", "quantize", node, detail)
    return True


def _matrices(node: Node) -> list[int]:
    """Indices of the operands that are weight matrices."""
    first = 3 if node.op.name == "lstm" else 2
    return [i for i, v in enumerate(node.operands) if i >= first and v is not None and v.tensor.rank == 2]


def integer_parts(node: Node) -> dict[int, dict[str, np.ndarray]]:
    """The buffers of a node's matrices as integers, by operand index."""
    import torch

    weights = _arrays(node)
    return {i: encode_weight(torch.from_numpy(weights[i]), _ENCODING) for i in _matrices(node)}


def recurrent_bytes(node: Node, integers: bool) -> int:
    """Bytes of a node's matrices, as they are or as integers."""
    types = [node.operand(i).tensor for i in _matrices(node)]
    return sum(dims.evaluate((t.with_encoding(_ENCODING) if integers else t).nbytes, {}) for t in types)


def plan_recurrent(node: Node, samples: Mapping[Value, list[Tensor]], dynamic: bool) -> RecurrentPlan:
    """The integers of a node, and what they change of its output on samples. dynamic: whether rows are rounded too."""
    import torch

    weights, parts = _arrays(node), integer_parts(node)
    rough = list(weights)
    for i in parts:
        type = TensorType(node.operand(i).tensor.shape, dtypes.f32, _ENCODING)
        rough[i] = np.ascontiguousarray(_ENCODING.decode(parts[i], type))
    states = 3 if node.op.name == "lstm" else 2
    errors = []
    with torch.no_grad():
        for given in zip(*(samples[node.operand(i)] for i in range(states))):
            exact, found = (
                node.op.reference([*given, *map(torch.from_numpy, arrays[states:])], {**node.attrs, "dynamic": rounded})[0]
                for arrays, rounded in ((weights, False), (rough, dynamic))
            )
            errors.append(error_by_row(found.reshape(-1, found.shape[-1]), exact.reshape(-1, exact.shape[-1])))
    return RecurrentPlan(parts, dynamic, float(np.sqrt(np.mean(np.square(errors)))))


def _arrays(node: Node) -> list[np.ndarray]:
    """The constants among the operands; empty arrays for the others."""
    found = []
    for i in range(len(node.operands)):
        stored = node.operand(i).weight
        found.append(np.zeros(0, np.float32) if stored is None else np.array(stored.decode(), dtype=np.float32))
    return found


def recurrent_samples(
    graph: Graph, calibration: Calibration, nodes: Sequence[Node]
) -> dict[Value, list[Tensor]]:
    """What the first batches make of the nodes' inputs and states, cut to some sequences and steps."""
    import torch

    from mcomp.ops.encoded import to_torch_tensor

    axes: dict[Value, tuple[int, int | None]] = {}
    for node in nodes:
        axes[node.operand(0)] = (0, 1) if node.attrs["batch_first"] else (1, 0)
        for i in range(1, 3 if node.op.name == "lstm" else 2):
            axes[node.operand(i)] = (1, None)
    samples: dict[Value, list[Tensor]] = {value: [] for value in axes}

    def keep(value: Value, tensor: Any) -> None:
        batch, steps = axes[value]
        kept = tensor.narrow(batch, 0, min(_SEQUENCES, tensor.shape[batch]))
        if steps is not None:
            kept = kept.narrow(steps, 0, min(_STEPS, kept.shape[steps]))
        if kept.numel() or steps is None:
            samples[value].append(kept.detach().float().clone())

    def observe(node: Node, outputs: Sequence[Any]) -> None:
        for value, output in zip(node.results, outputs):
            if value in axes and not value.is_const:
                keep(value, output)

    for batch in calibration.batches[:_BATCHES]:
        for value, given in zip(graph.inputs, calibration.inputs(graph, batch)):
            if value in axes:
                keep(value, given)
        for value in axes:
            if value.weight is not None:
                keep(value, torch.as_tensor(to_torch_tensor(value.weight)))
    calibration.run(graph, observe, limit=_BATCHES)
    return samples


def rewrite_recurrent(graph: Graph, node: Node, parts: Mapping[int, dict[str, np.ndarray]], dynamic: bool) -> None:
    """Put integers into the places of a node's matrices. dynamic: rows are rounded while the model runs."""
    with graph.edit("quantize", loc=node.loc) as editor:
        operands = list(node.operands)
        for i, own in parts.items():
            old = node.operand(i)
            assert old.producer is not None
            operands[i] = editor.const(
                own["values"], parts=own, type=TensorType(old.tensor.shape, old.tensor.dtype, _ENCODING),
                name=old.producer.attrs["name"], loc=fused("quantize", old.producer.loc), before=node,
            )
        before = [node.operand(i) for i in parts]
        editor.set_operands(node, tuple(operands))
        editor.set_attrs(node, dynamic=dynamic)
        editor.set_loc(node, fused("quantize", node.loc))
        for old, i in zip(before, parts):
            new = operands[i]
            if new is not None and old.producer is not None and not old.uses:
                editor.replace(old, new)
                editor.erase(old.producer)
