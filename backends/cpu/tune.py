"""Choosing tiles by measuring: the cost table of matrix products, kept on disk beside the device's profile.

    table = Table.load(isa, compiler)                     # what was measured on this machine before
    tune(graph, table, sizes={"B": 8}, limit_s=3.0)       # measures what is missing, the largest products first
    settle(graph, table)                                  # writes the panels into the types of the weights

A product is known by its element type, columns and reduction length: how many rows it has does not change which width is
fastest (16 to 12,544 rows, within 1 %), so that shapes with symbolic rows need no bucket each. Convolutions count as the
product that they are: pixels times taps and channels.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import platform
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from mcomp.backends.cpu.cache import CodeCache
from mcomp.backends.cpu.compiler import KERNELS, build, find_compiler
from mcomp.backends.cpu.isa import Isa
from mcomp.backends.cpu.tiles import LANES, candidates, matrix_candidates, suits_matrix
from mcomp.files import write_whole
from mcomp.ir import dims, dtypes
from mcomp.ir.encoding import DENSE, Affine
from mcomp.ir.graph import Graph, Node, Value
from mcomp.ir.types import Layout
from mcomp.plan.profile import device_name

FORMAT = 1
"""Version of the measurement; tables of another version are not read."""
GAIN = 0.97
"""A measured width replaces the rule's where it takes at most this share of its time."""
LEAST_WORK = 1e7
"""Operations of a product that is worth measuring."""
_ROWS = (16, 512)
_EACH_US = 15_000.0
_HEADERS = ("isa.hpp", "types.hpp", "micro.hpp", "micro_i8.hpp", "micro_matrix.hpp", "pack.hpp", "product.hpp",
            "gemm_f32.hpp", "gemm_i8.hpp", "tiles.hpp", "tune.hpp")
_SOURCE = """#include "tune.hpp"
extern "C" __attribute__((visibility("default"))) void mcomp_time_tiles(
    int64_t kind, int64_t m, int64_t n, int64_t k, const int64_t* widths, int64_t count, double us, double* ns) {
  mcomp::time_tiles(static_cast<mcomp::TuneKind>(kind), m, n, k, widths, count, us, ns);
}
"""


@dataclass(frozen=True, order=True)
class Product:
    """What a choice depends on: int8 or float, output columns (of one group), reduction length, and whether matrix registers
    are used where there are some."""

    int8: bool
    columns: int
    length: int
    matrix: bool = False

    def __str__(self) -> str:
        return f"{'i8' if self.int8 else 'f32'} {self.columns}x{self.length}{' in matrices' if self.matrix else ''}"


Timer = Callable[[Product, int, tuple[int, ...]], list[float]]
"""Nanoseconds of a product with so many rows, for panels of so many columns each."""


@dataclass
class Table:
    """Nanoseconds by product and columns of a panel, for one device, instruction set and version of the kernels."""

    isa: Isa
    path: Path
    times: dict[str, dict[int, float]] = field(default_factory=dict)

    @classmethod
    def load(cls, isa: Isa, directory: Path | None = None) -> Table:
        """The table of this device; empty where nothing was measured. A damaged file is measured again, with a
        warning."""
        table = cls(isa, (directory or _directory()) / f"tiles-{isa.name}-{_key(isa)}.json")
        try:
            found = json.loads(table.path.read_text(encoding="utf-8"))
            table.times = {str(p): {int(c): float(ns) for c, ns in times.items()} for p, times in found.items()}
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError, AttributeError) as e:
            warnings.warn(f"the table of tiles {table.path} cannot be used ({e}); measuring again", stacklevel=2)
        return table

    @property
    def index(self) -> int:
        """The place of this instruction set's vectors in `tiles.LANES`."""
        return 0 if "avx512" in self.isa.name else 1 if self.isa.name == "avx2" else 2

    def choices(self, product: Product) -> tuple[int, ...]:
        """Columns of the panels to choose among, the rule's first."""
        if self.isa.matrices and product.matrix:
            return matrix_candidates(product.columns)
        return candidates(product.columns, self.index, int8=product.int8)

    def panel(self, product: Product) -> int | None:
        """The columns of a panel that measured clearly faster than the rule's; None where the rule stands."""
        times = self.times.get(str(product), {})
        first, *others = self.choices(product)
        known = [c for c in others if c in times]
        if first not in times or not known:
            return None
        best = min(known, key=lambda c: times[c])
        return best if times[best] <= GAIN * times[first] else None

    def missing(self, product: Product) -> bool:
        """Whether there is a choice, and it was not measured."""
        choices = self.choices(product)
        return len(choices) > 1 and not set(choices) <= self.times.get(str(product), {}).keys()

    def save(self) -> None:
        """Write whole or not at all, with what other processes measured meanwhile; a cache that cannot be written is a
        warning."""
        merged = {**Table.load(self.isa, self.path.parent).times, **self.times}
        try:
            write_whole(self.path, json.dumps(merged, indent=1, sort_keys=True))
        except OSError as e:
            warnings.warn(f"the table of tiles cannot be kept in {self.path} ({e})", stacklevel=2)


