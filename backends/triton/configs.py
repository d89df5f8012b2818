"""Configurations of kernels by kind: what to try for given sizes on a chip, the most promising first."""

from __future__ import annotations

from mcomp.backends.triton.program import Chip, Config, Configs, Numbers, config


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
    narrow = [config(4, ROWS=32, COLS=32), config(4, ROWS=16, COLS=64), config(4, ROWS=4, COLS=256),
              config(4, ROWS=64, COLS=16)]
    return [*narrow, *wide] if sizes["cols"] < 512 else [*wide, *narrow]


BITS = {"f32": 32, "f16": 16, "bf16": 16, "i8": 8, "u8": 8, "f8e4m3": 8, "i4": 4}
_TILES = (
    (128, 256, 64, 8, 3), (256, 128, 64, 8, 3), (128, 128, 64, 8, 3), (128, 128, 32, 4, 4), (128, 64, 64, 4, 4),
    (64, 128, 64, 4, 4), (64, 64, 64, 4, 4), (64, 64, 32, 4, 5), (32, 128, 64, 4, 4), (32, 64, 64, 4, 5),
    (16, 128, 64, 4, 5), (16, 64, 128, 4, 4), (16, 32, 128, 2, 5), (32, 32, 64, 2, 5),
)
_PLAIN_TILES = ((128, 64, 16, 8, 3), (64, 64, 16, 4, 3), (64, 32, 32, 4, 3), (32, 64, 32, 4, 3), (32, 32, 32, 4, 3),
                (16, 64, 32, 4, 3),
                (16, 32, 32, 2, 3))
"""For f32, whose products are sums in registers, not tensor cores."""


