"""A lowered program as a C library: header, source, kernel headers and weights; beside them an example and a Makefile."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mcomp.backend import Interface
from mcomp.backends.cpu.access import Buffer, ConstSource
from mcomp.backends.cpu.compiler import KERNELS
from mcomp.backends.cpu.constants import constant_array
from mcomp.backends.cpu.cxx import comment, dim_text
from mcomp.backends.cpu.emit import SegmentCode
from mcomp.backends.cpu.executor import Code
from mcomp.backends.cpu.export_example import example, makefile, readme
from mcomp.backends.cpu.export_library import Library, c_type, tensor_lines
from mcomp.backends.cpu.kernel import Program, Segment, TorchStep
from mcomp.errors import BackendError
from mcomp.files import MARK, check_own
from mcomp.ir import dims
from mcomp.ir.dims import Bounds

STANDALONE = Path(__file__).resolve().parent / "standalone.hpp"
_INCLUDE = re.compile(r'#include "([A-Za-z0-9_]+\.hpp)"')
_ALIGNMENT = 64


def export_c(program: Program, codes: Sequence[SegmentCode], code: Code, folder: Path, interface: Interface) -> list[Path]:
    """Write the files. Raises BackendError when the program is not native code alone, and ArtifactError when a file that
    mcomp did not write is in the place of one of them; then none is written."""
    library = Library(program, _only_segment(program), codes, code, interface)
    copied = [STANDALONE, *(KERNELS / name for name in _headers(code.source))]
    names = [f"{library.name}.h", f"{library.name}.cpp", "example.c", "Makefile", "README.txt",
             *(f"kernels/{header.name}" for header in copied)]
    weights = folder / f"{library.name}.weights"
    for name in names:
        check_own(folder / name)
    check_own(weights, _holds_weights)
    offsets, key, size = _write_weights(library, weights)
    texts = [_header(library), _source(library, offsets, key, size), example(library), makefile(library), readme(library),
             *(f"// {MARK}: a copy.\n{header.read_text()}" for header in copied)]
    (folder / "kernels").mkdir(exist_ok=True)
    for name, text in zip(names, texts, strict=True):
        (folder / name).write_text(text)
    return [*(folder / name for name in names), weights]


def _only_segment(program: Program) -> Segment:
    for part in program.parts:
        if isinstance(part, TorchStep):
            raise BackendError(
                f"{part.node.op.name} runs in torch, so that the model cannot be exported to C", code="MC0606",
                where=str(part.node.loc) or part.node.layer, ir=repr(part.node),
                help="the report's remarks say why there is no kernel for it",
            )
    if len(program.parts) != 1 or not isinstance(program.parts[0], Segment):
        raise BackendError("the model computes nothing that could be exported to C", code="MC0606",
                           help="its outputs are its inputs, or constants")
    known = {s for v in program.graph.inputs for d in v.tensor.shape for s in dims.symbols(d)}
    for symbol in program.symbols:
        if symbol not in known:
            raise BackendError(f"the size {symbol} depends on values, so that the model cannot be exported to C",
                               code="MC0606", help="export the part of the model before or after it")
    return program.parts[0]


# weights


def _write_weights(library: Library, path: Path) -> tuple[dict[ConstSource, int], str, int]:
    """Write the constants that kernels read; returns their offsets, the key that the file begins with, and its size."""
    segments = (library.program.packing, library.main)
    sources = list(dict.fromkeys(b.source for s in segments for b in s.buffers if b.source is not None))
    arrays = [np.ascontiguousarray(constant_array(library.program.graph.store, s)) for s in sources]
    digest = hashlib.sha256(library.code.source.encode())
    offsets: dict[ConstSource, int] = {}
    at = _ALIGNMENT
    for source, array in zip(sources, arrays):
        digest.update(repr(source).encode())
        offsets[source] = at
        at += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
    key = digest.hexdigest()[:32]
    with open(path, "wb") as file:
        file.write(key.encode().ljust(_ALIGNMENT, b"\0"))
        for array in arrays:
            file.write(array.tobytes())
            file.write(bytes(-array.nbytes % _ALIGNMENT))
    return offsets, key, at


def _holds_weights(path: Path) -> bool:
    """Whether a file begins with such a key."""
    with open(path, "rb") as file:
        return re.fullmatch(rb"[0-9a-f]{32}\0+", file.read(_ALIGNMENT)) is not None


# the header


def _sizes(library: Library, *, types: bool) -> list[str]:
    return [f"int64_t {name}" if types else name for name, _ in library.symbols.values()]


def _signature_run(library: Library) -> str:
    name = library.name
    arguments = [f"{name}_call* call"]
    arguments += [f"const {c_type(v.tensor.dtype)}* {n}" for n, v in library.inputs]
    arguments += [f"{c_type(v.tensor.dtype)}* {n}" for n, v in library.outputs]
    return f"int32_t {name}_run({', '.join(arguments)})"


def _signature_prepare(library: Library) -> str:
    arguments = [f"const {library.name}* weights", *_sizes(library, types=True), "int32_t threads"]
    return f"{library.name}_call* {library.name}_prepare({', '.join(arguments)})"


def _header(library: Library) -> str:
    n, guard = library.name, f"{library.name.upper()}_H"
    tensors = "\n".join(f" * {line}" for line in tensor_lines(library))
    bounds = "".join(
        f" *   {c}: {b.low} or more\n" if b.high is None else f" *   {c}: {b.low} to {b.high}\n"
        for c, b in library.symbols.values()
    )
    counts = "\n".join(f"int64_t {n}_count_{t}(const {n}_call* call);" for t, _ in (*library.inputs, *library.outputs))
    return f"""/* {MARK}. Tensors are dense, in row-major order.
{tensors}
{' * Sizes:' + chr(10) + bounds if bounds else ''} */
#ifndef {guard}
#define {guard}

