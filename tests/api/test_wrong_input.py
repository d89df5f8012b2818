"""What users get wrong: each error names the place and the remedy, and nothing is lost."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mcomp
from mcomp.errors import BackendError, BudgetError, CallError, CaptureError, McompError, ParseError, PassError
from mcomp.manager.instruments import Verify
from tests.api.models import Net, net

X = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))


def optimize(*args: Any, **options: Any) -> Any:
    return mcomp.optimize(net(), *args, **{"target": "reference", **options})


def test_training_mode_names_the_module() -> None:
    with pytest.raises(CaptureError, match=r"the model itself.*\n.*model.eval\(\)"):
        mcomp.optimize(Net(), (X,))
    model = net()
    model.head.train()
    with pytest.raises(CaptureError, match=r"training mode \(head\)"):
        mcomp.optimize(model, (X,))


@pytest.mark.parametrize(("args", "kwargs", "error", "words"), [
    ([X], None, CaptureError, ["args is a list", "(x,)"]),
    ((), None, CallError, ["`x` is missing", "(x, scale=...)"]),
    (None, {"scale": X}, CallError, ["`x` is missing"]),
    ((X,), {"nope": X}, CallError, ["`nope`", "(x, scale=...)"]),
    ((X, X, X), None, CallError, ["too many", "(x, scale=...)"]),
    ((X,), [X], CaptureError, ["kwargs is list", "dict"]),
    ({"x": X}, None, CaptureError, ["fc1", "args is a dict", "kwargs=", "check shapes"]),
    ((torch.randn(3, 7),), None, CaptureError, ["fc1", "3x7", "check shapes"]),
    ((torch.zeros(3, 16, dtype=torch.int64),), None, CaptureError, ["fc1", "dtype", "check shapes"]),
])
def test_example_arguments(args: Any, kwargs: Any, error: type[McompError], words: list[str]) -> None:
    with pytest.raises(error) as caught:
        optimize(args, kwargs)
    for word in words:
        assert word in str(caught.value)


class Batch(torch.nn.Module):
    """Takes a dict as its one argument."""

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return batch["x"] * 2


def test_a_dict_may_be_the_argument() -> None:
    fast = mcomp.optimize(Batch().eval(), {"x": X}, target="reference")
    torch.testing.assert_close(fast({"x": X}), X * 2)


@pytest.mark.parametrize(("options", "error", "words"), [
    ({"target": "cpus"}, BackendError, ["cpus", "did you mean cpu?"]),
    ({"target": None}, BackendError, ["target is None", 'target="cpu"']),
    ({"target": torch.device("cpu")}, BackendError, ["target is device", 'target="cpu"']),
    ({"target": torch.device("cuda:0")}, BackendError, ["target is device", 'target="cuda"']),
    ({"objective": "speed"}, PassError, ["'speed'", "latency, size, memory"]),
    ({"pipeline": "qantize"}, PassError, ["qantize", "did you mean quantize?", "^"]),
    ({"pipeline": "quantize{bit=8}"}, PassError, ["has no option bit", "did you mean bits?", "^"]),
    ({"pipeline": "quantize{bits=lots}"}, PassError, ["bits is 'lots'", "int", "^"]),
    ({"pipeline": "fold,,dce"}, ParseError, ["expected a pass", "^"]),
    ({"pipeline": 3}, PassError, ["3 in a pipeline", "'fold,dce'"]),
    ({"layers": {"fc1": {"bitz": 4}}}, PassError, ["'bitz'", "layers['fc1']", "did you mean bits?"]),
    ({"layers": {"fc1": {"activations": "statc"}}}, PassError, ["'statc'", "layers['fc1']", "static"]),
    ({"layers": {"fc1": {"bits": "8"}}}, PassError, ["bits is '8'", "layers['fc1']", "int"]),
    ({"layers": {"fc1": {"quantize": 0}}}, PassError, ["quantize is 0", "layers['fc1']", "False"]),
    ({"layers": {"fc1": 4}}, PassError, ["'fc1': 4", "write layers="]),
    ({"layers": {"fc11": {"bits": 4}}}, PassError, ["'fc11'", "did you mean 'fc1'?"]),
    ({"exclude": ["hed"]}, PassError, ["'hed'", "did you mean 'head'?"]),
    ({"exclude": "head"}, PassError, ["exclude=['head']"]),
    ({"exclude": [1]}, PassError, ["no pattern"]),
    ({"exclude": 5}, PassError, ["exclude is 5", 'exclude=["encoder.*.fc1", "head"]']),
    ({"instruments": Verify()}, PassError, ["instruments is <", "instruments=[Verify()]"]),
    ({"instruments": [Verify]}, PassError, ["Verify", "instruments=[Verify()]"]),
    ({"seed": -1}, PassError, ["seed is -1", "0 or more"]),
    ({"seed": 1.5}, PassError, ["seed is 1.5", "seed=0"]),
    ({"seed": "a"}, PassError, ["seed is 'a'", "seed=0"]),
    ({"resume": 5}, PassError, ["resume is 5", "folder"]),
    ({"students": {"fc1": torch.nn.Linear}}, PassError, ["not an nn.Module", "students={'fc1': module}"]),
    ({"students": {"fc1": [net(), torch.nn.Linear]}}, PassError, ["not an nn.Module", "students={'fc1': module}"]),
    ({"students": {"fc1": []}}, PassError, ["no module for 'fc1'", "or a list of modules"]),
    ({"students": {1: net()}}, PassError, ["students has 1", 'students={"body": module}']),
    ({"threads": 0}, PassError, ["threads is 0", "write threads=4"]),
    ({"threads": "two"}, PassError, ["threads is 'two'"]),
    ({"time_limit": "soon"}, PassError, ["time_limit is 'soon'", "write time_limit=600"]),
    ({"time_limit": float("inf")}, PassError, ["time_limit is inf", "seconds"]),
    ({"max_drop": 0.1}, BudgetError, ["max_drop needs evaluate", "max_error"]),
    ({"max_error": -1}, BudgetError, ["max_error is -1", "write max_error=0.01"]),
    ({"max_error": float("nan")}, BudgetError, ["max_error is nan"]),
    ({"evaluate": 3, "max_drop": 0.1}, BudgetError, ["evaluate is int", "function"]),
    ({"dynamic": {"y": {0: "S"}}}, CaptureError, ["`y`", "there are: x"]),
    ({"dynamic": {"x": {5: "S"}}}, CaptureError, ["axis 5", "[3, 16]"]),
    ({"dynamic": "B"}, CaptureError, ["dynamic is 'B'", 'dynamic={"x": {1: "S"}}']),
    ({"dynamic": ["x"]}, CaptureError, ["dynamic is ['x']", 'dynamic={"x": {1: "S"}}']),
    ({"dynamic": {"x": 1}}, CaptureError, ["1 for `x`", '{"x": [1]}']),
    ({"dynamic": {"x": "S"}}, CaptureError, ["'S' for `x`", '{"x": [1]}']),
    ({"dynamic": {"x": {"S": 1}}}, CaptureError, ["{'S': 1} for `x`", '{"x": [1]}']),
    ({"dynamic": {0: {1: "S"}}}, CaptureError, ["dynamic has 0", 'dynamic={"x": {1: "S"}}']),
])
def test_options(options: dict[str, Any], error: type[McompError], words: list[str]) -> None:
    with pytest.raises(error) as caught:
        optimize((X,), **options)
    for word in words:
        assert word in str(caught.value)


def test_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    fast = optimize(
        (X,), evaluate=lambda model: 1.0, max_drop=np.float32(0.25), max_error=np.float16(0.5), threads=np.int64(1),
        time_limit=np.int64(60), seed=np.uint8(3), progress=False,
    )
    assert fast.report().budget == "evaluate drops at most 0.25 and output error at most 0.5"
    fast.save(tmp_path / "net.mcomp")
    assert mcomp.load(tmp_path / "net.mcomp", threads=np.int64(1))(X).shape == (3, 4)
    for wrong in ({"threads": np.bool_(True)}, {"threads": np.float32(1)}, {"max_error": np.float32("nan")}):
        with pytest.raises(McompError, match="number"):
            optimize((X,), **wrong)


def test_options_are_checked_before_the_first_call() -> None:
    with pytest.raises(PassError):
        optimize(pipeline="qantize")
    with pytest.raises(CaptureError, match="dynamic is 'B'"):
        optimize(dynamic="B")
    with pytest.raises(BudgetError, match="empty"):
        optimize(calibration=[], max_error=0.1)


def test_options_are_checked_before_calibration_data_is_drawn() -> None:
    drawn: list[int] = []
    with pytest.raises(PassError, match="seed"):
        optimize((X,), seed=-1, calibration=((drawn.append(i), X)[1:] for i in range(3)))
    assert drawn == []


def test_a_function_is_no_module() -> None:
    with pytest.raises(CaptureError, match=r"takes an nn.Module, not function"):
        mcomp.optimize(lambda x: x, (X,))  # type: ignore[arg-type]


def broken_generator() -> Iterator[Any]:
    yield (X,)
    raise TypeError("from the user's own generator")


@pytest.mark.parametrize(("calibration", "words"), [
    ([], ["empty", "at least one batch"]),
    (iter(()), ["empty", "used up"]),
    (3, ["calibration is int", "[(x,) for x in batches]"]),
    ([(X,), (X / 0,)], ["batch 1", "x holds NaN or infinity", "clean the data"]),
    ([{"x": X, "scale": X * float("inf")}], ["batch 0", "scale holds NaN or infinity"]),
    ([(X,), (torch.randn(3, 7),)], ["batch 1", "x", "dim 1 is 7, expected 16"]),
    ([(X.double(),)], ["batch 0", "f64", "f32"]),
    (X, ["batch 0", "rank 1"]),
    ([[X, torch.zeros(3), 7]], ["batch 0", "too many", "labels"]),
    ([(X, X)], ["batch 0", "scale", "labels"]),
    (["text"], ["batch 0", "'text'"]),
])
def test_calibration(calibration: Any, words: list[str]) -> None:
    with pytest.raises(BudgetError) as caught:
        optimize((X,), calibration=calibration, max_error=0.1)
    for word in words:
        assert word in str(caught.value)


def test_an_error_in_the_users_generator_is_the_users() -> None:
    with pytest.raises(TypeError, match="from the user's own generator"):
        optimize((X,), calibration=broken_generator(), max_error=0.1)


def test_infinity_in_example_arguments_is_no_calibration_data() -> None:
    mask = torch.tensor([0.0, float("-inf")]).repeat(8)
    fast = optimize((X + mask,))
    assert fast(X).shape == (3, 4)


@pytest.mark.parametrize(("result", "words"), [
    (ZeroDivisionError("boom"), ["raised ZeroDivisionError on original", "boom"]),
    (float("nan"), ["NaN or infinity on original"]),
    (float("inf"), ["NaN or infinity on original"]),
    (None, ["NoneType on original", "higher is better"]),
    ("good", ["str on original"]),
    ([], ["nothing on original"]),
])
def test_an_evaluate_that_fails_on_the_original(result: Any, words: list[str]) -> None:
    def evaluate(model: Any) -> Any:
        if isinstance(result, Exception):
            raise result
        return result

    with pytest.raises(BudgetError) as caught:
        optimize((X,), evaluate=evaluate, max_drop=0.1)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("failure", [ValueError("later"), None])
def test_an_evaluate_that_fails_later_keeps_the_best_model(failure: Any) -> None:
    calls: list[Any] = []

    def evaluate(model: Any) -> Any:
        calls.append(model)
        if len(calls) == 1:
            return 1.0
        if isinstance(failure, Exception):
            raise failure
        return failure

    fast = optimize((X,), evaluate=evaluate, max_drop=0.1, objective="size")
    torch.testing.assert_close(fast(X), net()(X))
    report = fast.report()
    assert report.kept.name == "lossless"
    assert any("the search ended early" in note for note in report.notes)


@pytest.mark.parametrize(("result", "words"), [
    ([1.0] * 3, "scores of 3 samples on int8, but scores of 4 samples on the original"),
    (1.0, "one number on int8, but scores of 4 samples on the original"),
])
def test_scores_of_other_samples_than_the_originals(result: Any, words: str) -> None:
    """They have no interval, and are not compared as if they had."""
    calls: list[Any] = []

    def evaluate(model: Any) -> Any:
        calls.append(model)
        return [1.0] * 4 if len(calls) == 1 else result

    report = optimize((X,), evaluate=evaluate, max_drop=0.1, objective="size").report()
    assert report.kept.name == "lossless"
    assert any(words in note for note in report.notes)
    assert any("the search ended early: evaluate returned" in note for note in report.notes)


def test_scores_without_a_budget_are_not_compared() -> None:
    calls: list[Any] = []

    def evaluate(model: Any) -> Any:
        calls.append(model)
        return [1.0] * (3 + len(calls))

    report = optimize((X,), evaluate=evaluate).report()
    assert report.kept.quality == 1.0 and not any("evaluate returned" in note for note in report.notes)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [1.0, float("nan")]])
def test_scores_that_are_not_finite_are_over_budget(value: Any) -> None:
    calls: list[Any] = []

    def evaluate(model: Any) -> Any:
        calls.append(model)
        return 1.0 if len(calls) == 1 else value

    report = optimize((X,), evaluate=evaluate, max_drop=0.1, objective="size").report()
    assert report.kept.name == "lossless" and report.within_budget is False
    assert next(s.verdict for s in report.stages if s.name == "int8") == "over budget: evaluate gave NaN or infinity"
    assert not any("ended early" in note for note in report.notes)
    assert str(report)


def test_an_interrupted_search_keeps_the_best_model() -> None:
    calls: list[Any] = []

    def evaluate(model: Any) -> float:
        calls.append(model)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return 1.0

    fast = optimize((X,), evaluate=evaluate, max_drop=0.1, objective="size")
    assert fast.report().kept.name == "lossless"
    assert any("interrupted" in note for note in fast.report().notes)
