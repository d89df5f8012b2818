"""The backend for CPUs: lowers graphs to C++, compiles and loads it."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from mcomp.backend import Backend, CompileOptions, Executable, code_digest, register_backend
from mcomp.backends.cpu.builder import Builder
from mcomp.backends.cpu.cache import CodeCache
from mcomp.backends.cpu.compiler import KERNELS, build, find_compiler, missing_compiler
from mcomp.backends.cpu.emit import Emitter, Source
from mcomp.backends.cpu.executor import Code, CpuExecutable
from mcomp.backends.cpu.isa import choose, supported, usable
from mcomp.backends.cpu.kernel import Program
from mcomp.backends.cpu.legalize import legalize
from mcomp.backends.cpu.library import Library
from mcomp.ir.graph import Graph
from mcomp.manager.context import Context
from mcomp.plan.profile import DeviceProfile
from mcomp.threads import available_threads

_GRAPHS_PER_SOURCE = 24


class CpuBackend(Backend):
    """Generated C++ for CPUs."""

    name = "cpu"

    def __init__(self, cache: CodeCache | None = None) -> None:
        self._cache = cache

    def pipeline(self) -> str:
        return "fuse,legalize{target=cpu}"

    def available(self) -> str | None:
        return missing_compiler()

    def legalize(self, graph: Graph, context: Context) -> int:
        """Write the layouts that lowering chooses into the graph's types; see the pass `legalize`."""
        return legalize(graph, context)

    def zero_blocks(self) -> tuple[tuple[int, int], ...]:
        """Matrix registers skip whole steps of 64 inputs only."""
        return ((32, 64), (32, 4)) if supported()[0].matrices else ((32, 4),)

    def revision(self) -> str:
        parts = (code_digest(KERNELS.parent), str(find_compiler()), *(isa.name for isa in supported()))
        return " ".join(parts)

    def describe(self) -> dict[str, str]:
        compiler = find_compiler()
        costs = {}
        if compiler is not None:
            from mcomp.backends.cpu.synchronizing import thread_costs

            costs["cost of threads"] = str(thread_costs(available_threads(), self.cache))
        return {
            "compiler": "none" if compiler is None else str(compiler), **costs,
            "instruction sets": ", ".join(isa.name for isa in supported()),
            "threads": str(available_threads()),
            "cache": str(self.cache.folder),
        }

    def compile(self, graph: Graph, options: CompileOptions, context: Context | None = None) -> CpuExecutable:
        return self._compile([lower_graph(graph, context)], options)[0]

    def compile_many(self, graphs: Sequence[Graph], options: CompileOptions) -> list[Executable]:
        """Lower several graphs into few sources: kernels that they have in common are compiled once."""
        programs = [lower_graph(g, None) for g in graphs]
        groups = [programs[i : i + _GRAPHS_PER_SOURCE] for i in range(0, len(programs), _GRAPHS_PER_SOURCE)]
        with ThreadPoolExecutor(max_workers=max(1, available_threads())) as pool:
            built = list(pool.map(lambda group: self._compile(group, options), groups))
        return [executable for group in built for executable in group]

    def restore(
        self, graph: Graph, binaries: Mapping[str, bytes], options: CompileOptions
    ) -> CpuExecutable | None:
        """An executable from code compiled earlier, which must be trusted: for this machine and made from the very source
        that the graph gives today. None when none of `binaries` (by instruction set) is so; a warning when none is for this
        machine, or for the instruction set asked for."""
        isa = usable(binaries, options.isa)
        if isa is None:
            if binaries:
                other = options.isa or ", ".join(isa.name for isa in supported())
                warnings.warn(f"the file holds compiled code for {', '.join(binaries)}, which is not used: "
                              f"{'isa asks for' if options.isa else 'this machine runs'} {other}", stacklevel=7)
            return None
        program = lower_graph(graph, None)
        source = emit([program], options)
        library = Library.from_bytes(binaries[isa.name])
        if library.key() != source_key(source):
            return None
        return CpuExecutable(program, source.segments[0], Code(library, source.text, isa.name), options.threads)

    def source(self, graph: Graph, options: CompileOptions) -> str:
        return emit([lower_graph(graph, None)], options).text

    def tune(self, graph: Graph, options: CompileOptions, progress: Callable[[str], None]) -> int:
        """Times tiles for the graph's products; see tune.py."""
        from mcomp.backends.cpu.tune import Table, tune

        isa = choose(options.isa)
        cache = self.cache if options.cache else None
        return tune(graph, Table.load(isa), options.hints, cache=cache, progress=progress)

    def measure_profile(self, threads: int) -> DeviceProfile | None:
        if self.available() is not None:
            return None
        from mcomp.backends.cpu.profile import measure

        return measure(self, threads)

    @property
    def cache(self) -> CodeCache:
        """Where compiled code is kept."""
        if self._cache is None:
            self._cache = CodeCache()
        return self._cache

    def _compile(self, programs: Sequence[Program], options: CompileOptions) -> list[CpuExecutable]:
        isa = choose(options.isa)
        source = emit(programs, options)
        library = Library(build(_signed(source), isa, self.cache if options.cache else None))
        code = Code(library, source.text, isa.name)
        return [CpuExecutable(p, s, code, options.threads) for p, s in zip(programs, source.segments)]


def lower_graph(graph: Graph, context: Context | None) -> Program:
    """A program of kernels for a graph, which is not changed. The same graph always gives the same program."""
    return Builder(graph.clone(), context).build()


def emit(programs: Sequence[Program], options: CompileOptions) -> Source:
    """One source for some programs."""
    emitter = Emitter(options.hints)
    for program in programs:
        emitter.add(program)
    return emitter.source()


def source_key(source: Source) -> str:
    """A hash of a source, which its compiled code tells."""
    return hashlib.sha256(source.text.encode()).hexdigest()[:32]


def _signed(source: Source) -> str:
    return (
        f'{source.text}\nextern "C" __attribute__((visibility("default"))) const char* mcomp_key() {{\n'
        f'  return "{source_key(source)}";\n}}\n'
    )


BACKEND = register_backend(CpuBackend())

