"""From an opened artifact to a program that runs: by its trusted code and plan, or from its graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from mcomp.backend import CompileOptions, Executable, Stored
from mcomp.errors import ArtifactError, BackendError, McompError
from mcomp.plugins import reviver
from mcomp.runtime.artifact import ArtifactReader
from mcomp.runtime.face import Face
from mcomp.runtime.program import CompiledProgram
from mcomp.runtime.sizes import SizeChecks

if TYPE_CHECKING:
    from mcomp.ir.graph import Graph
    from mcomp.report.report import Report


def restored(
    reader: ArtifactReader, *, trust_code: bool, threads: int | None, isa: str | None
) -> tuple[CompiledProgram, Callable[[], Report]]:
    """The program of a file, and what reads its report. Raises ArtifactError for a file that is damaged or not allowed, and
    BackendError for an instruction set that is none or not this machine's, and for code that does not load."""
    options = CompileOptions(isa=isa, threads=threads)
    program = _by_plan(reader, options) if trust_code else None
    if program is None:
        program = _by_graph(reader, options, trust_code)
        report = reader.report()
        return program, lambda: report
    return program, reader.report


def _by_plan(reader: ArtifactReader, options: CompileOptions) -> CompiledProgram | None:
    """The program from trusted code, without reading its graph: that is read when it is first asked for. Weights are
    checked beside everything else."""
    revive, plan = reviver(reader.target), reader.plan()
    if revive is None or plan is None or "sizes" not in plan:
        return None
    try:
        stored = Stored(
            recipe=str(plan["recipe"]), code=lambda name: reader.blob(f"code/{name}"),
            source=lambda: reader.blob("source").decode(), array=reader.array, weight=reader.weight,
            whole=lambda: _executable(reader, _checked_graph(reader, True), options, trust_code=True),
        )
        executable = revive(stored, options)
        face, checks = Face.from_json(plan["face"]), SizeChecks.from_json(plan["sizes"])
    except (ArtifactError, BackendError):
        raise
    except (KeyError, TypeError, ValueError, IndexError, McompError) as e:
        raise reader.damaged(f"its plan cannot be used ({e})") from e
    finally:
        reader.finish_check()
    reader.forget_pages()
    if executable is None:
        return None
    signature, arguments, results, rebinds = reader.convention()
    return CompiledProgram(
        lambda: _checked_graph(reader, True), executable, signature, arguments, results, rebinds, face=face,
        checks=checks,
    )


def _by_graph(reader: ArtifactReader, options: CompileOptions, trust_code: bool) -> CompiledProgram:
    graph = _checked_graph(reader, trust_code)
    signature, arguments, results, rebinds = reader.convention()
    executable = _executable(reader, graph, options, trust_code=trust_code)
    return CompiledProgram(graph, executable, signature, arguments, results, rebinds)


def _checked_graph(reader: ArtifactReader, trusted: bool) -> Graph:
    from mcomp.runtime.safety import check_opaque

    graph = reader.graph()
    check_opaque(graph, trusted=trusted)
    return graph


def _executable(reader: ArtifactReader, graph: Graph, options: CompileOptions, *, trust_code: bool) -> Executable:
    """The executable of a graph: by the file's code where that is trusted and is of this very graph, else compiled."""
    from mcomp.backend import backend_named
    from mcomp.runtime.choose import compile_on, lowered

    backend = backend_named(reader.target)
    binaries = {n: reader.blob(f"code/{n}") for n in reader.code_names()} if trust_code else {}
    executable = backend.restore(lowered(backend, graph), binaries, options) if binaries else None
    return compile_on(backend, graph, options, trusted=trust_code) if executable is None else executable
