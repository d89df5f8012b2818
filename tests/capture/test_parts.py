"""Models that cannot be exported whole: their modules are captured, the code between stays eager."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.zoo_check import Interpreted
from mcomp.capture import capture
from mcomp.capture.parts import Host, capture_parts
from mcomp.ir.store import WeightStore


class Looks(nn.Module):
    """Its own code looks at values; so does one of its modules."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
        self.stubborn = Stubborn()
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
        self.unused = nn.Linear(1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        if x.sum() > 0:
            x = self.stubborn(x)
        for block in self.blocks:
            x = block(x)
        return x


class Stubborn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8)
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) * self.gain if x.max().item() > 0.1 else x


def test_the_largest_modules_that_can_be_captured() -> None:
    model = Looks().eval()
    found = capture(model, (torch.rand(2, 4) + 1,))
    assert found.program is None
    assert set(found.parts) == {"first", "stubborn.inner", "blocks.0", "blocks.1"}
    assert {one.path for one in found.eager} == {"", "stubborn"}
    assert all(one.reason and one.remedy for one in found.eager)


@pytest.mark.parametrize(("dynamic", "told"), [({"x": [0]}, True), (True, True), (None, False), (False, False)])
def test_sizes_that_the_user_names_are_not_those_of_parts(dynamic: Any, told: bool) -> None:
    found = capture(Looks().eval(), (torch.rand(2, 4) + 1,), dynamic=dynamic)
    assert found.program is None
    assert any("dynamic was not followed" in reason for _, reason, _ in found.notes) is told


def test_running_with_the_parts_installed() -> None:
    model = Looks().eval()
    found = capture(model, (torch.rand(2, 4) + 1,))
    calls = []

    def counted(path: str) -> Any:
        run = Interpreted(found.parts[path])

        def function(*args: Any, **kwargs: Any) -> Any:
            calls.append(path)
            return run(*args, **kwargs)

        return function

    for path in found.parts:
        found.install(path, counted(path))
    for batch in (2, 5):
        x = torch.rand(batch, 4) + 1
        with torch.no_grad():
            assert torch.allclose(found.fallback(x), model(x), atol=1e-6)  # type: ignore[misc]
    assert "blocks.1" in calls
    inputs = found.part_inputs([((torch.rand(3, 4),), {})])
    assert inputs["first"][0][0][0].shape == (3, 4)


def test_a_call_that_a_part_does_not_fit_runs_as_before() -> None:
    model = Looks().eval()
    found = capture(model, (torch.rand(2, 4) + 1,))

    def refuse(*args: Any, **kwargs: Any) -> Any:
        from mcomp.errors import CallError

        raise CallError("another structure")

    found.install("first", refuse)
    x = torch.rand(2, 4)
    with pytest.warns(UserWarning, match="first runs in eager mode"), torch.no_grad():
        assert torch.allclose(found.fallback(x), model(x))  # type: ignore[misc]


def test_buffers_are_as_before_after_recording() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(2, 2)
            self.register_buffer("count", torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.count += 1
            return self.fc(x) if self.count > 0 else x

    model = Counting().eval()
    found = capture(model, (torch.randn(2, 2),))
    assert set(found.parts) == {"fc"}
    assert float(model.count) == 0
    found.part_inputs([((torch.randn(2, 2),), {})])
    assert float(found.fallback.model.count) == 0  # type: ignore[union-attr]


class Reads(nn.Module):
    """Takes as many rows as a value says."""

    def forward(self, x: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
        rows = int(count.item())
        return x[:rows].sum(0) if rows > 2 else x.mean(0)


def test_a_model_that_reads_values_is_not_traced_again_for_other_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    export_once = torch.export.export

    def counted(*args: Any, **kwargs: Any) -> Any:
        tried.append(kwargs["strict"])
        return export_once(*args, **kwargs)

    monkeypatch.setattr(torch.export, "export", counted)
    found = capture(Reads().eval(), (torch.rand(4, 3), torch.tensor(3)))
    assert found.program is None and "data-dependent" in found.eager[0].reason
    assert tried == [False, True]


def test_no_module_is_tried_after_the_time_limit() -> None:
    model = Looks().eval()
    calls: list[Any] = [((torch.rand(2, 4) + 1,), {})]
    parts, eager = capture_parts(Host(model), calls, "it looks", dynamic=None, store=WeightStore(), time_limit=-1.0)
    assert not parts
    assert {one.path for one in eager} == {"", "first.0", "stubborn", "stubborn.inner", "blocks.0", "blocks.1"}
    assert all("seconds of trying" in one.reason for one in eager[1:])
