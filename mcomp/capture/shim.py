"""A module of flat tensors around the user's model, so that tracing never meets a container."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mcomp.capture import mutation, structure
from mcomp.capture.signature import Signature
from mcomp.capture.structure import Rebind, Spec

NUMBERS: dict[type, str] = {torch.SymInt: "int", torch.SymFloat: "float", torch.SymBool: "bool"}
PREFIX = "module."


@dataclass(frozen=True)
class Seen:
    """What the model returned, and what it did to the containers it was given, in terms of the flat results."""

    outputs: Spec
    rebinds: tuple[Rebind, ...]


class Shim(nn.Module):
    """Calls `module` with arguments built from flat tensors; returns the tensors of its result, then those that it put
    into containers of the caller. `calls` gets the structures of each call."""

    def __init__(self, model: nn.Module, signature: Signature, given: frozenset[str], inputs: Spec) -> None:
        super().__init__()
        self.module = model
        self.signature = signature
        self.given = given
        self.inputs = inputs
        self.calls: list[Seen] = []
        self.training = model.training

    def forward(self, *tensors: torch.Tensor) -> tuple[Any, ...]:
        arguments = structure.build(self.inputs, tensors)
        before = mutation.snapshots(self.inputs, arguments)
        args, kwargs = self.signature.unbind(arguments, self.given)
        result = self.module(*args, **kwargs)
        leaves: list[Any] = []
        same = {id(one.owner): one.path for one in before}
        outputs = structure.describe(result, leaves, same, NUMBERS)
        rebinds = mutation.changes(before, leaves, NUMBERS)
        self.calls.append(Seen(outputs, tuple(rebinds)))
        return tuple(leaves)
