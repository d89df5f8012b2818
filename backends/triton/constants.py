"""Constants as kernels want them: parts of weights as they are, decoded, packed or reordered. Made once per device."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mcomp.backends.triton.access import ConstSource
from mcomp.ir.store import Weight, WeightStore

if TYPE_CHECKING:
    from torch import Tensor


def constant_tensor(store: WeightStore, source: ConstSource) -> Tensor:
    """The tensor of a constant in main memory, contiguous."""
    from mcomp.ops.encoded import tensor_of, to_torch_tensor

    weight = store.get(source.digest)
    if source.form == "decoded":
        return to_torch_tensor(weight).contiguous()
    if source.part == "values" and source.form != "plain" and source.form not in _FORMS:
        raise ValueError(f"no form is called {source.form}")
    dtype = weight.type.encoding.buffers(weight.type)[source.part].dtype
    tensor = tensor_of(weight.parts[source.part], dtype)
    return _FORMS[source.form](tensor, weight).contiguous() if source.form != "plain" else tensor.contiguous()


def _taps_last(x: Any, weight: Weight) -> Any:
    """A filter [O, C, *K] as [O, *K, C]."""
    return x.movedim(1, -1)


def _taps_last_transposed(x: Any, weight: Weight) -> Any:
    """The filter [C, O/groups, *K] of a transposed convolution as [C, *K, O/groups]."""
    return x.movedim(1, -1)


def _row_sums(x: Any, weight: Weight) -> Any:
    """Sums of the integers of each output, as i32: what a zero point of the other operand is multiplied by."""
    import torch

    return x.to(torch.int32).flatten(1).sum(1, dtype=torch.int32)


def _nibbles(x: Any, weight: Weight) -> Any:
    """Integers [N, K] of 4 bits as bytes [N, K/2]: byte j of a row holds element j in its low half, j + K/2 in the high."""
    import torch

    half = x.shape[1] // 2
    low, high = x[:, :half].to(torch.int16) & 15, x[:, half:].to(torch.int16) & 15
    return (low | (high << 4)).to(torch.uint8)


_FORMS: dict[str, Callable[[Any, Weight], Any]] = {
    "taps_last": _taps_last, "taps_last_transposed": _taps_last_transposed, "row_sums": _row_sums, "nibbles": _nibbles,
}
