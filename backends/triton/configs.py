"""Configurations of kernels by kind: what to try for given sizes on a chip, the most promising first."""

from __future__ import annotations

from mcomp.backends.triton.program import Chip, Config, Numbers, config


def power(count: int, low: int, high: int) -> int:
    """The smallest power of two that is at least a count, within limits that are powers of two."""
    found = low
    while found < count and found < high:
        found *= 2
    return found


def pointwise(sizes: Numbers, chip: Chip) -> list[Config]:
    """`count` elements in a row."""
    if chip.interpreted:
        return [config(BLOCK=power(sizes["count"], 16, 1 << 16))]
    wanted = [config(4, BLOCK=1024), config(4, BLOCK=512), config(8, BLOCK=2048), config(4, BLOCK=256)]
    if sizes["count"] < 1024 * 2 * chip.cores:
        wanted.insert(0, config(4, BLOCK=power(sizes["count"] // (2 * chip.cores), 128, 512)))
    return list(dict.fromkeys(wanted))


def rows(sizes: Numbers, chip: Chip) -> list[Config]:
    """`rows` rows of `cols` elements, each held whole."""
    width = power(sizes["cols"], 16, 1 << 16)
    if chip.interpreted:
        return [config(ROWS=power(sizes["rows"], 1, max(1, (1 << 14) // width)), COLS=width)]
    found = []
    for count in (1, 2, 4, 8, 16):
        if count * width <= 16384 and (count == 1 or count * width <= 4096):
            warps = min(16, max(1, count * width // 512))
            found.append(config(1 << (warps.bit_length() - 1), ROWS=count, COLS=width))
    if not found:
        found = [config(16, ROWS=1, COLS=width)]
    enough = [c for c in found if sizes["rows"] // c["ROWS"] >= chip.cores]
    best = max(enough, key=lambda c: min(c["ROWS"] * width, 2048)) if enough else found[0]
    return [best, *(c for c in found if c is not best)]


def chunks(sizes: Numbers, chip: Chip) -> list[Config]:
    """`rows` rows of `cols` elements, in pieces."""
    if chip.interpreted:
        width = power(sizes["cols"], 16, 2048)
        return [config(ROWS=power(sizes["rows"], 1, max(1, 8192 // width)), COLS=width)]
    wide = [config(8, ROWS=1, COLS=4096), config(8, ROWS=1, COLS=2048), config(4, ROWS=1, COLS=1024)]
    narrow = [config(4, ROWS=32, COLS=32), config(4, ROWS=16, COLS=64), config(4, ROWS=4, COLS=256), config(4, ROWS=64, COLS=16)]
    return [*narrow, *wide] if sizes["cols"] < 512 else [*wide, *narrow]
