"""How many threads pay on this machine."""

from __future__ import annotations

import os
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def available_threads() -> int:
    """Cores that this process may use: those that it may be scheduled on, and no more than its control group (v2) gives it
    time for, in whole cores, one at least."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    allowed = _allowed_cores()
    return cores if allowed is None else max(1, min(cores, int(allowed)))


def _allowed_cores() -> float | None:
    """The least of what `cpu.max` of this process's control group and those above it allow; None without a limit."""
    try:
        lines = _OWN.read_text().splitlines()
    except OSError:
        return None
    own = next((line[len("0::"):] for line in lines if line.startswith("0::")), None)
    if own is None:
        return None
    folder = _GROUPS / own.lstrip("/")
    limits = [_limit(group / "cpu.max") for group in (folder, *folder.parents) if group.is_relative_to(_GROUPS)]
    return min((limit for limit in limits if limit is not None), default=None)


def _limit(file: Path) -> float | None:
    """`quota period` in microseconds as cores; None for `max`, and where there is no such file."""
    try:
        quota, period = file.read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None
