"""Workshops of small models, as `optimize` makes them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mcomp.capture import capture
from mcomp.plan.build import works_of
from mcomp.plan.progress import Progress
from mcomp.plan.settings import Settings
from mcomp.plan.work import Workshop


def shop_of(model: nn.Module, args: tuple[torch.Tensor, ...], **options: Any) -> Workshop:
    """A workshop for target reference; options are those of `Settings`, `calibration` a list of argument tuples."""
    calls = [(given, {}) for given in options.pop("calibration", ())]
    settings = Settings(target="reference", progress=False, calibration=calls or None, **options)
    captured = capture(model, args)
    return Workshop(model, captured, works_of(captured, calls, args, {}), (args, {}), settings, Progress(False))
