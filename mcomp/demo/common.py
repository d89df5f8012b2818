"""What the demonstrations share: timing, reloading without torch, the closing words."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mcomp.errors import McompError, install

RELOAD = """
import sys
sys.modules["torch"] = None
import numpy as np
import mcomp
model = mcomp.load(sys.argv[1])
inputs = np.load(sys.argv[2])
answers = model.only_program("run").run([inputs[name] for name in inputs.files], numpy=True)
np.savez(sys.argv[3], *answers)
print(", ".join(m for m in ("torch", "networkx", "rich", "sympy") if sys.modules.get(m) is not None) or "none of them")
"""


def need(package: str, purpose: str) -> None:
    """Raise McompError, with the remedy, when an optional package is missing."""
    import importlib.util

    if importlib.util.find_spec(package) is None:
        raise McompError(f"{purpose} needs the package {package}", code="MC0810", help=install("demo"))


def agree_without_torch(path: str, inputs: list[np.ndarray], answers: list[np.ndarray], tolerance: float = 1e-5) -> bool:
    """Load the file in a process that cannot import torch, run it on the inputs, and compare with `answers`."""
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder, "inputs.npz"), Path(folder, "answers.npz")
        np.savez(given, *inputs)
        done = subprocess.run(
            [sys.executable, "-c", RELOAD, path, str(given), str(found)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            print(done.stderr, file=sys.stderr)
            return False
        with np.load(found) as loaded:
            again = [loaded[name] for name in loaded.files]
    worst = largest_difference(again, answers)
    print(f"loaded {path} in a process without torch (imported of torch, networkx, rich, sympy: {done.stdout.strip()}): "
          f"largest difference {worst:.2e}")
    return worst <= tolerance


def largest_difference(found: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> float:
    """The largest absolute difference of arrays; NaN where there is one in either, infinity where shapes differ."""
    worst = [0.0]
    for a, b in zip(found, wanted, strict=True):
        with np.errstate(invalid="ignore"):
            worst.append(float(np.abs(a.astype(np.float64) - b).max(initial=0.0)) if a.shape == b.shape else np.inf)
    return float(np.max(worst))


def milliseconds(value: float | None, digits: int) -> str:
    """A time as it is printed; `-` where none was measured."""
    return "-" if value is None else f"{value:.{digits}f}"


def summary(rows: list[tuple[str, Any, Any]]) -> None:
    """Print before and after."""
    from mcomp.commands.common import print_table

    print_table("before and after", [("", "l"), ("original", "r"), ("mcomp", "r")], [
        (name, str(before), str(after)) for name, before, after in rows
    ])
