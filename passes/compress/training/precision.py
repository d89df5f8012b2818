"""The arithmetic of training steps: float32, or bfloat16 for matrix products where that is faster."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Literal

import torch

from mcomp.ir.binding import assume_symbols
from mcomp.ir.graph import Node
from mcomp.ops.workload import PRODUCTS, workload
from mcomp.passes.compress.training.view import TrainableGraph

Precision = Literal["auto", "f32", "bf16"]

_SHARE = 0.9
_WIDTH = 128


def wants_bf16(student: TrainableGraph, asked: Precision) -> bool:
    """Whether training steps of a student use bfloat16 products. `auto`: where the processor has instructions for them and
    nearly all operations are products of linear layers and attention of at least 128 inputs; convolutions without groups
    count where there are matrix registers (two times float32, there; without, those of few channels are slower)."""
    if asked != "auto":
        return asked == "bf16"
    known = assume_symbols(student.graph, {})
    products = [(n, workload(n, known).flops) for n in student.nodes if n.op.name in PRODUCTS]
    total = sum(flops for _, flops in products)
    matrices = _has("amx_bf16")
    wide = sum(flops for node, flops in products if _is_wide(node, matrices))
    return total > 0 and wide >= _SHARE * total and has_bf16()


def _is_wide(node: Node, matrices: bool) -> bool:
    if node.op.name == "conv":
        return matrices and bool(node.attrs["groups"] == 1)
    if node.op.name != "linear":
        return node.op.name == "attention"
    return all(isinstance(d, int) and d >= _WIDTH for d in node.operand(1).tensor.shape)


def has_bf16() -> bool:
    """Whether this processor multiplies bfloat16 in hardware, as far as torch tells."""
    return _has("avx512_bf16") or _has("amx_bf16")


def _has(instructions: str) -> bool:
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get(instructions))


def steps_in(bf16: bool) -> AbstractContextManager[object]:
    """Where the operators of a training step run: their products in bfloat16, or everything as it is."""
    return torch.autocast("cpu", torch.bfloat16, enabled=bf16)