def products(bits: int, *, most_rows: int = 256, most_cols: int = 256, least_inner: int = 16, spread: int = 1) -> Configs:
    """Configurations of tiles of a product whose elements have so many bits. Sizes: `rows`, `cols`, `inner`, and `batch`,
    how many products. `spread`: how many tiles of the second operand are held at once."""
    def found(sizes: Numbers, chip: Chip) -> list[Config]:
        m, n, k = sizes["rows"], sizes["cols"], sizes["inner"]
        batch = sizes.get("batch", 1)
        if chip.interpreted:
            return [config(BLOCK_M=power(m, 16, min(128, most_rows)), BLOCK_N=power(n, 16, min(128, most_cols)),
                           BLOCK_K=power(k, max(16, least_inner), 256), GROUP_M=2)]
        listed = []
        for bm, bn, bk, warps, stages in _PLAIN_TILES if bits == 32 else _TILES:
            bk = max(least_inner, min(bk * (2 if bits == 8 else 1), power(k, 32 if bits == 8 else 16, 256)))
            bm, bn = min(bm, most_rows, power(m, 16, 256)), min(bn, most_cols, power(n, 16, 256))
            size = bk * (bm + bn * spread) * max(1, bits // 8)
            while stages > 1 and stages * size > chip.shared * 9 // 10:
                stages -= 1
            if stages * size <= chip.shared:
                listed.append(config(min(warps, max(2, bm * bn // 512)), stages, BLOCK_M=bm, BLOCK_N=bn, BLOCK_K=bk,
                                     GROUP_M=8))
        unique = list(dict.fromkeys(listed))
        return sorted(unique, key=lambda c: _product_cost(c, m, n, k, batch, chip))

    return found


_PACKED_TILES = ((64, 64, 32, 4, 3), (64, 128, 32, 8, 3), (128, 64, 32, 8, 3), (32, 64, 32, 4, 3), (32, 128, 32, 8, 3),
                 (16, 64, 64, 4, 3), (16, 128, 32, 4, 3), (16, 32, 64, 4, 3))


_PACKED_PLAIN = ((32, 32, 32, 4, 2), (16, 32, 32, 4, 2), (32, 32, 16, 4, 2), (16, 64, 16, 4, 2))
"""For f32."""


def grouped(group: int, bits: int) -> Configs:
    """Configurations of tiles whose weights are integers with scales for groups of so many: no piece of a tile goes beyond
    one group, and integers and real numbers are held side by side."""
    def found(sizes: Numbers, chip: Chip) -> list[Config]:
        m, n, k = sizes["rows"], sizes["cols"], sizes["inner"]
        if chip.interpreted:
            return products(32)(sizes, chip)
        most = max(16, group & -group)
        listed = [
            config(warps, stages, BLOCK_M=min(bm, power(m, 16, 256)), BLOCK_N=min(bn, power(n, 16, 256)),
                   BLOCK_K=min(bk, most),
                   GROUP_M=8)
            for bm, bn, bk, warps, stages in (_PACKED_PLAIN if bits == 32 else _PACKED_TILES)
        ]
        return sorted(dict.fromkeys(listed), key=lambda c: _product_cost(c, m, n, k, 1, chip))

    return found


def _product_cost(c: Config, m: int, n: int, k: int, batch: int, chip: Chip) -> float:
    """Relative time: waves of tiles over the chip, each as long as its work at the rate that its shape reaches."""
    bm, bn = c["BLOCK_M"], c["BLOCK_N"]
    tiles = -(-m // bm) * -(-n // bn) * batch
    # Bytes to fetch for each product fall with the tile's edges; small tiles cannot feed the tensor cores.
    rate = 1.0 / (1.0 / 256 + 0.25 / bm + 0.25 / bn)
    resident = max(1, min(4, 16 // c.warps, chip.shared // max(1, c.stages * c["BLOCK_K"] * (bm + bn) * 2)))
    waves = max(1.0, tiles / (chip.cores * resident))
    return waves * resident * bm * bn * k / rate + 2e4 * (tiles < chip.cores)


def vectors(sizes: Numbers, chip: Chip) -> list[Config]:
    """`cols` results for each of `rows` rows, sums over `inner`."""
    n, k = sizes["cols"], sizes["inner"]
    if chip.interpreted:
        return [config(BLOCK_N=power(n, 16, 128), BLOCK_K=power(k, 16, 128))]
    shapes = ((16, 256, 4), (8, 512, 4), (32, 128, 4), (4, 1024, 4), (16, 512, 8), (32, 256, 8), (64, 128, 8))
    found = [config(w, 2, BLOCK_N=bn, BLOCK_K=min(bk, power(k, 32, 1024))) for bn, bk, w in shapes]
    enough = [c for c in found if -(-n // c["BLOCK_N"]) * sizes["rows"] >= 2 * chip.cores]
    first = enough[0] if enough else found[1]
    return list(dict.fromkeys([first, *found]))


def attention(depth: int, value_depth: int, bits: int) -> Configs:
    """Queries `rows` against keys `inner` for `batch` heads; depths are padded to powers of two."""
    wide, tall = power(depth, 16, 1024), power(value_depth, 16, 1024)

    def found(sizes: Numbers, chip: Chip) -> list[Config]:
        if chip.interpreted:
            return [config(BLOCK_M=power(sizes["rows"], 16, 64), BLOCK_N=power(sizes["inner"], 16, 64), BLOCK_D=wide,
                           BLOCK_V=tall)]
        shapes = [(128, 64, 8, 2), (128, 128, 8, 2), (64, 64, 4, 3), (64, 32, 4, 3), (32, 64, 4, 2), (16, 64, 4, 3),
                  (32, 32, 4, 2)]
        if bits == 32 or max(wide, tall) > 128:
            shapes = [(32, 32, 4, 2), (16, 32, 4, 2), (64, 32, 8, 1), (16, 64, 4, 1)]
        listed = []
        for bm, bn, warps, stages in shapes:
            size = (bm * wide + stages * bn * (wide + tall)) * bits // 8
            if size <= chip.shared:
                listed.append(config(warps, stages, BLOCK_M=bm, BLOCK_N=bn, BLOCK_D=wide, BLOCK_V=tall))
        fits = [c for c in listed if c["BLOCK_M"] <= power(sizes["rows"], 16, 128)]
        return fits or listed[-1:]

    return found


def channels(sizes: Numbers, chip: Chip) -> list[Config]:
    """Places times channels, each with a filter of its own."""
    if chip.interpreted:
        return [config(BLOCK_M=power(sizes["rows"], 16, 256), BLOCK_N=power(sizes["cols"], 1, 64))]
    bn = power(sizes["cols"], 16, 64)
    return [config(4, 1, BLOCK_M=bm, BLOCK_N=bn) for bm in (32, 16, 64)] + [config(4, 1, BLOCK_M=64, BLOCK_N=16)]
