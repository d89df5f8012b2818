"""Tensors out of nothing: full, arange, eye."""

from __future__ import annotations

from typing import Any

from mcomp.backend import Declined, lowers
from mcomp.backends.cpu.access import Access
from mcomp.backends.cpu.builder import TARGET, Builder, pointer
from mcomp.backends.cpu.cxx import Real, Size, literal, register_type
from mcomp.backends.cpu.expressions import store
from mcomp.backends.cpu.kernel import Kernel
from mcomp.ir.dims import Expr
from mcomp.ir.graph import Node

HEADERS = ("math.hpp", "types.hpp")


@lowers("full", target=TARGET)
def lower_full(node: Node, b: Builder) -> Declined | None:
    """Nothing is stored unless somebody needs it in memory: element-wise kernels take the number itself."""
    b.bind_number(node.result, node.attrs["value"])
    return None


def fill_kernel(target: Access, value: Any) -> Kernel:
    """Writes one number to all elements of a dense access."""
    kind = register_type(target.dtype)
    if isinstance(value, Expr):
        numbers: tuple[tuple[str, Size | Real], ...] = (("n", target.numel), ("value", value))
        text = f"convert<{kind}>(value)"
    else:
        numbers = (("n", target.numel),)
        text = literal(value, target.dtype)
    body = (
        f"const {kind} x = {text};\nconst Range r = w.range(n, 64);\n"
        f"for (int64_t i = r.begin; i < r.end; ++i) out[i] = {store('x', target.dtype)};"
    )
    return Kernel("fill", body, (pointer("out", target, write=True),), numbers, HEADERS)


@lowers("arange", target=TARGET)
def lower_arange(node: Node, b: Builder) -> Declined | None:
    """start + i * step for i below the length."""
    dtype = node.type.dtype
    if not (dtype.is_float or dtype.is_int):
        return Declined(f"{dtype} is not counted in")
    out = b.write(node.result)
    start, step = node.attrs["start"], node.attrs["step"]
    numbers: list[tuple[str, Size | Real]] = [("n", out.numel)]
    whole = all(isinstance(x, (int, Expr)) and not isinstance(x, bool) for x in (start, step))
    for name, value in (("start", start), ("step", step)):
        numbers.append((name, value if whole else Real(float(value))))
    kind = "int64_t" if whole else "double"
    element = store(f"{register_type(dtype)}({kind}(start) + {kind}(i) * {kind}(step))", dtype)
    body = f"const Range r = w.range(n, 64);\nfor (int64_t i = r.begin; i < r.end; ++i) out[i] = {element};"
    b.emit(Kernel("arange", body, (pointer("out", out, write=True),), tuple(numbers), HEADERS))
    return None


@lowers("eye", target=TARGET)
def lower_eye(node: Node, b: Builder) -> Declined | None:
    """Ones where row and column agree."""
    dtype = node.type.dtype
    if dtype.is_complex:
        return Declined("complex numbers have no kernel")
    out = b.write(node.result)
    rows, columns = out.shape
    body = (
        "const Range r = w.range(rows);\n"
        "for (int64_t i = r.begin; i < r.end; ++i)\n  for (int64_t j = 0; j < columns; ++j)\n"
        f"    out[i * columns + j] = {store(f'{register_type(dtype)}(i == j ? 1 : 0)', dtype)};"
    )
    b.emit(Kernel("eye", body, (pointer("out", out, write=True),), (("rows", rows), ("columns", columns)), HEADERS))
    return None
