"""Element-wise operators, alone and as fused regions: one loop nest over scalar expressions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mcomp.backend import Declined, lowers
from mcomp.backends.cpu.access import Access
from mcomp.backends.cpu.builder import TARGET, Builder, pointer
from mcomp.backends.cpu.cxx import Real, Size, c_type
from mcomp.backends.cpu.expressions import RULES, load, scalar_lines, store
from mcomp.backends.cpu.kernel import Kernel, Pointer
from mcomp.backends.cpu.loops import Space, collapse
from mcomp.ir.dims import Dim
from mcomp.ir.encoding import DENSE, Affine
from mcomp.ir.graph import Node, Value

HEADERS = ("math.hpp", "complex.hpp", "types.hpp", "fault.hpp", "lanes.hpp")


@lowers(*RULES, target=TARGET)
def lower_elementwise(node: Node, b: Builder) -> Declined | None:
    """One operator by itself."""
    return lower_region([node], list(node.results), list(node.results), b)


@lowers("prelu", target=TARGET)
def lower_prelu(node: Node, b: Builder) -> Declined | None:
    """x above zero, else weight * x; the weight lies along axis 1."""
    x, weight = b.read(node.operand(0)), b.read(node.operand(1))
    if weight.shape[0] != 1:
        weight = weight.insert(range(1, x.rank - 1))
    order = b.result_order(node.result, [x])
    out = b.write(node.result, order)
    b.emit(loop_kernel(
        "prelu", ["const auto t0 = v0 > 0 ? v0 : v0 * v1;"], [x, weight], [(out, "t0")], x.shape, order
    ))
    return None


def lower_region(nodes: Sequence[Node], values: Sequence[Value], results: Sequence[Value], b: Builder) -> Declined | None:
    """Element-wise nodes whose `values` become `results`, all of one shape. Nodes may quantize to bytes with a scale known
    when compiling."""
    shape = results[0].tensor.shape
    if any(r.tensor.shape != shape for r in results):
        return Declined("its results have different shapes")
    inside = {v for n in nodes for v in n.results}
    leaves: dict[Value, None] = {}
    for value in [*(v for n in nodes for v in n.operands if v is not None), *values]:
        if value not in inside and not isinstance(b.number(value), (bool, int, float, complex)):
            leaves[value] = None
    names = {value: f"v{i}" for i, value in enumerate(leaves)}
    found = scalar_lines([n for n in nodes if n.op.name != "quantize"], names, b.number)
    if isinstance(found, str):
        return Declined(found)
    lines, known = found
    sources = [b.read(value) for value in leaves]
    order = b.result_order(results[0], sources)
    outs: list[tuple[Access, str]] = []
    numbers: list[tuple[str, Size | Real]] = []
    for i, (value, result) in enumerate(zip(values, results)):
        encoding = result.tensor.encoding
        if encoding == DENSE:
            outs.append((b.write(result, order), known[value]))
            continue
        maker = value.producer
        assert isinstance(encoding, Affine) and encoding.scale is not None and maker is not None
        place = b.write_encoded(result, order).part("values")
        assert place is not None
        low, high = encoding.range
        numbers += [(f"inverse{i}", Real(1.0 / encoding.scale)), (f"zero{i}", encoding.zero)]
        outs.append((place, f"quantize_byte<{c_type(place.dtype)}>({known[maker.operand(0)]}, float(inverse{i}), "
                            f"int32_t(zero{i}), {low}, {high})"))
    name = nodes[0].op.name if len(nodes) == 1 else "pointwise"
    kernel = loop_kernel(name, lines, sources, outs, shape, order)
    headers = (*kernel.headers, "quantize_byte.hpp") if numbers else kernel.headers
    b.emit(Kernel(kernel.name, kernel.body, kernel.pointers, (*kernel.numbers, *numbers), headers))
    return None


def loop_kernel(
    name: str, lines: Sequence[str], sources: Sequence[Access], outs: Sequence[tuple[Access, str]],
    shape: Sequence[Dim], order: Sequence[int] | None = None,
) -> Kernel:
    """Loops over `shape` that load every source as `v0`, `v1` ..., run `lines` and store the outputs' expressions.

    The innermost loop runs over elements that lie side by side wherever the accesses let it. Workers share the flat index
    space, in pieces of the innermost loop.
    """
    accesses = [*(a for a, _ in outs), *sources]
    space = collapse(shape, accesses, order)
    out_count = len(outs)
    pointers: list[Pointer] = [pointer(f"o{i}", a, write=True) for i, (a, _) in enumerate(outs)]
    pointers += [pointer(f"p{i}", a) for i, a in enumerate(sources)]
    numbers: list[tuple[str, Size | Real]] = []

    def stride(access: int, loop: int) -> str:
        step = space.strides[access][loop]
        if isinstance(step, int) and step in (0, 1):
            return str(step)
        label = f"s{access}_{loop}"
        numbers.append((label, step))
        return label

    inner = space.rank - 1
    hoisted: list[str] = []
    body: list[str] = []
    steps = [stride(a, inner) if space.rank else "0" for a in range(len(accesses))]
    for i, access in enumerate(sources):
        step = steps[out_count + i]
        value = load(f"p{i}[{_index(f'a{out_count + i}', step)}]", access.dtype)
        (hoisted if step == "0" else body).append(f"const auto v{i} = {value};")
    body += lines
    body += [f"o{i}[{_index(f'a{i}', steps[i])}] = {store(e, a.dtype)};" for i, (a, e) in enumerate(outs)]
    text = _nest(space, hoisted, body, len(accesses), stride, numbers)
    return Kernel(name, text, tuple(pointers), tuple(numbers), HEADERS)


def _index(base: str, step: str) -> str:
    if step == "0":
        return base
    return f"{base} + i" if step == "1" else f"{base} + i * {step}"


def _nest(
    space: Space, hoisted: Sequence[str], body: Sequence[str], count: int, stride: Callable[[int, int], str],
    numbers: list[tuple[str, Size | Real]],
) -> str:
    """The loop nest around a body; `a0`, `a1` ... are element offsets of the accesses at the innermost loop's start."""
    rank = space.rank
    offsets = ", ".join(f"a{a} = 0" for a in range(count))
    inside = "\n".join(f"    {line}" for line in body)
    before = "\n".join(f"  {line}" for line in hoisted)
    if rank == 0:
        return f"if (w.id != 0) return;\nconst int64_t {offsets};\n{before}\n{{\n{inside}\n}}"
    for loop, size in enumerate(space.sizes):
        numbers.append((f"n{loop}", size))
    if rank == 1:
        return (
            f"const int64_t {offsets};\nconst Range r = w.range(n0, 64);\nif (r.empty()) return;\n{before}\n"
            f"MCOMP_INDEPENDENT\nfor (int64_t i = r.begin; i < r.end; ++i) {{\n{inside}\n}}"
        )
    inner = rank - 1
    total = " * ".join(f"n{loop}" for loop in range(rank))
    walk = []
    for loop in range(inner - 1, -1, -1):
        position = f"rest % n{loop}" if loop else "rest"
        terms = [
            f"a{a} += at * {step};" if step != "1" else f"a{a} += at;"
            for a in range(count) if (step := stride(a, loop)) != "0"
        ]
        walk.append(f"  {{ const int64_t at = {position}; {' '.join(terms)} }}")
        if loop:
            walk.append(f"  rest /= n{loop};")
    steps = "\n".join(walk)
    return (
        f"const Range r = w.range({total}, 16);\n"
        f"for (int64_t flat = r.begin; flat < r.end;) {{\n"
        f"  int64_t rest = flat / n{inner};\n  const int64_t first = flat - rest * n{inner};\n"
        f"  const int64_t last = n{inner} - first < r.end - flat ? n{inner} : first + (r.end - flat);\n"
        f"  int64_t {offsets};\n{steps}\n{before}\n"
        f"  MCOMP_INDEPENDENT\n  for (int64_t i = first; i < last; ++i) {{\n{inside}\n  }}\n"
        f"  flat += last - first;\n}}"
    )
