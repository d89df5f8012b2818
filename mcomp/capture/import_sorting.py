"""Importers of sorting and Fourier transforms."""

from __future__ import annotations

from collections.abc import Sequence

from mcomp.capture.importing import Call, Decline, axes_of, axis_of, imports
from mcomp.ir import dtypes
from mcomp.ir.graph import Value


@imports("aten.sort.default", "aten.sort.stable", "aten.argsort.default", "aten.argsort.stable", "aten.msort.default")
def sort(call: Call) -> Value | Sequence[Value]:
    value = call.value("self")
    if value.tensor.rank == 0:
        raise Decline("its tensor has no dimensions")
    axis = axis_of(call.get("dim", 0 if "msort" in call.name else -1), value.tensor.rank)
    pair = call.emit_many("sort", [value], axis=axis, descending=bool(call.get("descending", False)))
    if "argsort" in call.name:
        return pair[1]
    return pair[0] if "msort" in call.name else pair


@imports("aten.topk.default")
def topk(call: Call) -> Sequence[Value]:
    value = call.value("self")
    if value.tensor.rank == 0:
        raise Decline("its tensor has no dimensions")
    return call.emit_many(
        "topk", [value], k=call["k"], axis=axis_of(call["dim"], value.tensor.rank), largest=bool(call["largest"]),
        sorted=bool(call["sorted"]),
    )


@imports("aten.fft_fft.default", "aten.fft_fft2.default", "aten.fft_fftn.default", "aten.fft_ifft.default",
         "aten.fft_ifft2.default", "aten.fft_ifftn.default")
def fft(call: Call) -> Value:
    value = call.value("self")
    if call.get("s", call.get("n")) is not None:
        raise Decline("it pads or crops")
    axes = axes_of(call.get("dim", [-2, -1] if "2" in call.name.split(".")[1] else None), value.tensor.rank)
    return call.emit(
        "fft", [call.cast(value, dtypes.complex64)], axes=axes, inverse="ifft" in call.name, norm=call["norm"] or "backward"
    )


@imports("aten.fft_rfft.default")
def rfft(call: Call) -> Value:
    value = call.value("self")
    if call["n"] is not None:
        raise Decline("it pads or crops")
    return call.emit("rfft", [value], axis=axis_of(call["dim"], value.tensor.rank), norm=call["norm"] or "backward")


@imports("aten.fft_irfft.default")
def irfft(call: Call) -> Value:
    value = call.value("self")
    axis = axis_of(call["dim"], value.tensor.rank)
    return call.emit("irfft", [value], axis=axis, length=call.result.shape[axis], norm=call["norm"] or "backward")