def tune(
    graph: Graph, table: Table, sizes: Mapping[str, int], *, limit_s: float = 3.0, timer: Timer | None = None,
    cache: CodeCache | None = None, progress: Callable[[str], None] = lambda text: None,
) -> int:
    """Measure the products of a graph that the table lacks, those with most work first, until the time is up; returns how
    many were. `sizes`: values of symbols. Without `timer`, with code that is compiled once per machine (some seconds)."""
    work: dict[Product, float] = {}
    rows: dict[Product, int] = {}
    for product, count in _products(graph, sizes):
        work[product] = work.get(product, 0.0) + 2.0 * count * product.columns * product.length
        rows[product] = max(rows.get(product, 1), count)
    wanted = sorted((p for p in work if table.missing(p) and work[p] >= LEAST_WORK), key=lambda p: -work[p])
    if not wanted:
        return 0
    measure = timer or compiled_timer(table.isa, cache)
    end, done = time.monotonic() + limit_s, 0
    for product in wanted:
        if done and time.monotonic() > end:
            break
        progress(f"measuring tiles: {done + 1} of {len(wanted)}")
        choices = table.choices(product)
        given = max(_ROWS[0], min(_ROWS[1], rows[product]))
        table.times[str(product)] = dict(zip(choices, measure(product, given, choices)))
        done += 1
    table.save()
    return done


def settle(graph: Graph, table: Table) -> int:
    """Write the panels that measured best into the types of constant weights, as `block` of the columns' axis, which is
    the fastest one; returns how many types changed."""
    outer = {inner: operand for node in graph.nodes if node.op.name == "fused" for body in node.bodies
             for inner, operand in zip(body.inputs, node.operands)}
    panels: dict[Value, int] = {}
    for node in _nodes(graph):
        product = _product(node)
        panel = None if product is None else table.panel(product)
        weight = None if panel is None else outer.get(node.operand(1), node.operand(1))
        if panel is not None and weight is not None and weight.is_const and weight.graph is graph:
            panels[weight] = panel
    with graph.edit("legalize") as editor:
        for value, panel in panels.items():
            order = (*range(1, value.tensor.rank), 0)
            editor.set_type(value, replace(value.tensor, layout=Layout(order, panel)))
    return len(panels)


def compiled_timer(isa: Isa, cache: CodeCache | None = None) -> Timer:
    """A timer that runs the kernels themselves on this thread."""
    code = ctypes.CDLL(str(build(_SOURCE, isa, cache)))
    function = code.mcomp_time_tiles
    function.argtypes = [ctypes.c_int64] * 4 + [ctypes.c_void_p, ctypes.c_int64, ctypes.c_double, ctypes.c_void_p]
    function.restype = None
    lanes = LANES[Table(isa, Path()).index]

    def run(product: Product, rows: int, panels: tuple[int, ...]) -> list[float]:
        widths = (ctypes.c_int64 * len(panels))(*(p // lanes for p in panels))
        ns = (ctypes.c_double * len(panels))()
        kind = 2 if isa.matrices and product.matrix else int(product.int8)
        function(kind, rows, product.columns, product.length, widths, len(panels), _EACH_US, ns)
        return list(ns)

    return run


def _products(graph: Graph, sizes: Mapping[str, int]) -> Iterator[tuple[Product, int]]:
    """Products with constant weights, and their rows."""
    from mcomp.ir.dims import evaluate

    for node in _nodes(graph):
        product = _product(node)
        if product is None:
            continue
        shape = node.type.shape
        lead = shape[:-1] if node.op.name == "linear" else (shape[0], *shape[2:])
        known = {**{s: max(1, b.low) for s, b in graph.symbols.items()}, **sizes}
        try:
            yield product, max(1, evaluate(dims.product(lead), known))
        except KeyError:  # a size that depends on data
            yield product, _ROWS[1]


def _nodes(graph: Graph) -> Iterator[Node]:
    for node in graph.nodes:
        yield node
        for body in node.bodies:
            yield from _nodes(body)


def _product(node: Node) -> Product | None:
    """The product of a node with a constant weight of bytes or f32; None for others."""
    if node.op.name not in ("linear", "conv"):
        return None
    x, weight = node.operand(0).tensor, node.operand(1).tensor
    groups = 1 if node.op.name == "linear" else node.attrs["groups"]
    shape = weight.shape
    if not all(isinstance(s, int) for s in shape) or x.dtype is not dtypes.f32 or not isinstance(groups, int):
        return None
    sizes = [int(s) for s in shape if isinstance(s, int)]
    columns, length = sizes[0] // groups, 1
    for s in sizes[1:]:
        length *= s
    if columns <= 1 or length == 0:
        return None
    coded = isinstance(weight.encoding, Affine) and isinstance(x.encoding, Affine)
    if not coded and (weight.encoding != DENSE or x.encoding != DENSE):
        return None
    return Product(coded, columns, length, coded and suits_matrix(shape, groups))


def _directory() -> Path:
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("mcomp")) / "profiles"


def _key(isa: Isa) -> str:
    """A hash of everything that times depend on: device, flags, compiler, kernels."""
    h = hashlib.sha256()
    for part in (str(FORMAT), device_name(), platform.machine(), " ".join(isa.flags), str(find_compiler())):
        h.update(part.encode() + b"\0")
    for name in _HEADERS:
        h.update((KERNELS / name).read_bytes() + b"\0")
    return h.hexdigest()[:16]
