"""Products of f32 by torch's libraries, kept in f32: they may round operands to TF32, which has 10 bits of fraction."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_lock = threading.Lock()
_inside = 0
_held: list[tuple[Any, str]] = []


@contextmanager
def full_precision() -> Iterator[None]:
    """Keep cuBLAS and cuDNN from TF32 for what this block starts. The setting belongs to the process: of blocks side by side
    the first sets it, the last restores it."""
    global _inside
    with _lock:
        _inside += 1
        if _inside == 1:
            _held.extend((s, s.fp32_precision) for s in _settings() if s.fp32_precision not in ("none", "ieee"))
            for setting, _ in _held:
                setting.fp32_precision = "ieee"
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                for setting, value in _held:
                    setting.fp32_precision = value
                _held.clear()


def _settings() -> list[Any]:
    """Where torch keeps the precision of products, of convolutions and of recurrent layers on CUDA devices."""
    import torch.backends.cudnn.rnn

    return [torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn]  # type: ignore[attr-defined]
