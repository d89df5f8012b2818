"""Fourier transforms."""

from __future__ import annotations

from mcomp.backend import Declined, lowers
from mcomp.backends.cpu.access import Access
from mcomp.backends.cpu.builder import TARGET, Builder
from mcomp.backends.cpu.lower.norm import around
from mcomp.ir.graph import Node

HEADERS = ("fft.hpp",)


def _scale(norm: str, inverse: bool) -> str:
    """What the transform of `length` numbers is multiplied by."""
    if norm == "ortho":
        return "float(1.0 / __builtin_sqrt(double(length)))"
    return "float(1.0 / double(length))" if (norm == "backward") == inverse else "1.0f"


@lowers("fft", target=TARGET)
def lower_fft(node: Node, b: Builder) -> Declined | None:
    """One axis after the other."""
    x, a = b.contiguous(node.operand(0)), node.attrs
    if not a["axes"]:
        return Declined("it transforms no axis")
    for i, axis in enumerate(a["axes"]):
        last = i == len(a["axes"]) - 1
        out: Access = b.write(node.result) if last else b.temp(x.dtype, x.shape)
        inverse = "true" if a["inverse"] else "false"
        b.call("fft", f"fft(w, x, y, outer, n, inner, {inverse}, {_scale(a['norm'], a['inverse'])});", outs={"y": out},
               ins={"x": x}, numbers={**around(x, axis), "length": x.shape[axis]}, headers=HEADERS)
        x = out
    return None


@lowers("rfft", "irfft", target=TARGET)
def lower_real_fft(node: Node, b: Builder) -> Declined | None:
    """Real numbers to the first half of their terms, and back."""
    x, a = b.contiguous(node.operand(0)), node.attrs
    forward = node.op.name == "rfft"
    out = b.write(node.result)
    real = x if forward else out
    b.call(node.op.name, f"{node.op.name}(w, x, y, outer, n, inner, {_scale(a['norm'], not forward)});", outs={"y": out},
           ins={"x": x}, numbers={**around(real, a["axis"]), "length": real.shape[a["axis"]]}, headers=HEADERS)
    return None
