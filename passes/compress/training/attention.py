"""Attention while training: its products one by one, whose gradients torch computes several times as fast on CPUs as that of
its fused kernel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mcomp.ir.graph import Node
from mcomp.ops.encoded import decoded

_SCORES = 1 << 26
"""Scores from which on they are not kept for the gradient."""
_LENGTH = 256
"""Keys from which on the fused kernel is as fast, where products are in float32."""


def plain_attention(node: Node) -> Any:
    """What an `attention` node does while training: a function of its operands. It takes the fused kernel where there is no
    gradient to compute, or where scores would take too much memory."""
    attrs, reference = node.attrs, node.op.reference

    def attention(*given: Any) -> Tensor:
        operands = [decoded(x) for x in given]
        query, key, value = operands[:3]
        mask = operands[3] if len(operands) > 3 else None
        scores = query.numel() // max(1, query.shape[-1]) * key.shape[-2]
        learned = torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad)
        short = key.shape[-2] < _LENGTH or torch.is_autocast_enabled("cpu")
        if not learned or not short or scores > _SCORES:
            found: Tensor = reference(operands, attrs)
            return found
        return _attend(query, key, value, mask, attrs)

    return attention


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, attrs: Any) -> Tensor:
    """The operator's formula."""
    if attrs["grouped"]:
        shared = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(shared, -3), value.repeat_interleave(shared, -3)
    scale = query.shape[-1] ** -0.5 if attrs["scale"] is None else attrs["scale"]
    scores = torch.matmul(query * scale, key.transpose(-1, -2))
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    if attrs["causal"]:
        kept = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
        scores = scores.masked_fill(~kept, -torch.inf)
    return torch.matmul(torch.ops.aten._safe_softmax(scores, -1), value)
