"""What share of the machine's measured peak a kernel reaches."""

from __future__ import annotations

from collections.abc import Callable

from mcomp.backend import KernelInfo
from mcomp.ops.workload import PRODUCTS
from mcomp.plan.profile import DeviceProfile, device_profile


def peak_fraction(
    target: str = "cpu", threads: int | None = None, *, profile: DeviceProfile | None = None
) -> Callable[[KernelInfo, float], tuple[float | None, str]]:
    """A function from a kernel and its measured microseconds to (share of the peak, what binds it).

    The bound is whichever of operations and bytes would take longer at the rates that the machine reaches at most; the
    share is that time over the measured one. None for kernels that do no work.
    """
    known = profile or device_profile(target, threads)

    def fraction(kernel: KernelInfo, microseconds: float) -> tuple[float | None, str]:
        kind = kernel.compute if any(op in PRODUCTS for op in kernel.ops) else "scalar"
        moved = kernel.read + kernel.write
        computing = kernel.flops / known.most_operations(kind) * 1e6
        moving = moved / known.most_bytes_per_second(moved) * 1e6
        if microseconds <= 0 or max(computing, moving) <= 0:
            return None, ""
        return max(computing, moving) / microseconds, "operations" if computing >= moving else "bytes"

    return fraction
