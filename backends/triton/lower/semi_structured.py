"""Linear layers whose weight has two of every four elements: torch's kernels for the chip's sparse tensor cores, as a
candidate beside ours, which multiply by all elements."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from mcomp.backends.triton.access import ConstSource, Place
from mcomp.backends.triton.builder import Builder
from mcomp.backends.triton.constants import constant_tensor
from mcomp.backends.triton.lower.tail import torch_steps
from mcomp.backends.triton.lower.tiles import Linear
from mcomp.backends.triton.program import Launch, TorchStep
from mcomp.ir import dtypes
from mcomp.ir.encoding import NM
from mcomp.ir.store import WeightStore

if TYPE_CHECKING:
    from torch import Tensor

STEPS = (32, 64)
"""Rows and columns of a weight are multiples of these: what CUTLASS needs, and more than cuSPARSELt does."""
_FLOATS = (dtypes.f16, dtypes.bf16)


def semi_structured_way(whole: Linear, b: Builder) -> tuple[str, list[Launch | TorchStep]] | None:
    """The way by torch's kernel; None where there is none for this weight. Sums of f32 products would be of TF32 ones there:
    those are left to our kernels."""
    node, tail = whole.node, whole.tail
    x, weight = node.operand(0), node.operand(1)
    encoding, found = weight.tensor.encoding, b.weight(weight)
    if not isinstance(encoding, NM) or (encoding.n, encoding.m) != (2, 4) or x.tensor.dtype not in _FLOATS or found is None:
        return None
    if any(size % step for size, step in zip(found.type.static_shape, STEPS)):
        return None
    bias = node.maybe(2)
    inputs: list[Place | None] = [b.read(x), *([] if bias is None else [b.read(bias)])]
    call = SemiStructured(b.graph.store, found.digest)
    return "semi-structured", torch_steps(node, inputs, call, tail, whole.views, whole.room, b)


class SemiStructured:
    """x, bias -> x times the transposed weight, plus bias. The weight is decoded and compressed at the first call on a
    device; what was decoded is not kept."""

    def __init__(self, store: WeightStore, digest: str) -> None:
        self._store, self._digest = store, digest
        self._compressed: dict[Any, Tensor] = {}

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        import torch

        weight = self._compressed.get(x.device)
        if weight is None:
            dense = constant_tensor(self._store, ConstSource(self._digest, form="decoded"))
            weight = self._compressed[x.device] = compressed(dense.to(x.device, x.dtype))
        return torch.nn.functional.linear(x, weight, bias)


def compressed(weight: Tensor) -> Tensor:
    """A weight [N, K] on a GPU in the format of torch's sparse kernels. Raises RuntimeError where torch has none for it."""
    import torch
    from torch import sparse

    fast = torch.backends.cusparselt.is_available()
    kind = sparse.SparseSemiStructuredTensorCUSPARSELT if fast else sparse.SparseSemiStructuredTensorCUTLASS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that the interface may change
        found: Tensor = kind.from_dense(weight)
    return found
