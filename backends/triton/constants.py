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
    form = source.form
    if form == "block_sums":
        return _block_sums(weight)
    if form.startswith("decoded"):
        tensor, form = to_torch_tensor(weight), form.removeprefix("decoded").removeprefix(":")
    else:
        dtype = weight.type.encoding.buffers(weight.type)[source.part].dtype
        tensor = tensor_of(weight.parts[source.part], dtype)
    if form.startswith("transposed:"):
        return _transposed(tensor, int(form.removeprefix("transposed:"))).contiguous()
    return (_FORMS[form](tensor) if form not in ("", "plain") else tensor).contiguous()


def _taps_last(x: Any) -> Any:
    """A filter [O, C, *K] as [O, *K, C]."""
    return x.movedim(1, -1)


def _transposed(x: Any, groups: int) -> Any:
    """The filter [C, O/groups, *K] of a transposed convolution as [groups, O/groups, *K, C/groups]."""
    return x.reshape(groups, -1, *x.shape[1:]).movedim(1, -1)


def _row_sums(x: Any) -> Any:
    """Sums of the integers of each output, as i32: what a zero point of the other operand is multiplied by."""
    import torch

    return x.to(torch.int32).flatten(1).sum(1, dtype=torch.int32)


def _block_sums(weight: Weight) -> Tensor:
    """Row sums of a block-sparse weight, as `_row_sums` gives them of a dense one."""
    import torch

    values, starts = (torch.from_numpy(weight.parts[part].astype("int64")) for part in ("values", "rows"))
    owners = torch.repeat_interleave(torch.arange(len(starts) - 1), starts.diff())
    sums = torch.zeros(len(starts) - 1, values.shape[1], dtype=torch.int64)
    return sums.index_add_(0, owners, values.sum(2)).flatten().to(torch.int32)


def _nibbles(x: Any) -> Any:
    """Integers [N, K] of 4 bits as bytes [N, K/2]: byte j of a row holds element j in its low half, j + K/2 in the high."""
    import torch

    half = x.shape[1] // 2
    low, high = x[:, :half].to(torch.int16) & 15, x[:, half:].to(torch.int16) & 15
    return (low | (high << 4)).to(torch.uint8)


_FORMS: dict[str, Callable[[Any], Any]] = {"taps_last": _taps_last, "row_sums": _row_sums, "nibbles": _nibbles}
