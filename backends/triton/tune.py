"""Choosing configurations and ways by measuring, within a time limit, once for every device, version and shape."""

from __future__ import annotations

import hashlib
import json
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from mcomp.backend import code_digest
from mcomp.backends.triton.device import Device
from mcomp.backends.triton.program import Choice, Config, Launch, Numbers
from mcomp.files import write_whole
from mcomp.ir.dims import Dim

MOST = 10
"""So many configurations of a kernel are measured: those that the cost model likes best."""
SECONDS = 60.0
"""How long a model's kernels are searched for in all, unless told."""
_KERNELS = Path(__file__).resolve().parent / "kernels"

Run = Callable[[Config], None]


class Tuner:
    """Finds the fastest configuration of each launch and the fastest way of each choice. What was measured is kept in a file
    for the device, the versions of torch and triton and the code of the kernels, and never measured again. Sizes that calls
    decide count by their bucket: what is found for the first ones in it holds for all.

    When `seconds` are used up, what is not in the file is what the cost model likes best, and is not written down.
    """

    def __init__(self, device: Device, *, folder: Path | None = None, seconds: float = SECONDS, most: int = MOST) -> None:
        self.device = device
        self.seconds = seconds
        self.most = most
        self.measured = 0
        """How many kernels and choices were searched."""
        self._key = f"{device.key()}|kernels {code_digest(_KERNELS)}"
        digest = hashlib.sha256(self._key.encode()).hexdigest()[:16]
        self.path = (folder or default_folder()) / f"{digest}.json"
        self._lock = threading.RLock()
        self._known: dict[str, Any] = self._read()

    def config(self, launch: Launch, sizes: Numbers, run: Run) -> Config:
        """The configuration of a launch for given sizes. `run` launches it; what it computes is the same every time."""
        key, candidates = self._candidates(launch, sizes)
        if len(candidates) == 1:
            return candidates[0]
        with self._lock:
            found = self._known.get(key)
            by_name = {str(c): c for c in candidates}
            if found is not None and found["best"] in by_name:
                return by_name[found["best"]]
            if self.seconds <= 0:
                return candidates[0]
            return self._search(key, candidates, run)

    def settled(self, launch: Launch, sizes: Numbers) -> Config:
        """The configuration that a launch has as things are known, without measuring."""
        key, candidates = self._candidates(launch, sizes)
        found = self._known.get(key, {}).get("best")
        return next((c for c in candidates if str(c) == found), candidates[0])

    def _candidates(self, launch: Launch, sizes: Numbers) -> tuple[str, list[Config]]:
        """What is known is found under this key; the configurations to try, which all sizes with this key have."""
        near = rounded(sizes, (*launch.numbers, *launch.sizes))
        return f"{launch.name}|{_text(near)}", launch.configs(near, self.device.chip)[: self.most]

    def way(self, choice: Choice, sizes: Numbers, time_way: Callable[[int], float]) -> int:
        """The way of a choice for given sizes. `time_way(i)` gives its milliseconds."""
        names = [name for name, _ in choice.ways]
        launches = "+".join((*names, *(s.name for _, way in choice.ways for s in way if isinstance(s, Launch))))
        near = rounded(sizes, choice.sizes)
        key = f"way {hashlib.sha256(launches.encode()).hexdigest()[:16]}|{_text(near)}"
        default = choice.default(sizes, self.device.chip)
        with self._lock:
            found = self._known.get(key)
            if found is not None and found["best"] in names:
                return names.index(found["best"])
            if self.seconds <= 0:
                return default
            started = time.perf_counter()
            tried = choice.tried(near)
            times = {
                name: _or_never(lambda i=i: time_way(i)) for i, name in enumerate(names) if name in tried  # type: ignore[misc]
            }
            best = min(times, key=lambda name: times[name])
            self._keep(key, best, times, started)
            return names.index(best)

    def _search(self, key: str, candidates: list[Config], run: Run) -> Config:
        started = time.perf_counter()
        times: dict[str, float] = {}
        for config in candidates:
            times[str(config)] = _or_never(lambda c=config: self.device.milliseconds(lambda: run(c)))  # type: ignore[misc]
            if time.perf_counter() - started > self.seconds:
                break
        best = min(times, key=lambda name: times[name])
        chosen = next(c for c in candidates if str(c) == best)
        self._keep(key, best, times, started)
        return chosen

    def _keep(self, key: str, best: str, times: Mapping[str, float], started: float) -> None:
        self.seconds -= time.perf_counter() - started
        self.measured += 1
        finite = {name: round(t, 5) for name, t in times.items() if t != float("inf")}
        self._known[key] = {"best": best, "milliseconds": finite}
        merged = {**self._read(), **self._known}
        try:
            write_whole(self.path, json.dumps({"device": self._key, "found": merged}, indent=1, sort_keys=True))
        except OSError as e:
            warnings.warn(f"what was measured cannot be kept in {self.path} ({e}); it will be measured again", stacklevel=3)

    def _read(self) -> dict[str, Any]:
        try:
            data = json.loads(self.path.read_text(encoding="utf-8"))
            found = data["found"] if data["device"] == self._key else {}
            return dict(found)
        except (OSError, ValueError, TypeError, KeyError):
            return {}


def rounded(sizes: Numbers, given: Iterable[tuple[str, Dim]]) -> dict[str, int]:
    """Sizes by name, those that calls decide rounded up to their bucket; `given` says what each is."""
    of = dict(given)
    return {name: size if isinstance(of[name], int) else bucket(size) for name, size in sizes.items()}


def bucket(size: int) -> int:
    """The least power of two, or three quarters of one, that is at least a size. Tiles are powers of two: the same ones fit
    all sizes of a bucket."""
    whole = 1 << max(0, size - 1).bit_length() if size else 0
    return whole * 3 // 4 if whole > 2 and size <= whole * 3 // 4 else whole


def default_folder() -> Path:
    """Where measurements are kept."""
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("mcomp")) / "triton" / "tuned"


def _or_never(measure: Callable[[], float]) -> float:
    """A measurement; infinity where the kernel does not run in this configuration (too much shared memory, say)."""
    try:
        return measure()
    except Exception as e:  # whatever a compiler, a driver or torch raises, the configuration is out
        if not isinstance(e, RuntimeError) and type(e).__name__ not in ("OutOfResources", "CompilationError", "PTXASError"):
            raise
        return float("inf")


def _text(sizes: Numbers) -> str:
    return ",".join(f"{name}={value}" for name, value in sorted(sizes.items()))
