"""Measuring a device with numpy's kernels, for backends that do not measure with their own."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from mcomp.plan.profile import DeviceProfile

_SIZES = (32 << 10, 256 << 10, 1 << 20, 8 << 20, 64 << 20)
_PRODUCTS = (64, 192, 512)
"""Small products run in one thread: on a busy machine they may be the fastest."""
_SECONDS = 0.08


def numpy_profile(device: str, threads: int) -> DeviceProfile:
    """Rates of numpy's matrix product (with the threads its BLAS uses), element-wise loops and copies.

    bf16 and i8 get the rate of f32: numpy has no faster kernels for them.
    """
    product = max(_product_rate(size) for size in _PRODUCTS)
    rates = (("f32", product), ("bf16", product), ("i8", product), ("scalar", _elementwise_rate(1 << 15)))
    bandwidth = tuple((size, _copy_rate(size)) for size in _SIZES)
    tiny = np.ones(8, np.float32)
    overhead = _best(lambda: np.multiply(tiny, tiny, out=tiny)) * 1e6
    return DeviceProfile(device, threads, rates, bandwidth, overhead)


def _product_rate(size: int) -> float:
    a = np.ones((size, size), np.float32)
    out = np.empty_like(a)
    return 2 * size**3 / _best(lambda: np.matmul(a, a, out=out), 0.2)


def _elementwise_rate(count: int) -> float:
    a = np.ones(count, np.float32)
    out = np.empty_like(a)
    return count / _best(lambda: np.multiply(a, a, out=out))


def _copy_rate(working_set: int) -> float:
    source = np.ones(working_set // 8, np.float32)
    target = np.empty_like(source)
    return 2 * source.nbytes / _best(lambda: np.copyto(target, source))


def _best(function: Callable[[], object], seconds: float = _SECONDS) -> float:
    """Seconds of the fastest of the calls that fit into a fixed time; short calls are timed in batches."""
    start = time.perf_counter()
    function()
    once = max(time.perf_counter() - start, 1e-7)
    batch = max(1, int(2e-5 / once))
    best = float("inf")
    end = time.perf_counter() + seconds
    while best == float("inf") or time.perf_counter() < end:
        start = time.perf_counter()
        for _ in range(batch):
            function()
        best = min(best, (time.perf_counter() - start) / batch)
    return max(best, 1e-9)
