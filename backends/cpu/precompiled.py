"""The headers of the system that kernels include, precompiled for g++: to read those of vector instructions takes it longer
than to compile a small kernel."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

_HEADERS = (
    "immintrin.h", "pthread.h", "algorithm", "atomic", "cmath", "cstdint", "cstdlib", "cstring", "initializer_list",
    "limits", "new", "type_traits", "utility",
)
_TEXT = "#pragma once\n" + "".join(f"#include <{name}>\n" for name in _HEADERS)


def headers(folder: Path, command: Sequence[str], version: str, flags: Sequence[str]) -> tuple[str, ...]:
    """Flags that make g++ (`command`, of this version) begin with these headers, which are precompiled in a folder with its
    flags unless they lie there. The code that results is the same. Where they do not compile, or do not suit, g++ reads
    their text.

    Raises OSError where the folder cannot be written.
    """
    digest = hashlib.sha256("\0".join((_TEXT, *command, version, *flags)).encode()).hexdigest()[:16]
    made = folder / f"headers-{digest}"
    if not made.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".building-", dir=folder) as building:
            _make(Path(building) / "headers", command, flags)
            try:
                os.replace(Path(building) / "headers", made)
            except OSError:  # another process was faster
                if not made.exists():
                    raise
    return ("-include", str(made / "first.hpp"))


def _make(folder: Path, command: Sequence[str], flags: Sequence[str]) -> None:
    folder.mkdir()
    text = folder / "first.hpp"
    text.write_text(_TEXT)
    out = folder / "first.hpp.gch"
    whole = [*command, *flags, "-x", "c++-header", str(text), "-o", str(out)]
    done = subprocess.run(whole, capture_output=True, check=False)
    if done.returncode != 0:
        out.unlink(missing_ok=True)
