"""What makes two searches the same: model, calibration data and options; the metric is taken on trust."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from mcomp.ir.printer import graph_text
from mcomp.plan.settings import Settings

_NAMED = ("dynamic", "target", "objective", "max_drop", "max_error", "exclude", "threads", "seed")


def identity_of(settings: Settings, works: Sequence[Any]) -> str:
    """A digest of captured graphs with their weights, calibration data, and the options that decide a search."""
    import torch

    h = hashlib.sha256()
    for work in works:
        h.update(f"{work.path}\n{graph_text(work.program.graph, digests=32)}\n".encode())
        for batch in work.calibration.batches:
            for leaf in batch:
                plain = leaf.detach().contiguous()
                h.update(f"{plain.dtype}{tuple(plain.shape)}".encode())
                h.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    options = {name: repr(getattr(settings, name)) for name in _NAMED}
    for path, student in sorted(settings.students.items()):
        h.update(f"{path}\n{student!r}\n".encode())
        for tensor in student.state_dict().values():
            h.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    layers = sorted((k, sorted(v.items())) for k, v in settings.layers.items())
    h.update(repr((sorted(options.items()), layers)).encode())
    return h.hexdigest()
