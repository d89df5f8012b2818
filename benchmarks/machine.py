"""What a measurement was made on, without anything that names a person or a place."""

from __future__ import annotations

import datetime
import functools
import os
import platform
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ISA_FLAGS = ("avx2", "fma", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8")


def _cpu_fields() -> dict[str, str]:
    """Fields of the first processor in the kernel's list, empty where there is no such list."""
    try:
        with open("/proc/cpuinfo", encoding="utf8") as lines:
            pairs = (line.split(":", 1) for line in lines if ":" in line)
            fields: dict[str, str] = {}
            for key, value in pairs:
                fields.setdefault(key.strip(), value.strip())
            return fields
    except FileNotFoundError:
        return {}


def _compiler() -> str | None:
    try:
        shown = subprocess.run(["c++", "--version"], capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        return None
    return shown.splitlines()[0] if shown else None


@functools.cache
def revision() -> str | None:
    """What `git describe` calls this code, as it was when first asked; None without git or outside of a repository."""
    command = ["git", "describe", "--always", "--dirty"]
    try:
        shown = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return shown.stdout.strip() or None


def today() -> str:
    """The date in UTC, as 2026-01-31."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def conditions(made: Mapping[str, Any]) -> str:
    """What `describe` found, in words."""
    cpu = f"{made['cpu']} ({', '.join(made['isa'])})"
    return f"{cpu}, {made['cores']} cores, {made['threads']} threads, Python {made['python']}"


def available_memory() -> float:
    """The share of the memory that new processes could have; 1 where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf8").splitlines()
    except FileNotFoundError:
        return 1.0
    kib = {name: float(value.split()[0]) for name, _, value in (line.partition(":") for line in lines)}
    return kib["MemAvailable"] / kib["MemTotal"]


def describe(threads: int) -> dict[str, Any]:
    """CPU, instruction sets, cores, threads used, operating system, Python, C++ compiler and load at this moment."""
    fields = _cpu_fields()
    flags = set(fields.get("flags", fields.get("Features", "")).split())
    affinity = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return {
        "cpu": fields.get("model name", platform.processor() or platform.machine()),
        "family_model_stepping": "/".join(fields.get(k, "?") for k in ("cpu family", "model", "stepping")),
        "isa": [flag for flag in ISA_FLAGS if flag in flags],
        "cores": len(affinity),
        "threads": threads,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "compiler": _compiler(),
        "load_average": os.getloadavg()[0],
    }


def provenance(benchmark: str, words: Sequence[str], threads: int) -> dict[str, Any]:
    """What figures were made by, on what and when."""
    command = command_of(benchmark, words)
    return {"command": command, "machine": describe(threads), "commit": revision(), "date": today()}


def command_of(benchmark: str, words: Sequence[str]) -> str:
    """The command line without this machine's paths: the words after options that take a place become DIR and OUT."""
    places = {"--data": "DIR", "--kept": "DIR", "--json": "OUT", "--results": "OUT"}
    shown = [places.get(before, word) for before, word in zip(["", *words], words, strict=False)]
    return f"python -m benchmarks.{benchmark} {shlex.join(shown)}"
