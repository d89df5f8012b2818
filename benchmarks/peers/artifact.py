"""Artifacts that were saved before: a variant is the name of a file in the folder that the options name."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.case import Array
from benchmarks.peers.base import Candidate, Setup, package_versions

VARIANTS: tuple[str, ...] = ()


def missing() -> str | None:
    return None


def versions() -> dict[str, str]:
    return package_versions(["numpy"])


def place(folder: Path, case: str, variant: str) -> Path:
    """Where the artifact of a case is."""
    return folder / "artifacts" / f"{case}-{variant}.mcomp"


class ArtifactRunner:
    """A loaded `.mcomp` file."""

    def __init__(self, path: Path, threads: int) -> None:
        self.model: Any = importlib.import_module("mcomp").load(path, threads=threads, trust_code=True)
        self.size_bytes: int | None = path.stat().st_size
        self.details: Mapping[str, Any] = {}

    def __call__(self, *inputs: Array) -> Array:
        return np.array(self.model(*inputs))

    def bind(self, *inputs: Array) -> Callable[[], object]:
        run: Callable[[], object] = self.model.bind(*inputs)
        return run

    at = bind

    def context(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext()


def candidates(variant: str, setup: Setup) -> list[Candidate]:
    if setup.kept is None:
        return []
    path = place(setup.kept, setup.case.name, variant)
    return [Candidate(variant, partial(ArtifactRunner, path, setup.threads))]
