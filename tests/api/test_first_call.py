"""Models without example inputs: captured at the first call, made symbolic by the second, never compiled a third time."""

import threading
from typing import Any

import pytest
import torch
from torch import nn

import mcomp
import mcomp.plan.build
import mcomp.plan.firstcall
from mcomp.errors import CallError, McompError
from tests.api.models import net

Compiles = list[tuple[Any, ...]]


@pytest.fixture
def compiles(monkeypatch: pytest.MonkeyPatch) -> Compiles:
    """Filled with the arguments of every compilation."""
    calls: Compiles = []
    build = mcomp.plan.build.build

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return build(*args, **kwargs)

    monkeypatch.setattr(mcomp.plan.build, "build", counted)
    return calls


def test_another_size_compiles_once_more_and_never_again(compiles: Compiles) -> None:
    model = net()
    fast = mcomp.optimize(model, target="reference")
    assert not compiles
    for shape, count in [((2, 7, 16), 1), ((5, 7, 16), 1), ((2, 9, 16), 2), ((3, 12, 16), 2), ((1, 1, 16), 2)]:
        x = torch.randn(shape)
        torch.testing.assert_close(fast(x), model(x))
        assert len(compiles) == count
    assert "%x: f32[B, S, 16]" in str(fast.ir)


def test_arguments_that_the_model_lacks_or_refuses_are_errors_and_nothing_is_lost(compiles: Compiles) -> None:
    fast = mcomp.optimize(net(), target="reference")
    x = torch.randn(2, 16)
    expected = fast(x)
    for args, words in [((), "`x` is missing"), ((x, 1.0, x), "too many")]:
        with pytest.raises(CallError, match=words):
            fast(*args)
    assert len(compiles) == 1
    for args, words in [((x.double(),), "f64"), ((torch.randn(2, 15),), "dim 1 is 15, expected 16")]:
        with pytest.raises(CallError, match=words):
            fast(*args)
    before = len(compiles)
    torch.testing.assert_close(fast(x), expected)
    torch.testing.assert_close(fast(torch.cat([x, x]))[:2], expected)
    assert len(compiles) == before


class Any3(nn.Module):
    """Takes tensors of any element type and rank, alone or in a list."""

    def forward(self, x: Any) -> torch.Tensor:
        return sum(x[1:], x[0]) if isinstance(x, list) else x * 2


def test_another_structure_type_or_rank_is_captured_beside_the_others(compiles: Compiles) -> None:
    model = Any3().eval()
    fast = mcomp.optimize(model, target="reference")
    calls = [torch.randn(2, 3), torch.randn(2, 3).double(), torch.randn(2, 3, 4), [torch.randn(2), torch.randn(2)]]
    for _ in range(2):
        for x in calls:
            torch.testing.assert_close(fast(x), model(x))
    assert len(compiles) == 4
    fast(calls[1])
    assert any("another structure" in note for note in fast.report().notes)
    torch.testing.assert_close(fast(torch.randn(5, 3)).shape, torch.Size([5, 3]))


def test_no_more_than_a_few_programs_are_kept(compiles: Compiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mcomp.plan.firstcall, "MOST", 2)
    fast = mcomp.optimize(Any3().eval(), target="reference")
    fast(torch.randn(2, 3))
    fast(torch.randn(2, 3, 4))
    with pytest.raises(CallError, match="rank 1"):
        fast(torch.randn(2))
    assert len(compiles) == 2


class Fixed(nn.Module):
    """Depends on the size of axis 1 in Python."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * sum(range(x.shape[1])) if x.shape[1] > 3 else x + 1


def test_sizes_that_the_model_ties_down_are_kept_side_by_side(compiles: Compiles) -> None:
    model = Fixed().eval()
    fast = mcomp.optimize(model, target="reference")
    for size in (2, 5, 2, 5, 2):
        x = torch.randn(3, size)
        torch.testing.assert_close(fast(x), model(x))
    assert len(compiles) == 2


class Table(nn.Module):
    """Reads rows by index."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Embedding(10, 4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.rows(ids)


def test_bad_data_is_no_reason_to_compile(compiles: Compiles) -> None:
    fast = mcomp.optimize(Table().eval(), target="reference")
    fast(torch.tensor([[1, 2]]))
    with pytest.raises(McompError, match="rows"):
        fast(torch.tensor([[99, 2]]))
    assert len(compiles) == 1


def test_what_needs_a_captured_model_says_so_before() -> None:
    fast = mcomp.optimize(net(), target="reference")
    for use in (fast.report, lambda: fast.ir, lambda: fast.save("never.mcomp"), fast.reset_state):
        with pytest.raises(CallError, match=r"first call.*\n.*call it once"):
            use()
    assert "not captured yet" in repr(fast)


def test_threads_that_meet_at_the_first_call_compile_once(compiles: Compiles) -> None:
    model = net()
    fast = mcomp.optimize(model, target="reference")
    x = torch.randn(2, 16)
    results: list[torch.Tensor] = []
    threads = [threading.Thread(target=lambda: results.append(fast(x))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(compiles) == 1
    for result in results:
        torch.testing.assert_close(result, model(x))


def test_calibration_from_a_generator_serves_both_compilations(compiles: Compiles) -> None:
    batches = (torch.randn(2, 4, 16) for _ in range(2))
    fast = mcomp.optimize(net(), target="reference", calibration=batches, pipeline="quantize{bits=8}")
    fast(torch.randn(2, 7, 16))
    fast(torch.randn(2, 9, 16))
    assert len(compiles) == 1
    assert fast.report().pipeline == "quantize"


class Parity(nn.Module):
    """Another result for odd batches than for even ones."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.shape[0] % 2 else x * 3


@pytest.mark.parametrize("sizes", [(4, 3, 5, 4), (1, 2, 1)])
def test_a_branch_over_divisibility_is_not_taken_for_granted(compiles: Compiles, sizes: tuple[int, ...]) -> None:
    fast = mcomp.optimize(Parity().eval(), target="reference")
    for size in sizes:
        x = torch.randn(size, 3)
        torch.testing.assert_close(fast(x), Parity()(x))
    assert len(compiles) == len(set(sizes))