#include <stdint.h>

#ifdef __cplusplus
extern "C" {{
#endif

typedef struct {n} {n};           /* weights; shared by any number of threads */
typedef struct {n}_call {n}_call; /* memory for calls of one size; used by one thread at a time */

/* Reads {n}.weights, which must stay as it is while in use. NULL on failure; see {n}_error. */
{n}* {n}_open(const char* path, int32_t threads);
void {n}_close({n}* weights);

/* Plans memory for these sizes. NULL on failure; see {n}_error. Release calls before closing the weights. */
{_signature_prepare(library)};
void {n}_release({n}_call* call);

/* Runs; allocates nothing. 0 on success, else the number of the step that met bad data, such as an index out of range. */
{_signature_run(library)};
const char* {n}_step(int32_t number);

/* Elements of each tensor, and bytes of intermediate results. */
{counts}
int64_t {n}_arena_bytes(const {n}_call* call);

/* Why the last call of this thread that returned NULL did. */
const char* {n}_error(void);

#ifdef __cplusplus
}}
#endif

#endif
"""


# the source


def _places(segment: Segment, code: SegmentCode, offsets: dict[ConstSource, int], packed: Sequence[Buffer]) -> str:
    rows = []
    for buffer in segment.buffers:
        if buffer.source is not None:
            rows.append(f"{{Place::kWeights, {offsets[buffer.source]}}}")
        elif buffer in code.arena:
            rows.append(f"{{Place::kArena, {code.arena.index(buffer)}}}")
        elif buffer.kind == "packed":
            rows.append(f"{{Place::kPacked, {packed.index(buffer)}}}")
        else:
            rows.append(f"{{Place::{'kInput' if buffer.kind == 'input' else 'kOutput'}, {buffer.index}}}")
    return ", ".join(rows) or "{Place::kArena, 0}"


def _source(library: Library, offsets: dict[ConstSource, int], key: str, size: int) -> str:
    n = library.name
    packing, main = library.codes
    names = [f"{c.prefix}{f}" for c in (packing, main) for f in ("plan", "run", "profile")]
    renamed = "\n".join(f"#define {f} {n}_{f}" for f in (*names, "mcomp_abi"))
    regions = "\n".join(
        f"const Place {label}_places[] = {{{_places(segment, code, offsets, packing.arena)}}};\n"
        f"const Region {label}{{{code.prefix}plan, {code.prefix}run, {label}_places, {len(segment.buffers)}, "
        f"{code.number_count}, {len(code.arena)}}};"
        for label, segment, code in (("packing", library.program.packing, packing), ("region", library.main, main))
    )
    index = {s: i for i, s in enumerate(library.program.symbols)}
    checks = "\n".join(_size_check(c, b) for c, b in library.symbols.values())
    stores = "\n".join(f"  call->sym[{i}] = {c};" for i, (c, _) in enumerate(library.symbols.values()))
    counts = "\n".join(
        f"int64_t {n}_count_{t}(const {n}_call* call) {{\n  const int64_t* sym = call->sym;\n  (void)sym;\n"
        f"  return {dim_text(dims.mul(v.tensor.numel, 2 if v.tensor.dtype.is_complex else 1), index)};\n}}"
        for t, v in (*library.inputs, *library.outputs)
    )
    steps = ", ".join(f'"{_step_name(step)}"' for step in library.main.steps) or '""'
    given = ", ".join(t for t, _ in library.inputs) or "nullptr"
    made = ", ".join(t for t, _ in library.outputs) or "nullptr"
    return f"""// {MARK}: the model's kernels and regions, then the interface of {n}.h.
{renamed}
{library.code.source}

