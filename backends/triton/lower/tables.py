"""Embeddings whose table is stored in integers: rows are decoded as they are looked up, the table never."""

from __future__ import annotations

from mcomp.backends.triton import configs
from mcomp.backends.triton.access import View
from mcomp.backends.triton.builder import Builder
from mcomp.backends.triton.lower.elementwise import flat, flat_grid
from mcomp.backends.triton.program import Launch
from mcomp.backends.triton.text import KernelText
from mcomp.ir import dims
from mcomp.ir.encoding import Affine
from mcomp.ir.graph import Node, Value
from mcomp.ir.store import Weight


def holds_integers(table: Value, b: Builder) -> bool:
    """Whether a table is a constant in integers with scales for its rows, or for groups of their elements, at the finest."""
    weight = b.weight(table)
    encoding = None if weight is None else weight.type.encoding
    return isinstance(encoding, Affine) and not set(encoding.axis) - {0} and table.tensor.encoding == encoding


def fault_code(b: Builder) -> int:
    """What the next kernel that checks indices writes into the fault word for a bad one."""
    return 1 + sum(step.fault for step in b.steps if isinstance(step, Launch))


def coded_embedding(node: Node, b: Builder) -> None:
    """Add the kernel: for each element of the result it reads an integer and what stands for its scale."""
    table, shape = b.weight(node.operand(0)), node.type.shape
    assert table is not None and isinstance(table.type.encoding, Affine)
    count, width = table.type.static_shape
    given = b.read(node.operand(1))
    seen = View(given.buffer, given.dtype, shape, (*given.strides, 0), given.offset)
    out = b.write(node.result)
    text = KernelText()
    at = flat(text, shape)
    text.fault = True
    text.line(f"row = index.checked({text.load(seen, [at])}, {count}, inside, fault, {fault_code(b)}, False)")
    text.line(f"column = at % {width}")
    text.line(f"q = {_integers(text, table, width, b)}")
    zero, scale = _stands_for(text, table, width, b)
    text.line(f"v = (q.to(tl.float32) - {zero}) * {scale}")
    text.store(out, [at], "v")
    b.emit(b.launch("embedding", text, flat_grid, configs.pointwise, sizes={"count": dims.product(shape)}, kind="index",
                    dtypes=(node.type.dtype.name,)))


def _integers(text: KernelText, table: Weight, width: int, b: Builder) -> str:
    """The stored integer of each element; those of 4 bits lie as products want them, see `constants.py`."""
    encoding = table.type.encoding
    assert isinstance(encoding, Affine)
    if encoding.dtype.name in ("i4", "u4") and width % 2 == 0:
        half = width // 2
        pointer, signed = _pointer(text, table, "values", "nibbles", b), encoding.dtype.name == "i4"
        text.line(f"p = tl.load({pointer} + row * {half} + column % {half}, mask=inside, other=0)")
        return f"tl.where(column >= {half}, products.high_half(p, {signed}), products.low_half(p, {signed}))"
    return f"tl.load({_pointer(text, table, 'values', 'plain', b)} + row * {width} + column, mask=inside, other=0)"


def _stands_for(text: KernelText, table: Weight, width: int, b: Builder) -> tuple[str, str]:
    """Zero point and scale of each element."""
    encoding = table.type.encoding
    assert isinstance(encoding, Affine)
    if encoding.scale is not None:
        return str(float(encoding.zero)), repr(encoding.scale)
    groups = 1 if encoding.group is None else width // encoding.group
    place = f"row * {groups}" if encoding.axis else "row * 0"
    if encoding.group is not None:
        place += f" + column // {encoding.group}"
    text.line(f"place = {place}")
    scale = f"tl.load({_pointer(text, table, 'scales', 'plain', b)} + place, mask=inside, other=0.0)"
    if not encoding.zero_point:
        return str(float(encoding.zero)), scale
    zero = f"tl.load({_pointer(text, table, 'zeros', 'plain', b)} + place, mask=inside, other=0)"
    return f"{zero}.to(tl.float32)", scale


def _pointer(text: KernelText, table: Weight, part: str, form: str, b: Builder) -> str:
    buffer = b.constant(table, part, form)
    return text.pointer(View(buffer, buffer.dtype, (buffer.numel,), (1,)))
