"""CompiledModel: called like the model it was made from."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcomp.errors import ArtifactError, CallError
from mcomp.ir.graph import Graph
from mcomp.runtime.program import BoundProgram, CompiledProgram

if TYPE_CHECKING:
    from mcomp.report.report import Report
    from mcomp.runtime.artifact import ArtifactReader
    from mcomp.runtime.module import CompiledModule


class Built:
    """What compiling gives: one program for the whole model, or an eager module with compiled parts inside."""

    def __init__(
        self, *, program: CompiledProgram | None, parts: Mapping[str, CompiledProgram], eager: Any,
        report: Report | Callable[[], Report], frontier: Sequence[Any] = (),
    ) -> None:
        self.program = program
        self.parts = dict(parts)
        self.eager = eager
        self._report = report
        self.frontier = list(frontier)

    @property
    def report(self) -> Report:
        """What was done to each layer; read when it is first asked for."""
        if callable(self._report):
            self._report = self._report()
        return self._report

    @report.setter
    def report(self, report: Report) -> None:
        self._report = report

    def report_later(self, make: Callable[[], Report]) -> None:
        """Make the report when it is first asked for."""
        self._report = make

    def programs(self) -> dict[str, CompiledProgram]:
        """All programs by module path; the whole model is the empty path."""
        return {"": self.program} if self.program is not None else self.parts


class CompiledModel:
    """A compiled model. Call it as the original; results have the same structure.

    Made by `mcomp.optimize` and `mcomp.load`. Safe to call from several threads. Takes torch tensors or numpy arrays
    (numpy in, numpy out), of any strides.
    """

    def __init__(
        self, built: Built | None, *, target: str = "cpu", original: Any = None,
        compile_call: Callable[[Sequence[Any], Mapping[str, Any]], Built] | None = None,
        recompile: Callable[[Sequence[Any], Mapping[str, Any], CallError], Built | None] | None = None,
    ) -> None:
        self.target = target
        self._built = built
        self._original = original
        self._compile_call = compile_call
        self._recompile = recompile
        self._lock = threading.RLock()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        built = self._built or self._compile(args, kwargs)
        if built.program is None:
            import torch

            with torch.no_grad():
                return built.eager(*args, **kwargs)
        try:
            return built.program.call(args, kwargs)
        except CallError as e:
            again = self._again(built, args, kwargs, e)
            if again is None:
                raise
        return self(*args, **kwargs) if again.program is None else again.program.call(args, kwargs)

    def _compile(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Built:
        with self._lock:
            if self._built is None:
                if self._compile_call is None:
                    raise CallError("this model has not been compiled")
                self._built = self._compile_call(args, kwargs)
            return self._built

    def _again(self, tried: Built, args: Sequence[Any], kwargs: Mapping[str, Any], error: CallError) -> Built | None:
        """For a model captured at its first call: capture again with the sizes that changed made symbolic."""
        if self._recompile is None:
            return None
        with self._lock:
            now = self._built
            if now is not tried and now is not None and now.program is not None and now.program.accepts(args, kwargs):
                return now
            built = self._recompile(args, kwargs, error)
            if built is not None:
                self._built = built
            return built

    @property
    def built(self) -> Built:
        """What was compiled. Raises CallError before the first call of a model made without example inputs."""
        if self._built is None:
            raise CallError(
                "the model is captured at its first call, and there was none yet", code="MC0405",
                help="call it once, or pass example inputs: mcomp.optimize(model, (x,))",
            )
        return self._built

    def only_program(self, purpose: str) -> CompiledProgram:
        """The program of the whole model. Raises ArtifactError when parts of it stayed eager."""
        built = self.built
        if built.program is None:
            kept = "; ".join(f"{e.path or 'the whole model'}: {e.reason}" for e in built.report.eager_modules[:3])
            raise ArtifactError(
                f"a model with eager parts cannot be {purpose}: {kept}", code="MC0707",
                help="see report().eager_modules for what keeps each part eager",
            )
        return built.program

    def report(self) -> Report:
        """What was done to each layer, why, and what it gave. `print(model.report())` shows it."""
        return self.built.report

    @property
    def ir(self) -> Graph | dict[str, Graph]:
        """The optimized graph; for a model with eager parts, the graphs by module path. Prints as text."""
        built = self.built
        if built.program is not None:
            return built.program.graph
        return {path: p.graph for path, p in built.parts.items()}

    @property
    def frontier(self) -> list[Any]:
        """The versions that were measured and are not beaten on quality, latency and bytes at once: each has `name`,
        `pipeline`, `quality`, `error`, `latency_ms`, `weight_bytes` and `within_budget`."""
        return self.built.frontier

    def pick(self, version: Any) -> CompiledModel:
        """Another version of the front, or the one of that name, as a model of its own: to call, to save. Raises
        ArtifactError for models with eager parts, and CallError for what is no version.

        >>> small = min(fast.frontier, key=lambda v: v.weight_bytes)
        >>> fast.pick(small).save("small.mcomp")
        """
        self.only_program("picked from the front")
        named = [v for v in self.frontier if v.name == version] if isinstance(version, str) else []
        built = getattr(named[0] if len(named) == 1 else version, "built", None)
        if not isinstance(built, Built):
            names = ", ".join(repr(v.name) for v in self.frontier)
            raise CallError(
                f"{version!r} is no version to pick" if not named else f"{len(named)} versions are called {version!r}",
                code="MC0407", help=f"pass one of frontier: {names}" if names else "the front is empty: only a model that "
                "optimize gave has one",
            )
        return CompiledModel(built, target=self.target, original=self._original)

    def dump(self, folder: str | os.PathLike[str], *, weights: bool = True) -> list[Path]:
        """Write the IR, the lowered IR, the generated source and the report to a folder, as files to read; with `weights`
        also those of the graphs, so that `mcomp opt`, `compare` and `bisect` can run them. Raises ArtifactError, also where
        a file is in the way that mcomp did not write."""
        from mcomp.runtime.dump import dump

        return dump(self, Path(folder), weights=weights)

    def save(self, path: str | os.PathLike[str], *, code: bool = True) -> Path:
        """Write a `.mcomp` file, whole or not at all; see `mcomp.runtime.artifact.save`."""
        from mcomp.runtime.artifact import save

        return save(self, path, code=code)

    def export_c(self, folder: str | os.PathLike[str], name: str = "model") -> Path:
        """Write a C library: header, source, weights and an example; see `mcomp.runtime.export_c`."""
        from mcomp.runtime.export_c import export_c

        return export_c(self.only_program("exported"), folder, name)

    def bind(self, *args: Any, **kwargs: Any) -> BoundProgram:
        """Fix inputs and outputs: `run = model.bind(x); run()` reads `x` anew and allocates nothing."""
        if self._built is None:
            self._compile(args, kwargs)
        return self.only_program("bound").bind(args, kwargs)

    def module(self) -> CompiledModule:
        """An nn.Module view of this model, for code that expects one (metrics, pipelines)."""
        from mcomp.runtime.module import CompiledModule

        return CompiledModule(self, self._original)

    def reset_state(self) -> None:
        """Put buffers and caches that the model mutates back to their value at capture."""
        for program in self.built.programs().values():
            program.reset_state()

    def session(self) -> CompiledModel:
        """The same compiled model with state of its own."""
        program = self.only_program("given a session")
        built = self.built
        return CompiledModel(
            Built(program=program.session(), parts={}, eager=None, report=lambda: built.report), target=self.target,
            original=self._original,
        )

    def __repr__(self) -> str:
        if self._built is None:
            return f"<CompiledModel for {self.target}, not captured yet>"
        return f"<CompiledModel for {self.target}: {self.built.report.model or 'model'}>"


def restore(reader: ArtifactReader, *, trust_code: bool, threads: int | None, isa: str | None) -> CompiledModel:
    """A compiled model from an opened artifact; see `mcomp.load`."""
    from mcomp.runtime.restore import restored

    program, report = restored(reader, trust_code=trust_code, threads=threads, isa=isa)
    return CompiledModel(Built(program=program, parts={}, eager=None, report=report), target=reader.target)