#include "standalone.hpp"

#pragma GCC visibility push(default)
#include "{n}.h"
#pragma GCC visibility pop

namespace {{
using mcomp::Place;
using mcomp::Region;
{regions}
const char* const steps[] = {{{steps}}};
}}  // namespace

struct {n} {{
  mcomp::Weights weights;
}};

struct {n}_call {{
  const {n}* owner;
  mcomp::Frame frame;
  int64_t sym[{max(1, len(index))}];
}};

#pragma GCC visibility push(default)
extern "C" {{

{n}* {n}_open(const char* path, int32_t threads) {{
  {n}* opened = new (std::nothrow) {n};
  if (opened != nullptr && opened->weights.open(path, "{key}", {size}, packing, threads)) return opened;
  delete opened;
  return nullptr;
}}

void {n}_close({n}* weights) {{ delete weights; }}

{_signature_prepare(library)} {{
{checks}
  {n}_call* call = new (std::nothrow) {n}_call;
  if (call == nullptr) return nullptr;
  call->owner = weights;
{stores}
  if (call->frame.prepare(region, call->sym, threads, weights->weights.file.data(), &weights->weights.packed)) return call;
  mcomp::fail("%s", "not enough memory");
  delete call;
  return nullptr;
}}

void {n}_release({n}_call* call) {{ delete call; }}

{_signature_run(library)} {{
  const void* const inputs[] = {{{given}}};
  void* const outputs[] = {{{made}}};
  return call->frame.run(inputs, outputs);
}}

const char* {n}_step(int32_t number) {{
  return number >= 1 && number <= {len(library.main.steps)} ? steps[number - 1] : "";
}}

{counts}

int64_t {n}_arena_bytes(const {n}_call* call) {{ return call->frame.bytes(); }}

const char* {n}_error(void) {{ return mcomp::message(); }}

}}  // extern "C"
#pragma GCC visibility pop
"""


def _size_check(name: str, bounds: Bounds) -> str:
    above = "" if bounds.high is None else f" || {name} > {bounds.high}"
    return (
        f'  if ({name} < {bounds.low}{above}) {{\n    mcomp::fail("%s is out of bounds", "{name}");\n'
        "    return nullptr;\n  }"
    )


def _step_name(step: object) -> str:
    node = getattr(step, "node", None)
    return comment(f"{node.op.name} {node.layer}").strip() if node is not None else "copy"


def _headers(source: str) -> list[str]:
    """The kernel headers that a source includes, directly or not."""
    found: dict[str, None] = {}
    waiting = _INCLUDE.findall(source)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = None
            waiting += _INCLUDE.findall((KERNELS / name).read_text())
    return sorted(found)
