"""Calls and results: keyword arguments, containers, state, the module view, what can be looked at."""

import json
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import mcomp
from mcomp.errors import CallError
from tests.api.models import Answer, Net, Structured, net

X = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
SCALE = torch.rand(32)


@pytest.fixture(scope="module")
def fast() -> mcomp.CompiledModel:
    return mcomp.optimize(net(), (X,), {"scale": SCALE}, target="reference")


def test_positional_and_keyword_arguments_meet(fast: mcomp.CompiledModel) -> None:
    expected = net()(X, SCALE)
    for result in (fast(X, SCALE), fast(X, scale=SCALE), fast(x=X, scale=SCALE), fast(scale=SCALE, x=X)):
        torch.testing.assert_close(result, expected)
    with pytest.raises(CallError, match="given twice"):
        fast(X, SCALE, x=X)


@pytest.mark.parametrize("form", ["tuple", "dict", "dataclass", "nested"])
def test_results_have_the_containers_of_the_model(form: str) -> None:
    model = Structured(form).eval()
    found, expected = mcomp.optimize(model, X, target="reference")(X), model(X)
    assert type(found) is type(expected)
    if form == "dataclass":
        assert isinstance(found, Answer)
        torch.testing.assert_close((found.logits, found.hidden), (expected.logits, expected.hidden))
    else:
        torch.testing.assert_close(found, expected)


def test_weights_are_copied() -> None:
    model = net()
    fast = mcomp.optimize(model, (X,), target="reference")
    expected = model(X)
    with torch.no_grad():
        model.fc1.weight.zero_()
    torch.testing.assert_close(fast(X), expected)


def test_the_module_view_stands_in_for_the_model(fast: mcomp.CompiledModel) -> None:
    module, model = fast.module(), net()
    assert isinstance(module, nn.Module)
    assert module.note == "forwarded"
    assert not module.eval().training
    assert sum(p.numel() for p in module.parameters()) == sum(p.numel() for p in model.parameters())
    assert not any(p.requires_grad for p in module.parameters())
    assert [n for n, _ in module.named_parameters()] == [n for n, _ in model.named_parameters()]
    torch.testing.assert_close(module(X, scale=SCALE), model(X, SCALE))
    for use in (module.train, lambda: module.to(torch.float64), lambda: module.to("meta")):
        with pytest.raises(CallError):
            use()


def test_threads(fast: mcomp.CompiledModel) -> None:
    inputs = [torch.randn(n, 16) for n in (1, 2, 5)]
    expected = [fast(x, SCALE) for x in inputs]
    wrong: list[int] = []

    def work(i: int) -> None:
        wrong.extend(i for _ in range(10) if not torch.allclose(fast(inputs[i], SCALE), expected[i]))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_dump_writes_what_there_is_to_read(fast: mcomp.CompiledModel, tmp_path: Path) -> None:
    written = fast.dump(tmp_path / "dump")
    names = {p.name for p in written}
    assert {"model.mir", "model.lowered.mir", "report.txt", "report.json"} <= names
    assert (tmp_path / "dump" / "model.mir").read_text().startswith("graph @main")
    data = json.loads((tmp_path / "dump" / "report.json").read_text())
    assert data == fast.report().to_json()


class Counter(nn.Module):
    """Counts its calls in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x * self.calls


def test_state_starts_where_the_model_was() -> None:
    model = Counter().eval()
    fast = mcomp.optimize(model, (X,), target="reference")
    assert float(model.calls) == 0
    assert [float(fast(torch.ones(1, 16))[0, 0]) for _ in range(3)] == [1, 2, 3]
    fast.reset_state()
    assert float(fast(torch.ones(1, 16))[0, 0]) == 1


class Branches(nn.Module):
    """Decides by the values of a tensor, which cannot be exported whole."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(16, 16), nn.ReLU())
        self.second = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.first(x)
        for _ in range(int(h.sum().item()) % 3):
            h = h + 1
        return self.second(h)


def test_a_model_with_eager_parts_runs_reports_them_and_says_why_it_cannot_be_saved(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Branches().eval()
    fast = mcomp.optimize(model, (X,), target="reference", calibration=[(X,), (X + 1,)], max_error=0.5)
    for x in (X, X + 1, torch.randn(5, 16)):
        torch.testing.assert_close(fast(x), model(x), rtol=0.5, atol=0.5)
    report = fast.report()
    assert report.eager_modules
    assert report.eager_modules[0].reason
    assert "eager" in str(report)
    assert set(fast.ir) == {"first", "second"}
    with pytest.raises(mcomp.errors.ArtifactError, match="eager parts cannot be saved"):
        fast.save(tmp_path / "model.mcomp")
    assert not list(tmp_path.iterdir())


def test_numpy_in_numpy_out(fast: mcomp.CompiledModel) -> None:
    found = fast(X.numpy(), SCALE.numpy())
    assert isinstance(found, np.ndarray)
    np.testing.assert_allclose(found, net()(X, SCALE).detach().numpy(), rtol=1e-5, atol=1e-6)


def test_dynamic_sizes_by_name() -> None:
    model = Net().eval()
    fast = mcomp.optimize(model, (torch.randn(2, 5, 16),), target="reference", dynamic={"x": {1: ("L", 1, 8)}})
    x = torch.randn(3, 8, 16)
    torch.testing.assert_close(fast(x), model(x))
    with pytest.raises(CallError, match="L = 9, but L must be from 1 to 8"):
        fast(torch.randn(3, 9, 16))
