"""`mcomp.load`. Imports little by itself: the weights of a trusted file are checked while the rest is imported."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from mcomp.runtime.container import Beside, Container

if TYPE_CHECKING:
    from mcomp.runtime.compiled import CompiledModel


def load(
    path: str | os.PathLike[str], *, trust_code: bool = False, threads: int | None = None, isa: str | None = None,
) -> CompiledModel:
    """Read a compiled model. Runs no code from the file: what runs is generated from its IR on this machine.

    With `trust_code=True`, compiled code in the file is used where this machine runs it, with the plan that goes with it,
    after their hashes are checked; else a warning says what the code is for. Raises ArtifactError for a file that is
    damaged, altered, newer than this mcomp, or whose graph calls operators that are not on the allow-list, and BackendError
    where this machine cannot run it (no compiler and no PyTorch, no GPU, another `isa`), or `threads` is no number.
    threads: of the model; None: all cores. isa: the instruction set to use (avx512, avx2, portable ...; see `mcomp
    doctor`); None: that of the code which is used, or the best of this machine.
    """
    opened = Container(Path(path))
    check = Beside(lambda: _check(opened)) if trust_code else None
    from mcomp.runtime.artifact import ArtifactReader
    from mcomp.runtime.compiled import restore

    reader = ArtifactReader(path, opened=opened, check=check)
    return restore(reader, trust_code=trust_code, threads=threads, isa=isa)


def _check(opened: Container) -> None:
    try:
        weights = {str(digest): str(type) for digest, type in json.loads(opened.metadata["mcomp"])["weights"].items()}
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as e:
        raise opened.damaged(f"its header cannot be read ({e})") from e
    opened.check_weights(weights)
