"""Compiled code in this process: loading shared objects and calling their entry points."""

from __future__ import annotations

import ctypes
import hashlib
import os
import threading
from pathlib import Path

from mcomp.errors import BackendError

_LOADED: dict[bytes, Library] = {}
_LOADING = threading.Lock()

ABI = 1
"""Version of the entry points' signatures; `emit` describes them."""

_FOREIGN = "load the file without trust_code=True: then it is compiled on this machine"

Pointers = ctypes.POINTER(ctypes.c_void_p)
Numbers = ctypes.POINTER(ctypes.c_int64)


class Library:
    """A loaded shared object. `content` is its bytes, read when asked for. `help`: what to do where it does not load."""

    def __init__(self, path: Path, help: str | None = None) -> None:
        self.path = path
        try:
            self._code = ctypes.CDLL(str(path))
            abi = int(self._code.mcomp_abi())
        except (OSError, AttributeError) as e:
            raise BackendError(f"compiled code cannot be loaded: {e}", code="MC0604", help=help) from e
        if abi != ABI:
            raise BackendError(f"compiled code has interface {abi}, not {ABI}", code="MC0604",
                               help="compile the model again with this version of mcomp")
        self._content: bytes | None = None

    @classmethod
    def from_bytes(cls, content: bytes) -> Library:
        """Load code that is no file (from an artifact). It stays loaded; the same code is loaded once."""
        digest = hashlib.sha256(content).digest()
        with _LOADING:
            if digest not in _LOADED:
                _LOADED[digest] = cls._from_bytes(content)
            return _LOADED[digest]

    @classmethod
    def _from_bytes(cls, content: bytes) -> Library:
        if hasattr(os, "memfd_create"):  # the descriptor stays open: its number is the library's name to the loader
            handle = os.memfd_create("mcomp")
            with open(handle, "wb", closefd=False) as file:
                file.write(content)
            library = cls(Path(f"/proc/self/fd/{handle}"), _FOREIGN)
        else:
            import tempfile

            handle, name = tempfile.mkstemp(prefix="mcomp-", suffix=".so")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(content)
                library = cls(Path(name), _FOREIGN)
            finally:
                os.unlink(name)
        library._content = content
        return library

    @property
    def content(self) -> bytes:
        """The shared object itself."""
        if self._content is None:
            self._content = self.path.read_bytes()
        return self._content

    def key(self) -> str:
        """What source the code was made from, as `emit.Source.key` says."""
        function = self._code.mcomp_key
        function.restype = ctypes.c_char_p
        return bytes(function()).decode("ascii", "replace")

    def entry(self, prefix: str) -> Entry:
        """The entry points of one segment."""
        try:
            return Entry(self._code, prefix)
        except AttributeError as e:
            raise BackendError(f"compiled code lacks {prefix}: it is of another model", code="MC0604") from e


class Entry:
    """The functions of one segment; see `emit` for their meaning."""

    def __init__(self, code: ctypes.CDLL, prefix: str) -> None:
        self._plan = code[f"{prefix}plan"]
        self._plan.restype = ctypes.c_int64
        self._plan.argtypes = [Numbers, ctypes.c_int64, Numbers, Numbers]
        self.run = code[f"{prefix}run"]
        self.run.restype = ctypes.c_int32
        self.run.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32]
        self._profile = code[f"{prefix}profile"]
        self._profile.restype = ctypes.c_int32
        self._profile.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32, ctypes.POINTER(ctypes.c_double)]

    def plan(self, symbols: list[int], workers: int, numbers: int, buffers: int) -> tuple[ctypes.Array, list[int], int]:
        """The numbers of all steps, the arena's offsets, the arena's bytes."""
        sym = (ctypes.c_int64 * max(1, len(symbols)))(*symbols)
        table = (ctypes.c_int64 * max(1, numbers))()
        offsets = (ctypes.c_int64 * max(1, buffers))()
        total = int(self._plan(sym, workers, table, offsets))
        return table, list(offsets)[:buffers], total

    def profile(self, slots: int, numbers: int, threads: int, steps: int) -> tuple[int, list[float]]:
        """Run once with every step timed: the fault and the microseconds."""
        times = (ctypes.c_double * max(1, steps))()
        fault = int(self._profile(slots, numbers, threads, times))
        return fault, list(times)[:steps]
