"""Linear layers whose weight is block-sparse: a program computes one row of blocks for some rows."""

from __future__ import annotations

from mcomp.backends.triton import configs
from mcomp.backends.triton.access import Coded, View, dense
from mcomp.backends.triton.builder import Builder
from mcomp.backends.triton.configs import power
from mcomp.backends.triton.lower.coded import byte_rows, to_floats
from mcomp.backends.triton.lower.tiles import Linear, safe
from mcomp.backends.triton.program import Chip, Config, Numbers, config
from mcomp.backends.triton.text import Group, KernelText, group
from mcomp.ir.encoding import DENSE, Affine, BlockSparse

TALLEST = 128
"""Blocks of up to so many rows fit a tile."""


def sparse_linear(whole: Linear, b: Builder) -> bool:
    """Add the kernel, if there is one for these blocks; else leave a remark."""
    weight = whole.node.operand(1)
    found, encoding = b.weight(weight), weight.tensor.encoding
    if found is None or not isinstance(encoding, BlockSparse):
        return False
    height, width = encoding.block
    inner = encoding.inner
    plain = inner == DENSE or (isinstance(inner, Affine) and inner.dtype.bits <= 8 and not inner.zero_point
                               and not inner.zero and inner.group is None and inner.scale is None)
    place, x_encoding = b.place(whole.node.operand(0)), whole.node.operand(0).tensor.encoding
    coded = place if isinstance(place, Coded) and byte_rows(place) is None and isinstance(inner, Affine) else None
    if coded is None and x_encoding != DENSE:
        return False
    if not plain or height > TALLEST:
        b.context.missed("lower", whole.node, f"blocks of {height}x{width} of {inner} have no kernel: the weight is decoded",
                         f"use blocks of at most {TALLEST} rows")
        return False
    shape, x = whole.shape, b.read(whole.node.operand(0)) if coded is None else coded.values
    text = KernelText()
    text.meta("BLOCK_M", "BLOCK_N", "BLOCK_K")
    m = text.number(whole.sizes["rows"])
    text.head += [
        "rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)", f"rows_in = rows < {m}",
        f"rows_safe = tl.minimum(rows, {m} - 1)", "z = tl.program_id(1)",
        f"cols = z * {height} + tl.arange(0, BLOCK_N)", f"cols_in = tl.arange(0, BLOCK_N) < {height}",
    ]
    rows = group("rows", range(len(shape) - 1), shape, inside="rows_in", place="[:, None]")
    cols = Group("cols", (len(shape) - 1,), (shape[-1],), "cols_in", "[None, :]")
    values, columns, starts = (b.constant(found, part) for part in ("values", "columns", "rows"))
    pointers = [text.pointer(View(p, p.dtype, (p.numel,), (1,))) for p in (values, columns, starts)]
    text.line(f"first = tl.load({pointers[2]} + z)")
    text.line(f"last = tl.load({pointers[2]} + z + 1)")
    text.line(
        f"acc = products.blocks({text.base(x)}, {text.row_terms(x, safe(rows))}, {text.number(x.strides[-1])}, "
        f"{pointers[0]}, "
        f"{pointers[1]}, first, last, tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.{'float32' if coded is None else 'int32'}), "
        f"{height}, {width}, BLOCK_N, BLOCK_K)"
    )
    if coded is not None:
        sums = dense(b.constant(found, "values", "block_sums"), (found.type.shape[0],))
        to_floats(text, coded, shape, whole.along_cols(sums), (rows, cols))
    factors = []
    if isinstance(inner, Affine):
        scales = b.constant(found, "scales")
        kept = inner.scale_shape(found.type.shape)
        factors.append(whole.along_cols(View(scales, scales.dtype, (found.type.shape[0],), (0 if kept[0] == 1 else 1,))))
    whole.finish(text, (rows, cols), b, *factors)
    count = found.type.static_shape[0] // height
    kind = "blocksparse" if inner == DENSE else "blocksparse_i8" if coded is None else "blocksparse_bytes"
    b.emit(b.launch(kind, text, _grid, _configs(height), sizes={**whole.sizes, "blocks": count}, kind=kind,
                    dtypes=(x.dtype.name,)))
    return True


def _grid(sizes: Numbers, chosen: Config) -> tuple[int, ...]:
    return (-(-sizes["rows"] // chosen["BLOCK_M"]), sizes["blocks"])


def _configs(height: int) -> configs.Configs:
    tall = power(height, 16, TALLEST)

    def found(sizes: Numbers, chip: Chip) -> list[Config]:
        if chip.interpreted:
            return [config(BLOCK_M=power(sizes["rows"], 16, 64), BLOCK_N=tall, BLOCK_K=32)]
        listed = [(64, 32, 4, 2), (32, 64, 4, 2), (128, 32, 4, 2), (16, 64, 2, 2)]
        return list(dict.fromkeys(
            config(w, s, BLOCK_M=min(bm, power(sizes["rows"], 16, 128)), BLOCK_N=tall, BLOCK_K=bk) for bm, bk, w, s in listed
        ))

    return found
