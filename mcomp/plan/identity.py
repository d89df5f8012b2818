"""What makes two searches the same: model, calibration data, options, what passes of a pipeline hold, and mcomp's version;
the metric is taken on trust."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

from mcomp.ir.printer import graph_text
from mcomp.manager.pipeline import passes_of
from mcomp.plan.fingerprint import Fingerprint, is_plain
from mcomp.plan.settings import Settings

_NAMED = ("dynamic", "target", "objective", "max_drop", "max_error", "exclude", "threads", "seed")


def identity_of(settings: Settings, works: Sequence[Any]) -> str:
    """A digest of captured graphs with their weights, calibration data, and the options that decide a search. The text of a
    pipeline is not in it, since what was made is kept by that, but what the text does not tell is: modules, functions, and
    the code of passes that are not mcomp's."""
    import torch

    from mcomp import __version__

    h = hashlib.sha256(f"{__version__}\n".encode())
    for work in works:
        h.update(f"{work.path}\n{graph_text(work.program.graph, digests=32)}\n".encode())
        for batch in work.calibration.batches:
            for leaf in batch:
                plain = leaf.detach().contiguous()
                h.update(f"{plain.dtype}{tuple(plain.shape)}".encode())
                h.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    options = {name: repr(getattr(settings, name)) for name in _NAMED}
    fingerprint = Fingerprint(h)
    for path, some in sorted(settings.students.items()):
        for student in some:
            fingerprint.add(path)
            fingerprint.add(student)
    for item in passes_of(settings.steps()):
        fingerprint.add_code(type(item))
        for f in dataclasses.fields(item):  # type: ignore[arg-type]
            value = getattr(item, f.name)
            if not is_plain(value):
                fingerprint.add(f"{item.name}.{f.name}")
                fingerprint.add(value)
    layers = sorted((k, sorted(v.items())) for k, v in settings.layers.items())
    h.update(repr((sorted(options.items()), layers)).encode())
    return h.hexdigest()
