"""Compiling on a backend, or on the reference backend when that one cannot run on this machine."""

from __future__ import annotations

import warnings

from mcomp.backend import Backend, CompileOptions, Executable, backend_named
from mcomp.errors import BackendError
from mcomp.ir.graph import Graph
from mcomp.manager.context import Context


class FallbackWarning(UserWarning):
    """The generated code could not be built; the reference backend runs the model instead, slowly."""


def lowered(backend: Backend, graph: Graph, context: Context | None = None) -> Graph:
    """A copy of the graph after the passes that the backend asks for (fusion, legalization)."""
    from mcomp.manager.run import PassManager

    copy = graph.clone()
    PassManager(backend.pipeline()).run(copy, context or Context(target=backend.name))
    return copy


def compile_on(
    backend: Backend, graph: Graph, options: CompileOptions, context: Context | None = None, *, trusted: bool = False
) -> Executable:
    """Compile a graph. Without a compiler on the machine: the reference backend, and a warning that says what to install.
    `trusted`: it comes from a file whose compiled code might have been used, and does not fit.

    Raises BackendError when neither can run the graph (no compiler and no torch), or when the backend is not replaceable.
    """
    reason = backend.available()
    if reason is None:
        return backend.compile(lowered(backend, graph, context), options, context)
    if not backend.replaceable:
        raise cannot_run(backend, reason)
    try:
        import torch  # noqa: F401
    except ImportError as e:
        raise BackendError(
            f"target {backend.name} cannot run here: {reason}", code="MC0602",
            help="install what is missing, or PyTorch; " + (
                "the file holds no compiled code that this machine and this version of mcomp can use" if trusted else
                "a file saved on such a machine holds compiled code, which mcomp.load(path, trust_code=True) uses"
            ),
        ) from e
    warnings.warn(f"target {backend.name} cannot run here: {reason}. The reference backend runs the model instead; "
                  "it is no faster than PyTorch.", FallbackWarning, stacklevel=3)
    if context is not None:
        context.remark("warning", "backend", "", f"target {backend.name} cannot run here: {reason}",
                       "the reference backend runs the model instead")
    return backend_named("reference").compile(graph, options, context)


def cannot_run(backend: Backend, reason: str) -> BackendError:
    """The error for a target that this machine lacks."""
    return BackendError(
        f"target {backend.name} cannot run here: {reason}", code="MC0602",
        help='optimize for target="cpu"; lowering and compiling ahead of time need no such machine: mcomp opt --target '
        f"{backend.name} --emit source",
    )
