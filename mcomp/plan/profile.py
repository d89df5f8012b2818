"""How fast this machine is: peak rates, bandwidth by working set, the cost of a kernel call. Measured once and kept."""

from __future__ import annotations

import hashlib
import json
import platform
import warnings
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcomp.files import write_whole
from mcomp.ops.workload import PRODUCTS
from mcomp.threads import available_threads

if TYPE_CHECKING:
    from mcomp.backend import Backend, KernelInfo

FORMAT = 2
"""Version of the measurement and of its file; profiles of another version are measured again."""


@dataclass(frozen=True)
class DeviceProfile:
    """Rates of one device with one number of threads.

    `rates`: operations per second of matrix products by element type (`f32`, `bf16`, `i8`), and of plain element-wise
    loops (`scalar`). `bandwidth`: (bytes of the working set, bytes per second), ascending. `overhead_us`: microseconds
    that a kernel takes at least. These are what our kernels reach at good sizes, and predict times. `limits` and `reads`,
    where they were measured, are what the machine reaches at most: products with operands in registers, and reading.
    """

    device: str
    threads: int
    rates: tuple[tuple[str, float], ...]
    bandwidth: tuple[tuple[int, float], ...]
    overhead_us: float
    limits: tuple[tuple[str, float], ...] = ()
    reads: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        rates = dict(self.rates)
        if not {"f32", "scalar"} <= rates.keys() or not self.bandwidth:
            raise ValueError("a profile needs the rates f32 and scalar, and a bandwidth")
        measured = (*self.rates, *self.bandwidth, *self.limits, *self.reads)
        if not all(rate > 0 for _, rate in measured) or not self.overhead_us >= 0:
            raise ValueError("rates and bandwidths must be positive, the overhead not negative")

    def rate(self, kind: str) -> float:
        """Operations per second of products of an element type, or `scalar`; an unmeasured type runs as f32."""
        rates = dict(self.rates)
        return rates.get(kind, rates["f32"])

    def bytes_per_second(self, working_set: float) -> float:
        """Bandwidth for a working set of so many bytes: between two measured sizes, that of the larger one."""
        return _at_size(self.bandwidth, working_set)

    def most_operations(self, kind: str) -> float:
        """Operations per second that products of a kind can reach: the limit, or the rate where none was measured."""
        return max(dict(self.limits).get(kind, 0.0), self.rate(kind))

    def most_bytes_per_second(self, working_set: float) -> float:
        """As bytes_per_second, at most: for reads where those were measured."""
        return max(_at_size(self.reads, working_set) if self.reads else 0.0, self.bytes_per_second(working_set))

    def predict_us(
        self, work: Mapping[str, float], moved: float, *, weights: float = 0.0, all_weights: float | None = None
    ) -> float:
        """Predicted microseconds of one kernel: the longer of computing and moving data, plus the call.

        `work`: operations by kind of rate. `moved`: bytes of activations read and written. `weights`: bytes of weights
        read; they come from wherever `all_weights`, the weights of the whole model, fit (default: `weights`).
        Roofline model: Williams, Waterman, Patterson, CACM 52(4), 2009.
        """
        computing = sum(flops / self.rate(kind) for kind, flops in work.items())
        moving = moved / self.bytes_per_second(moved + weights)
        if weights:
            moving += weights / self.bytes_per_second(max(weights, all_weights or 0.0))
        return max(computing, moving) * 1e6 + self.overhead_us


def _at_size(measured: tuple[tuple[int, float], ...], size: float) -> float:
    at = min(bisect_left([s for s, _ in measured], size), len(measured) - 1)
    return measured[at][1]


def device_profile(
    target: str = "cpu", threads: int | None = None, *, refresh: bool = False, directory: Path | None = None
) -> DeviceProfile:
    """The profile of a target with so many threads (None: all that this process may use).

    Read from the user's cache directory if it was measured before on the same device with the same kernels, else
    measured (about a second) and kept there. A damaged file is measured again, with a warning.
    """
    from mcomp.backend import backend_named

    count = threads or available_threads()
    backend = backend_named(target)
    path = (directory or cache_directory()) / f"{profile_key(backend.name, count)}.json"
    if not refresh:
        found = _read(path)
        if found is not None:
            return found
    profile = measure_profile(backend, count)
    _write(path, profile)
    return profile


def measure_profile(backend: Backend, threads: int) -> DeviceProfile:
    """Measure now: by the backend's own kernels where it offers that, else with numpy's."""
    from mcomp.plan.measure_numpy import numpy_profile

    return backend.measure_profile(threads) or numpy_profile(device_name(), threads)


def kernel_predictor(
    target: str = "cpu", threads: int | None = None, *, profile: DeviceProfile | None = None, all_weights: float = 0.0
) -> Callable[[KernelInfo], float]:
    """A function from a kernel to its predicted microseconds. `all_weights`: bytes of the model's weights."""
    known = profile or device_profile(target, threads)

    def predict(kernel: KernelInfo) -> float:
        kind = kernel.compute if any(op in PRODUCTS for op in kernel.ops) else "scalar"
        moved = float(kernel.read + kernel.write - kernel.weights)
        return known.predict_us({kind: kernel.flops}, moved, weights=kernel.weights, all_weights=all_weights)

    return predict


def device_name() -> str:
    """The processor's model, as the system tells it."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def cache_directory() -> Path:
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("mcomp")) / "profiles"


def profile_key(backend: str, threads: int) -> str:
    """The name that times are kept under: everything that all of them depend on, hashed."""
    from mcomp import __version__, lowering
    from mcomp.backend import backend_named, code_digest

    found = backend_named(backend)
    machine = found.machine() or device_name()
    code = (found.revision(), code_digest(Path(lowering.__path__[0])))
    text = "|".join((backend, machine, platform.machine(), *code, str(threads), __version__, str(FORMAT)))
    return f"{backend}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _read(path: Path) -> DeviceProfile | None:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except OSError as e:
        warnings.warn(f"the device profile {path} cannot be read ({e}); measuring again", stacklevel=3)
        return None
    try:
        return _from_json(json.loads(text))
    except (ValueError, TypeError, KeyError) as e:
        warnings.warn(f"the device profile {path} is damaged ({e}); measuring again", stacklevel=3)
        return None


def _from_json(data: Any) -> DeviceProfile:
    if not isinstance(data, dict):
        raise ValueError("not an object")
    return DeviceProfile(
        device=str(data["device"]), threads=int(data["threads"]),
        rates=tuple((str(kind), float(rate)) for kind, rate in data["rates"]),
        bandwidth=tuple((int(size), float(rate)) for size, rate in data["bandwidth"]),
        overhead_us=float(data["overhead_us"]),
        limits=tuple((str(kind), float(rate)) for kind, rate in data["limits"]),
        reads=tuple((int(size), float(rate)) for size, rate in data["reads"]),
    )


def _write(path: Path, profile: DeviceProfile) -> None:
    """Write whole or not at all; a cache that cannot be written is a warning."""
    try:
        write_whole(path, json.dumps(asdict(profile), indent=1))
    except OSError as e:
        warnings.warn(f"the device profile cannot be kept in {path} ({e}); it will be measured again", stacklevel=3)
