"""types.hpp and threads.hpp: conversions against torch, barriers, nesting, fork, unloading."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from kernel_harness import each_isa, i64, load, ptr


def corner_values() -> np.ndarray:
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 20000, dtype=np.uint64).astype(np.uint32).view(np.float32)
    near = (rng.standard_normal(20000) * np.exp(rng.uniform(-25, 14, 20000))).astype(np.float32)
    ties = (np.arange(-2048, 2048) / 16).astype(np.float32)
    edge = np.array(
        [
            0.0,
            -0.0,
            np.inf,
            -np.inf,
            np.nan,
            448,
            449,
            463.9,
            464,
            464.1,
            480,
            -480,
            57344,
            61439,
            61440,
            65504,
            65519.9,
            65520,
            2**-24,
            2**-25,
            1.5 * 2**-25,
            2**-16,
            2**-17,
            2**-9,
            2**-10,
            1.5 * 2**-10,
            1e-45,
            3.4e38,
        ],
        dtype=np.float32,
    )
    return np.concatenate([bits, near, ties, edge])


@each_isa
@pytest.mark.parametrize(
    ("name", "dtype", "raw"),
    [
        ("bf16", torch.bfloat16, np.uint16),
        ("f16", torch.float16, np.uint16),
        ("e4m3", torch.float8_e4m3fn, np.uint8),
        ("e5m2", torch.float8_e5m2, np.uint8),
    ],
)
def test_small_floats_agree_with_torch(isa: str, name: str, dtype: torch.dtype, raw: type) -> None:
    lib = load("base_driver", isa)
    x = corner_values()
    if name == "e4m3":  # what torch makes of larger magnitudes differs between its versions
        x = x[~(np.abs(x) > 464)]
    got = np.zeros(x.size, dtype=raw)
    getattr(lib, f"{name}_from_f32")(ptr(got), ptr(x), *i64(x.size))
    back = torch.from_numpy(got).view(dtype).float().numpy()
    want = torch.from_numpy(x).to(dtype).float().numpy()
    np.testing.assert_array_equal(back, want)
    every = np.arange(2 ** (8 * np.dtype(raw).itemsize)).astype(raw)
    wide = np.zeros(every.size, dtype=np.float32)
    getattr(lib, f"{name}_to_f32")(ptr(wide), ptr(every), *i64(every.size))
    np.testing.assert_array_equal(wide, torch.from_numpy(every).view(dtype).float().numpy())


@each_isa
def test_e4m3_saturates(isa: str) -> None:
    x = np.array([464.1, 1e9, np.inf, -500.0, -np.inf, np.nan], dtype=np.float32)
    got = np.zeros(x.size, dtype=np.uint8)
    load("base_driver", isa).e4m3_from_f32(ptr(got), ptr(x), *i64(x.size))
    assert got.tolist() == [0x7E, 0x7E, 0x7E, 0xFE, 0xFE, 0x7F]


@each_isa
def test_vector_helpers(isa: str) -> None:
    lib = load("base_driver", isa)
    x = np.concatenate([np.arange(-40, 40) / 4, [0.49999997, -0.49999997, 8388609.0, 1e20, -0.0, np.inf]]).astype(
        np.float32
    )
    got = np.zeros_like(x)
    lib.round_f32(ptr(got), ptr(x), *i64(x.size))
    np.testing.assert_array_equal(got, np.rint(x))
    lib.sum_f32.restype = lib.max_f32.restype = ctypes.c_float
    y = np.arange(1, 64, dtype=np.float32)
    for n in (0, 1, 7, 16, 33, 63):
        assert lib.sum_f32(ptr(y), *i64(n)) == n * (n + 1) / 2
    assert lib.max_f32(ptr(-y)) == -1.0
    special = np.array([-1.0, 300.7, 254.9, 0.5, -0.0, np.nan], dtype=np.float32)
    bytes_ = np.zeros(5, dtype=np.uint8)
    lib.u8_from_f32(ptr(bytes_), ptr(special), *i64(5))
    assert bytes_.tolist() == [255, 44, 254, 0, 0]
    bools = np.zeros(6, dtype=np.bool_)
    lib.bool_from_f32(ptr(bools), ptr(special), *i64(6))
    assert bools.tolist() == [True, True, True, True, False, True]


def count_phases(lib: ctypes.CDLL, threads: int, n: int, rounds: int) -> tuple[int, int]:
    lib.count_phases.restype = ctypes.c_int64
    counters = np.zeros(max(n, 1), dtype=np.int64)
    workers = ctypes.c_int(0)
    wrong = lib.count_phases(threads, *i64(n, rounds), ptr(counters), ctypes.byref(workers))
    return wrong, workers.value


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_barriers_order_phases(threads: int) -> None:
    lib = load("base_driver", "portable")
    for n in (0, 1, 40):
        assert count_phases(lib, threads, n, 50) == (0, threads)


def test_nested_and_concurrent_calls_run_alone() -> None:
    lib = load("base_driver", "portable")
    assert lib.nested_workers(3) == 1
    results: list[tuple[int, int]] = []
    callers = [threading.Thread(target=lambda: results.append(count_phases(lib, 2, 24, 200))) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert [wrong for wrong, _ in results] == [0] * 4
    assert all(1 <= workers <= 2 for _, workers in results)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_threads_leave_each_others_core() -> None:
    lib = load("base_driver", "portable")
    shared = 0
    for _ in range(50):
        lib.on_one_core(1)
        shared += lib.on_one_core(0)
    assert shared < 25  # nearly always, if they stayed; the system may still put them together now and then


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_a_thread_that_left_a_core_is_not_woken_there() -> None:
    lib = load("base_driver", "portable")
    before = os.sched_getaffinity(0)
    lib.on_one_core(1)  # starts it
    os.sched_setaffinity(0, {min(before)})
    try:
        found = set()
        for _ in range(50):
            lib.on_one_core(1)  # the next region may find it there
            found.add(lib.may_share())
        assert 0 in found
    finally:
        os.sched_setaffinity(0, before)


def test_short_regions_take_threads_only_while_they_are_awake() -> None:
    lib = load("base_driver", "portable")
    in_a_row = (count_phases(lib, -2, 8, 2) for _ in range(20_000))
    assert any(found == (0, 2) for found in in_a_row)

    def after_a_rest() -> tuple[int, int]:
        time.sleep(0.02)
        return count_phases(lib, -2, 8, 2)

    assert any(found == (0, 1) for found in (after_a_rest() for _ in range(100)))


def test_shares_cover_everything_once() -> None:
    lib = load("base_driver", "portable")
    out = np.zeros(2, dtype=np.int64)
    for n in (0, 1, 5, 64, 1000):
        for grain in (1, 4, 32):
            for count in (1, 2, 7):
                position = 0
                for worker in range(count):
                    lib.share_of(*i64(n, grain), worker, count, ptr(out))
                    assert out[0] == position and out[1] >= out[0]
                    assert out[1] == n or out[1] % grain == 0
                    position = int(out[1])
                assert position == n


SUBPROCESS = """
import ctypes, os, sys, _ctypes
lib = ctypes.CDLL(sys.argv[1])
lib.empty_regions(3, ctypes.c_int64(5), ctypes.c_int64(3))
assert lib.pool_threads() == 2
pid = os.fork()
if pid == 0:
    assert lib.pool_threads() == 0
    lib.empty_regions(3, ctypes.c_int64(5), ctypes.c_int64(3))
    assert lib.pool_threads() == 2
    sys.exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
lib.empty_regions(3, ctypes.c_int64(5), ctypes.c_int64(3))
before = len(os.listdir("/proc/self/task"))
_ctypes.dlclose(lib._handle)
assert len(os.listdir("/proc/self/task")) == before - 2
again = ctypes.CDLL(sys.argv[1])
again.empty_regions(2, ctypes.c_int64(5), ctypes.c_int64(3))
print("done")
"""


def test_pool_survives_fork_unloading_and_exit() -> None:
    if not hasattr(os, "fork") or not Path("/proc/self/task").exists():
        pytest.skip("needs fork and /proc")
    path = load("base_driver", "portable")._name
    done = subprocess.run(
        [sys.executable, "-c", SUBPROCESS, path], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "done"), done.stderr
