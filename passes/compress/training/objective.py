"""What a student is trained for: to give the outputs, and intermediate values, that its teacher gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from mcomp.ir import dims
from mcomp.ir.graph import Node, Value
from mcomp.ir.types import TensorType

Kind = Literal["auto", "kl", "mse", "cosine"]
_THROUGH = ("reshape", "squeeze", "unsqueeze", "cast", "permute", "select", "slice", "contiguous")
_RULED_OUT = -1e9
"""A score that gives a class no probability; where all have it, student and teacher agree."""


@dataclass(frozen=True)
class Objective:
    """A loss over several outputs and features.

    `kinds`, one per output:
    kl: T^2 KL(softmax(teacher / T) || softmax(student / T)) over the last axis (Hinton et al. 2015, section 2.1),
        which keeps its gradient as large at every temperature, plus `anchor` times mse.
    mse: squared L2 error divided by the squared L2 distance of the teacher's values from their mean over the batch, so
        that a constant guess gives about 1.
    cosine: 1 - cosine of the angle along the last axis, plus `anchor` times mse.
    Features count as mse, weighted by `features` over their number. Values that are not floating-point do not count, nor do
    those of the teacher that are not finite: with kl, classes that it rules out (-inf), and rows with NaN or inf; with
    cosine, rows with any of them.
    """

    kinds: tuple[Kind, ...]
    temperature: float = 4.0
    anchor: float = 0.1
    features: float = 0.0

    def __call__(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """The loss of outputs and, after them, features; a scalar."""
        count = len(self.kinds)
        total = torch.zeros(())
        for kind, ours, theirs in zip(self.kinds, student, teacher):
            if theirs.is_floating_point():
                total = total + self._output(kind, ours.float(), theirs.float())
        rest = list(zip(student[count:], teacher[count:]))
        for ours, theirs in rest:
            total = total + self.features / len(rest) * relative_square(ours.float(), theirs.float())
        return total

    def _output(self, kind: Kind, ours: Tensor, theirs: Tensor) -> Tensor:
        if kind == "kl":
            divergence = _divergence(ours, theirs, self.temperature)
            if not self.anchor:
                return divergence
            return divergence + self.anchor * relative_square(ours, theirs)
        if kind == "cosine":
            apart = _angle(ours, theirs)
            return apart + self.anchor * relative_square(ours, theirs) if self.anchor else apart
        return relative_square(ours, theirs)


def _divergence(ours: Tensor, theirs: Tensor, t: float) -> Tensor:
    """t^2 KL(softmax(theirs / t) || softmax(ours / t)) over the last axis, its mean over the rest."""
    finite = torch.isfinite(theirs)
    whole = bool(finite.all())
    if not whole:
        finite &= ~(torch.isnan(theirs) | torch.isposinf(theirs)).any(-1, keepdim=True)
        ours, theirs = ours.masked_fill(~finite, _RULED_OUT), theirs.masked_fill(~finite, _RULED_OUT)
    each = functional.kl_div(
        functional.log_softmax(ours / t, -1), functional.log_softmax(theirs / t, -1), reduction="none", log_target=True,
    ).sum(-1)
    mean = each.mean() if whole else each.sum() / finite.any(-1).sum().clamp(min=1)
    return mean * t * t


def _angle(ours: Tensor, theirs: Tensor) -> Tensor:
    """1 - cosine along the last axis, its mean over the rest."""
    finite = torch.isfinite(theirs).all(-1)
    if not bool(finite.all()):
        ours, theirs = ours[finite], theirs[finite]
        if not len(theirs):
            return ours.sum()
    return 1.0 - functional.cosine_similarity(ours, theirs, dim=-1).mean()


def relative_square(ours: Tensor, theirs: Tensor) -> Tensor:
    """Squared L2 error over the squared L2 distance of the teacher's values from their mean over the first axis (for one
    sample, from zero). Places where the teacher is not finite do not count."""
    finite = torch.isfinite(theirs)
    if not bool(finite.all()):
        ours, theirs = torch.where(finite, ours, 0.0), torch.where(finite, theirs, 0.0)
    spread = theirs
    if theirs.dim() and theirs.shape[0] > 1:
        mean = theirs.sum(0, keepdim=True) / finite.sum(0, keepdim=True).clamp(min=1)
        spread = torch.where(finite, theirs - mean, 0.0)
    scale = spread.square().sum()
    scale = torch.where(scale > 0, scale, theirs.square().sum()).clamp(min=1e-12)
    return (ours - theirs).square().sum() / scale


def kinds_of(outputs: Sequence[Value], asked: Kind) -> tuple[Kind, ...]:
    """What kind each output is. With `auto`: scores of two classes or more that a linear layer or a softmax makes are kl
    (or, where `softmax` itself ends the model, mse: its outputs are no scores any more), the others mse, and vectors that
    were divided by a norm of theirs cosine. Classes lie along the last axis; what has one axis only, or another last axis
    than the layer's, is mse."""
    return tuple(_kind(value) if asked == "auto" else asked for value in outputs)


def _kind(value: Value) -> Kind:
    type = value.type
    if not isinstance(type, TensorType) or type.rank < 2 or type.shape[-1] == 1:
        return "mse"
    producer = value.producer
    while producer is not None and producer.op.name in _THROUGH:
        if not _keeps_last(producer):
            return "mse"
        producer = producer.operand(0).producer
    if producer is None:
        return "mse"
    if producer.op.name == "linear":
        return "kl"
    if producer.op.name == "log_softmax":
        return "kl" if producer.attrs["axis"] == producer.result.tensor.rank - 1 else "mse"
    if producer.op.name == "div" and type.rank == 2 and producer.operand(1).tensor.shape[-1] == 1:
        return "cosine"
    return "mse"


def _keeps_last(node: Node) -> bool:
    """Whether the last axis of what a view gives is its operand's last one, or a part of that."""
    given, made = node.operand(0).tensor, node.result.tensor
    if not given.shape or not made.shape:
        return False
    name, attrs, last = node.op.name, node.attrs, given.rank - 1
    if name == "permute":
        return bool(attrs["order"][-1] == last)
    if name == "squeeze":
        return last not in attrs["axes"]
    if name == "unsqueeze":
        return made.rank - 1 not in attrs["axes"]
    if name == "select":
        return bool(attrs["axis"] != last)
    before, after = given.shape[-1], made.shape[-1]
    return name != "reshape" or before == after or (after not in (0, 1) and dims.mod(before, after) == 0)
