"""Compiled code on disk, by content. Entries are written whole or not at all, and checked before they are loaded."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class CodeCache:
    """A folder of shared objects. An entry is `<key>.so` beside `<key>.sha256`, the hash of its bytes.

    An entry without its hash, or with another content, is as good as absent: it is built again and replaced. Two
    processes may build the same entry; the last one to finish wins, and both use a whole file.

    `writable` is where to build: this cache, or, once writing to it failed, another one in a temporary folder.
    """

    def __init__(self, folder: Path | None = None) -> None:
        if folder is None:
            import platformdirs

            folder = Path(platformdirs.user_cache_dir("mcomp")) / "cpu"
        self.folder = folder
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._spare: CodeCache | None = None
        self._leaving = threading.Lock()

    @property
    def writable(self) -> CodeCache:
        """This cache, or what took its place."""
        return self._spare or self

    def leave(self, error: OSError) -> CodeCache:
        """A cache in a temporary folder, which lasts as long as this process, for one that cannot be written; the first
        time with a warning."""
        with self._leaving:
            if self._spare is None:
                warnings.warn(
                    f"compiled code cannot be kept in {self.folder} ({error}): every process builds its own, in a temporary "
                    "folder; XDG_CACHE_HOME moves the cache", stacklevel=4,
                )
                self._temporary = tempfile.TemporaryDirectory(prefix="mcomp-")
                self._spare = CodeCache(Path(self._temporary.name))
            return self._spare

    def find(self, key: str) -> Path | None:
        """The checked entry of this key, or None."""
        path, sidecar = self._paths(key)
        try:
            expected = sidecar.read_text().strip()
            if hashlib.sha256(path.read_bytes()).hexdigest() == expected:
                return path
        except OSError:
            pass
        return None if self._spare is None else self._spare.find(key)

    def keep(self, key: str, built: Path, source: str) -> Path:
        """Move a built object into the cache; returns its path there. The source is kept beside it, for people."""
        path, sidecar = self._paths(key)
        digest = hashlib.sha256(built.read_bytes()).hexdigest()
        note = built.with_name("note")
        note.write_text(digest + "\n")
        text = built.with_name("source")
        text.write_text(source)
        os.replace(text, path.with_suffix(".cpp"))
        os.replace(built, path)
        os.replace(note, sidecar)
        return path

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """A temporary folder on the cache's file system."""
        self.folder.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".building-", dir=self.folder))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def entries(self) -> list[Path]:
        """The shared objects held."""
        return sorted(self.folder.glob("*.so"))

    def clear(self) -> None:
        """Remove everything held."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _paths(self, key: str) -> tuple[Path, Path]:
        return self.folder / f"{key}.so", self.folder / f"{key}.sha256"
