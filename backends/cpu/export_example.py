"""What goes with an exported C library: an example, a Makefile and a README."""

from __future__ import annotations

from mcomp.backends.cpu.compiler import exported_flags, gcc_flags
from mcomp.backends.cpu.export_library import Library, c_type, tensor_lines
from mcomp.backends.cpu.isa import ISAS
from mcomp.files import MARK
from mcomp.ir.dtypes import DType


def example(library: Library) -> str:
    """A program in C that runs the library once."""
    n = library.name
    sizes = [str(min(max(b.low, 2), b.high if b.high is not None else 2)) for _, b in library.symbols.values()]
    lines = []
    for t, v in (*library.inputs, *library.outputs):
        kind = c_type(v.tensor.dtype)
        lines.append(f"  {kind}* {t} = ({kind}*)calloc((size_t){n}_count_{t}(call) + 1, sizeof({kind}));")
    lines += [f"  for (int64_t i = 0; i < {n}_count_{t}(call); ++i) {t}[i] = {_filling(v.tensor.dtype)};"
              for t, v in library.inputs]
    arguments = ", ".join(["call", *library.interface.inputs, *library.interface.outputs])
    shows = []
    for t, v in library.outputs:
        form, cast = ("%.9g", "double") if c_type(v.tensor.dtype) in ("float", "double") else ("%lld", "long long")
        shows.append(f'  for (int64_t i = 0; i < {n}_count_{t}(call) && i < 8; ++i) printf("{t}[%d] = {form}\\n", (int)i, '
                     f"({cast}){t}[i]);")
    tensors = [t for t, _ in (*library.inputs, *library.outputs)]
    frees = "".join(f"  free({t});\n" for t in tensors)
    prepare = ", ".join(["weights", *sizes, "1"])
    body = "\n".join([*lines, f"  int failed = {n}_run({arguments});",
                      f'  if (failed) fprintf(stderr, "bad data at %s\\n", {n}_step(failed));', *shows])
    return f"""/* {MARK}: opens, prepares, runs. */
#include <stdio.h>
#include <stdlib.h>

#include "{n}.h"

int main(void) {{
  {n}* weights = {n}_open("{n}.weights", 1);
  {n}_call* call = weights ? {n}_prepare({prepare}) : NULL;
  if (!call) return fprintf(stderr, "%s\\n", {n}_error()), 1;
{body}
{frees}  {n}_release(call);
  {n}_close(weights);
  return failed;
}}
"""


def _filling(dtype: DType) -> str:
    if dtype.name in ("f32", "f64", "complex64"):
        return "(float)(i % 7) / 7"
    if dtype.name in ("f16", "bf16", "f8e4m3", "f8e5m2"):
        return "0"
    return "(i % 2)"


def _probe(flags: str) -> str:
    """Flags as far as make's compiler knows them."""
    return f"$(shell $(CXX) {flags} -x c++ -fsyntax-only /dev/null 2>/dev/null && echo {flags})"


def makefile(library: Library) -> str:
    """Builds the library and the example."""
    n = library.name
    isa = ISAS[library.code.isa]
    probes = "\n".join(f"CXXFLAGS += {_probe(' '.join(flags))}" for flags in gcc_flags(isa))
    return f"""# {MARK}.
CXXFLAGS = {exported_flags(isa)}
# For g++; other compilers may not know these.
{probes}

example: example.c lib{n}.so
\t$(CC) -O2 example.c -o $@ -L. -l{n} -Wl,-rpath,'$$ORIGIN'

lib{n}.so: {n}.cpp {n}.h
\t$(CXX) $(CXXFLAGS) -shared {n}.cpp -o $@

clean:
\trm -f example lib{n}.so
"""


def readme(library: Library) -> str:
    """What there is, and how to build it."""
    n, isa = library.name, library.code.isa
    tensors = "\n".join(tensor_lines(library))
    own = "".join(f" {flag}" for flags in gcc_flags(ISAS[isa]) for flag in flags)
    return f"""{n}: a model as a C library. {MARK}.

{tensors}

Build the library and the example, and run it:

    make && ./example

or, in one command, without a shared object:

    g++ {exported_flags(ISAS[isa])}{own} {n}.cpp example.c -o example

Needed: a C++17 compiler, POSIX threads. Not needed: Python, or any other library.

  {n}.h        the interface, with its documentation
  {n}.cpp      the generated code; kernels/ holds what it includes
  {n}.weights  the weights; {n}_open reads them
  example.c      open, prepare, run

The flags are for CPUs with {isa}. For others, write the code for them with mcomp on such a machine, or replace everything
from the first -D or -m to the last -m by -DMCOMP_ISA_PORTABLE, which runs anywhere, slowly. Never add -ffast-math.
"""
