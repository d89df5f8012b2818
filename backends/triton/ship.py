"""Kernels compiled ahead of time inside of an artifact: the entries of Triton's cache that its launches look for.

Whoever opens such a file must trust it. Its entries go to a folder of their own, under the hash of the content: only the
model that came with them looks there.
"""

from __future__ import annotations

import hashlib
import io
import json
import threading
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from mcomp.backends.triton.aot import Job, compile_jobs
from mcomp.errors import ArtifactError, BackendError

MOST_BYTES = 1 << 30
_GROUP = "__grp__"
"""What the names of Triton's lists of files begin with."""
_lock = threading.RLock()


def packed(jobs: Sequence[Job], folder: Path) -> bytes:
    """Kernels compiled into an empty folder, as one archive. Raises BackendError when one does not compile."""
    for compiled in compile_jobs(list(dict.fromkeys(jobs)), cache=folder):
        if compiled.error:
            raise BackendError(f"{compiled.name} does not compile for sm_{compiled.arch}: {compiled.error}", code="MC0604")
    return pack(folder)


def pack(folder: Path) -> bytes:
    """A folder as an archive; equal folders give equal archives."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            content = _listed(path, None) if path.name.startswith(_GROUP) else path.read_bytes()
            archive.writestr(zipfile.ZipInfo(path.relative_to(folder).as_posix()), content)
    return held.getvalue()


def unpack(content: bytes, under: Path) -> Path:
    """Unpack an archive to a folder named after its hash, once; returns the folder. Raises ArtifactError for one with names
    that lead elsewhere, or too large."""
    folder = under / hashlib.sha256(content).hexdigest()[:32]
    if (folder / "complete").exists():
        return folder
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(i.file_size for i in archive.infolist()) > MOST_BYTES:
                raise ArtifactError("its compiled kernels are too large", code="MC0703")
            for item in archive.infolist():
                name = PurePosixPath(item.filename)
                if name.is_absolute() or ".." in name.parts or "\\" in item.filename:
                    raise ArtifactError(f"its compiled kernels hold the name {item.filename}", code="MC0703")
                target = folder.joinpath(*name.parts)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.read(item))
    except zipfile.BadZipFile as e:
        raise ArtifactError(f"its compiled kernels cannot be read ({e})", code="MC0703") from e
    for group in folder.rglob(f"{_GROUP}*"):
        group.write_bytes(_listed(group, group.parent))
    (folder / "complete").touch()
    return folder


def _listed(group: Path, home: Path | None) -> bytes:
    """Triton's list of the files of one kernel, of those that lie beside it. It notes whole paths, of where it compiled;
    they become those under `home`, or names."""
    try:
        names = list(json.loads(group.read_text())["child_paths"])
    except (ValueError, KeyError, TypeError) as e:
        raise ArtifactError(f"its compiled kernels cannot be read ({group.name} is no list of files)", code="MC0703") from e
    held = {path.name for path in group.parent.iterdir()}
    return json.dumps({"child_paths": {n: str(home / n) if home else n for n in sorted(names) if n in held}}).encode()


def default_folder() -> Path:
    """Where shipped kernels are unpacked."""
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("mcomp")) / "triton" / "shipped"


@contextmanager
def looking_in(folder: Path | None) -> Iterator[None]:
    """Let Triton look for compiled kernels in a folder, for what this block launches first."""
    if folder is None:
        yield
        return
    import triton

    with _lock:
        before = triton.knobs.cache.dir
        triton.knobs.cache.dir = str(folder)
        try:
            yield
        finally:
            triton.knobs.cache.dir = before
