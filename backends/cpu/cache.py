"""Compiled code on disk, by content. Entries are written whole or not at all, and checked before they are loaded."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class CodeCache:
    """A folder of shared objects. An entry is `<key>.so` beside `<key>.sha256`, the hash of its bytes.

    An entry without its hash, or with another content, is as good as absent: it is built again and replaced. Two
    processes may build the same entry; the last one to finish wins, and both use a whole file.
    """

    def __init__(self, folder: Path | None = None) -> None:
        if folder is None:
            import platformdirs

            folder = Path(platformdirs.user_cache_dir("mcomp")) / "cpu"
        self.folder = folder

    def find(self, key: str) -> Path | None:
        """The checked entry of this key, or None."""
        path, sidecar = self._paths(key)
        try:
            expected = sidecar.read_text().strip()
            content = path.read_bytes()
        except OSError:
            return None
        return path if hashlib.sha256(content).hexdigest() == expected else None

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
