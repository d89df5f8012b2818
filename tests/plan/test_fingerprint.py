"""What objects are made of, as a digest."""

import hashlib
import math
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import mcomp
from mcomp.manager import Pass, PassResult
from mcomp.plan.fingerprint import Fingerprint
from mcomp.plan.identity import identity_of
from mcomp.plan.settings import Settings


def digest(value: Any) -> str:
    h = hashlib.sha256()
    Fingerprint(h).add(value)
    return h.hexdigest()


def linear(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Linear(2, 2)


class Scaled(nn.Module):
    """Has a number that is in no state."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.factor


class Method:
    """A callable object."""

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self.me = self

    def __call__(self, x: Any) -> Any:
        return x * self.factor


def adding(number: float) -> Any:
    return lambda x: x + number


def made() -> dict[str, Any]:
    """Objects of which no two are the same."""
    return {
        "number": 1, "text": "1", "none": None, "array": np.arange(3), "other array": np.arange(3.0),
        "numpy number": np.float32(1), "other numpy number": np.float32(2), "tensor": torch.zeros(2),
        "other tensor": torch.ones(2), "module": linear(0), "other module": linear(1), "scaled": Scaled(1.0),
        "other scaled": Scaled(2.0), "function": lambda x: x.sin(), "other name": lambda x: x.cos(),
        "other constant": lambda x: x.sin() + 1, "nested": lambda x: [y + 1 for y in x],
        "other nested": lambda x: [y + 2 for y in x],
        "default": lambda x, a=1: x, "other default": lambda x, a=2: x, "closed": adding(1), "other closed": adding(2),
        "partial": partial(adding, 1), "other partial": partial(adding, 2), "object": Method(1), "other object": Method(2),
        "bound": Method(1).__call__, "other bound": Method(2).__call__, "built in": math.sin, "other built in": math.cos,
        "set": {"a", "b"}, "other set": {"a", "c"}, "list": [[1], [1]], "other list": [[1], [1, 1]], "class": Scaled,
        "other class": Method,
    }


def test_equal_things_have_equal_digests_and_others_do_not() -> None:
    first, second = ({name: digest(value) for name, value in made().items()} for _ in range(2))
    assert first == second
    assert len(set(first.values())) == len(first)


def test_digests_are_the_same_in_another_process() -> None:
    code = "from tests.plan.test_fingerprint import digest, made\nprint([digest(v) for v in made().values()])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str([digest(v) for v in made().values()])


@dataclass(frozen=True)
class Holder(Pass):
    """Holds something."""

    name = "test-holder"
    thing: Any = None

    def run(self, graph: Any, context: Any) -> PassResult:
        return PassResult(False)


def other_holder() -> type[Pass]:
    @dataclass(frozen=True)
    class Holder(Pass):
        """Holds something."""

        name = "test-holder"
        thing: Any = None

        def run(self, graph: Any, context: Any) -> PassResult:
            return PassResult(True)

    return Holder


def test_what_passes_hold_and_are_makes_another_search(monkeypatch: pytest.MonkeyPatch) -> None:
    def of(*pipeline: Any, **options: Any) -> str:
        return identity_of(Settings(pipeline=pipeline or None, **options), [])

    assert of(Holder(linear(0))) == of(Holder(linear(0)))
    assert of("fold", "quantize{bits=8}") == of("dce") == of()
    found = [of(Holder(linear(0))), of(Holder(linear(1))), of(Holder(torch.sin)), of(Holder(torch.cos)), of(Holder()),
             of(other_holder()()), of(), of(students={"": linear(0)}), of(students={"": linear(1)})]
    assert len(set(found)) == len(found)
    monkeypatch.setattr(mcomp, "__version__", "0.0.0")
    assert of() != found[6]
