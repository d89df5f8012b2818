"""Writing files whole or not at all."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place when the block ends without an exception, with the rights that a
    new file gets; else it is removed, and what was at `path` stays. Raises OSError."""
    temporary = path.parent / f".{path.name}.{secrets.token_hex(8)}.partial"
    made = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)  # less what the process's umask takes
    rights = stat.S_IMODE(os.fstat(made).st_mode)
    os.close(made)
    try:
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.chmod(temporary, rights)  # some libraries put a file of their own there
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all, with the folders above it. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


