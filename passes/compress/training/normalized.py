"""Batch normalization for as long as training lasts: compression begins with batch norms folded into convolutions, and deep
networks without them learn slowly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mcomp.ir.graph import Node
from mcomp.ops.encoded import decoded
from mcomp.passes.compress.training.parameters import DenseParameter, Trained

_EPSILON = 1e-5
_MOMENTUM = 0.1


class Normalized:
    """A convolution whose result, without its bias, is normalized channel by channel while it is trained (Ioffe and Szegedy
    2015), then given back the mean and deviation that it had at the start, times a gain that is learned. Where no gradient
    is computed, running statistics take the place of the minibatch's: at the start it is the convolution that it was.
    """

    def __init__(self, node: Node, weight: DenseParameter, bias: DenseParameter, sample: Tensor) -> None:
        """sample: what the convolution gives for some samples, bias included."""
        self.node, self.weight, self.bias = node, weight, bias
        channels = sample.detach().float().transpose(0, 1).flatten(1)
        mean = channels.mean(1) - bias.master.detach().float()
        variance = channels.var(1, correction=0)
        self.mean, self.deviation = mean, (variance + _EPSILON).sqrt()
        self.gain = torch.ones_like(mean).requires_grad_()
        self.running = {"mean": mean.clone(), "variance": variance}

    def __call__(self, x: Any, weight: Tensor, bias: Tensor) -> Tensor:
        found: Tensor = self.node.op.reference([decoded(x), weight, None], self.node.attrs)
        return functional.batch_norm(
            found.float(), self.running["mean"], self.running["variance"], self.gain * self.deviation, bias + self.mean,
            training=torch.is_grad_enabled(), momentum=_MOMENTUM, eps=_EPSILON,
        )

    def fold(self) -> None:
        """Make the convolution by itself give what it gives with running statistics."""
        with torch.no_grad():
            factor = self.gain * self.deviation / (self.running["variance"] + _EPSILON).sqrt()
            self.weight.master.mul_(factor.reshape(-1, *[1] * (self.weight.master.dim() - 1)))
            self.bias.master.add_(self.mean - factor * self.running["mean"])


def normalizable(node: Node, trained: Mapping[Node, Trained]) -> tuple[DenseParameter, DenseParameter] | None:
    """Weight and bias of a convolution over images, in training and of that convolution alone, as folded batch norms leave
    them; None for other nodes."""
    if node.op.name != "conv" or node.type.rank != 4 or len(node.operands) < 3:
        return None
    found = [trained.get(v.producer) for v in node.operands[1:3] if v is not None and v.producer is not None]
    if len(found) != 2 or any(len(t.node.result.uses) != 1 for t in found if t is not None):
        return None
    weight, bias = found
    if not isinstance(weight, DenseParameter) or not isinstance(bias, DenseParameter):
        return None
    return (weight, bias) if weight.dtype is torch.float32 and bias.dtype is torch.float32 else None
