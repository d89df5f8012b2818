"""Racing versions: whoever computes on a device of its own gets arguments that are there."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mcomp.backend import backend_named
from mcomp.plan.contest import race


class Called:
    """A program, or a model, that notes where its arguments are."""

    def __init__(self) -> None:
        self.devices: list[set[str]] = []

    def __call__(self, x: torch.Tensor, *, more: dict[str, Any]) -> None:
        self.devices.append({x.device.type, more["y"].device.type})
        assert more["name"] == "kept"

    def call(self, args: Any, kwargs: Any) -> None:
        self(*args, **kwargs)

    def buffers(self) -> list[torch.Tensor]:
        return []

    def reset_state(self) -> None:
        pass


def _workshop(model: Called, *, plain: bool) -> Any:
    x, y = torch.ones(2), torch.ones(3)
    return SimpleNamespace(
        model=model, captured=SimpleNamespace(program=object(), fallback=None),
        works=[SimpleNamespace(program_is_plain=plain)],
        example=((x,), {"more": {"y": y, "name": "kept"}}), settings=SimpleNamespace(target="cuda"),
        example_leaves=lambda work: [x, y],
    )


def _version() -> Any:
    program = Called()
    return SimpleNamespace(built=SimpleNamespace(program=program, programs=lambda: {"": program}))


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Devices that were waited for: target cuda computes on torch's device without memory here."""
    found: list[str] = []

    def module(device: str) -> Any:
        return SimpleNamespace(synchronize=lambda: found.append(device))

    monkeypatch.setattr(backend_named("cuda"), "home", lambda: "meta")
    monkeypatch.setattr(torch, "get_device_module", module)
    return found


@pytest.mark.parametrize("plain", [True, False])
def test_arguments_are_where_versions_compute(plain: bool, waits: list[str]) -> None:
    model, versions = Called(), [_version(), _version()]
    timing = race(_workshop(model, plain=plain), versions, original=True, budget=0.01)
    assert len(timing.seconds) == 3
    assert {"cpu"} in model.devices and {"meta"} not in model.devices
    for version in versions:
        assert version.built.program.devices and all(d == {"meta"} for d in version.built.program.devices)
    calls = len(model.devices) + sum(len(v.built.program.devices) for v in versions)
    assert waits == ["meta"] * calls


@pytest.mark.parametrize("plain", [True, False])
def test_in_main_memory_nothing_is_moved(plain: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Callable[[], object]] = []
    monkeypatch.setattr(torch, "get_device_module", lambda device: given.append(device))
    monkeypatch.setattr(backend_named("cuda"), "home", lambda: "cpu")
    model, version = Called(), _version()
    workshop = _workshop(model, plain=plain)
    race(workshop, [version], original=True, budget=0.01)
    assert not given and all(d == {"cpu"} for d in (*model.devices, *version.built.program.devices))
