"""States of a training on disk: written whole, read back only by the training that they are of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mcomp.errors import PassError
from mcomp.files import replacing

_VERSION = 1


def write_checkpoint(path: Path, identity: str, state: Mapping[str, Any]) -> None:
    """Write a state whole or not at all. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        torch.save({"version": _VERSION, "identity": identity, **state}, temporary)


def read_checkpoint(path: Path, identity: str) -> dict[str, Any] | None:
    """The state in a file; None when there is none, or when it is of another training (other model, data or options).

    Raises PassError when the file is no checkpoint. Nothing in it is executed.
    """
    if not path.exists():
        return None
    try:
        found = torch.load(path, weights_only=True)
    except Exception as e:
        raise PassError(
            f"{path.name} is no checkpoint that can be read: {e}", code="MC0224", help="remove it to start afresh",
        ) from e
    if not isinstance(found, dict) or found.get("version") != _VERSION or found.get("identity") != identity:
        return None
    return found
