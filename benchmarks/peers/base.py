"""What a peer offers: candidates (one setting each) that become runners."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from benchmarks.case import Array, Case, tensors


@dataclass(frozen=True)
class Setup:
    """Under which conditions a runner is made: the case, the number of threads, a scratch folder, and whether to try
    only the first setting of each variant."""

    case: Case
    threads: int
    scratch: Path
    quick: bool = False
    kept: Path | None = None
    """Folder of artifacts that were saved before."""

    def folder(self) -> Path:
        """A new folder under `scratch`: an artifact in use is never overwritten by the next candidate's."""
        return Path(tempfile.mkdtemp(dir=self.scratch))


class Runner(Protocol):
    """A prepared model. The same object is scored and timed."""

    size_bytes: int | None
    """Bytes of the artifact on disk, None where the runtime has none."""

    details: Mapping[str, Any]
    """What else a reader should know of the artifact, as plain data."""

    def __call__(self, *inputs: Array) -> Array:
        """Outputs for one batch of the case's own size."""
        ...

    def bind(self, *inputs: Array) -> Callable[[], object]:
        """A call on fixed inputs, by the runtime's fastest public way."""
        ...

    def at(self, *inputs: Array) -> Callable[[], object]:
        """As `bind`, for inputs of other sizes than the case's own, with what the runtime offers to prepare for them.

        Raises NotImplementedError where the runner cannot.
        """
        ...

    def context(self) -> contextlib.AbstractContextManager[Any]:
        """What is entered once around many timed calls."""
        ...


@dataclass(frozen=True)
class Candidate:
    """One setting of a variant; `make` does all the work from module to runner and is timed as preparation."""

    name: str
    make: Callable[[], Runner]
    settings: Mapping[str, object] = field(default_factory=dict)


def missing_packages(packages: Sequence[str]) -> str | None:
    """Why a peer cannot run: the packages that are not installed, or None."""
    absent = [name for name in packages if importlib.util.find_spec(name) is None]
    if not absent:
        return None
    return f"not installed: {', '.join(absent)} (pip install {' '.join(absent)})"


def package_versions(names: Sequence[str]) -> dict[str, str]:
    """Installed versions by distribution name."""
    return {name: importlib.metadata.version(name) for name in names}


def torch_module(setup: Setup) -> Any:
    """The case's module in inference mode, with torch limited to the set number of threads."""
    import torch

    torch.set_num_threads(setup.threads)
    return setup.case.build().eval()


def torch_example(setup: Setup) -> tuple[Any, ...]:
    """The case's example inputs as tensors."""
    return tensors(setup.case.example)
