"""What a student is taught, and on what: kinds of outputs, rows of samples, errors, and the states that torch is in."""

import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mcomp.ir import Graph, TensorType, dtypes, parse_graph, verify
from mcomp.manager import Context, PassManager
from mcomp.manager.context import DEADLINE, TRAINED
from mcomp.ops.encoded import array_of
from mcomp.passes.compress.distill import Distill
from mcomp.passes.compress.finetune import Options, finetune
from mcomp.passes.compress.reconstruct import reconstruct
from mcomp.passes.compress.region import region_at
from mcomp.passes.compress.samples import error_by_row
from mcomp.passes.compress.teaching import held_error
from mcomp.passes.compress.training.augment import augmentation
from mcomp.passes.compress.training.data import Samples
from mcomp.passes.compress.training.objective import Objective, kinds_of
from mcomp.passes.compress.training.rows import told_apart
from mcomp.passes.compress.training.tasks import Matching, taught_values
from mcomp.passes.compress.training.trainer import Recipe
from mcomp.passes.compress.training.view import TrainableGraph
from mcomp.runtime.calibration import Calibration
from tests.compress.graphs import random
from tests.compress.test_distill import MLP, Damage, layers, worse

FEW = Recipe(rate=3e-3, steps=20)


def ending(body: str, output: str) -> Graph:
    """A linear layer from x [B, T, 4] to h [B, T, 3], and what is made of it."""
    return parse_graph(f"""
graph @g[B in 1.., T in 1..](%x: f32[B, T, 4]) -> ({output}) {{
  %w = const @fc.weight#seed=1 : f32[3, 4]
  %h = linear %x, %w : f32[B, T, 3]
{body}
  return %y
}}
""", generate=True)


@pytest.mark.parametrize(("body", "output", "kind"), [
    ("%y = reshape %h {shape = [B*T, 3]} : f32[B*T, 3]", "f32[B*T, 3]", "kl"),
    ("%y = permute %h {order = [1, 0, 2]} : f32[T, B, 3]", "f32[T, B, 3]", "kl"),
    ("%y = select %h {axis = 1, index = 0} : f32[B, 3]", "f32[B, 3]", "kl"),
    ("%y = permute %h {order = [0, 2, 1]} : f32[B, 3, T]", "f32[B, 3, T]", "mse"),
    ("%y = select %h {axis = 2, index = 0} : f32[B, T]", "f32[B, T]", "mse"),
    ("%y = reshape %h {shape = [B, 3*T]} : f32[B, 3*T]", "f32[B, 3*T]", "mse"),
    ("%y = log_softmax %h {axis = 1} : f32[B, T, 3]", "f32[B, T, 3]", "mse"),
])
def test_classes_lie_along_the_last_axis(body: str, output: str, kind: str) -> None:
    assert kinds_of(ending("  " + body, output).outputs, "auto") == (kind,)


@pytest.mark.parametrize(("view", "axes"), [("squeeze", "{axes = [1]}"), ("select", "{axis = 1, index = 0}"),
                                            ("reshape", "{shape = [B]}")])
def test_a_number_for_each_sample_is_no_score(view: str, axes: str) -> None:
    graph = parse_graph(f"""
graph @g[B in 1..](%x: f32[B, 4]) -> (f32[B]) {{
  %w = const @fc.weight#seed=1 : f32[1, 4]
  %h = linear %x, %w : f32[B, 1]
  %y = {view} %h {axes} : f32[B]
  return %y
}}
""", generate=True)
    assert kinds_of(graph.outputs, "auto") == ("mse",)


# the states that torch is in

@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_training_trains_whatever_is_switched_off(mode: Any) -> None:
    torch.manual_seed(0)
    graph, dense = worse(MLP)
    blocks, whole = worse(layers())
    with mode():
        report = finetune(graph, dense, Calibration([[torch.randn(96, 8)]]), recipe=FEW)
        first, *_ = reconstruct(blocks, whole, Calibration([[torch.randn(i, 8)] for i in (9, 70)]), recipe=FEW)
        assert not torch.is_grad_enabled()
    assert report.changed and first.changed


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_students_learn_whatever_is_switched_off(mode: Any) -> None:
    graph, student = parse_graph(MLP, generate=True), nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))
    with mode():
        step = Distill(student=student, steps=20, rate=1e-2, max_error=50.0)
        context = Context(calibration=Calibration([[torch.randn(96, 8)]]))
        PassManager([step]).run(graph, context)
    assert context.shared[TRAINED][0].improved


# element types

def halves(kind: dtypes.DType, seed: int) -> Graph:
    """A linear layer of rounded inputs, all in 16 bits."""
    graph = Graph("g")
    x = graph.add_input("x", TensorType((6, 16), kind))
    with graph.edit("make") as editor:
        values = (0.3 * random(8, 16, seed=seed) + random(8, 16)).to(dtypes.to_torch(kind))
        weight = editor.const(array_of(values), type=TensorType((8, 16), kind), name="fc.weight")
        rounded = editor.add("quantize", [x], {"dtype": dtypes.i8, "scale": 0.02}).result
        y = editor.add("linear", [rounded, weight]).result
    graph.set_outputs([y])
    return graph


@pytest.mark.parametrize("kind", [dtypes.f16, dtypes.bf16], ids=str)
def test_models_in_16_bits_are_trained(kind: dtypes.DType, tmp_path: Path) -> None:
    batches = [[random(6, 16, seed=i).to(dtypes.to_torch(kind))] for i in range(10)]
    for folder in (None, tmp_path):
        report = finetune(halves(kind, 1), halves(kind, 2), Calibration(batches), recipe=FEW, checkpoint=folder)
        assert report.changed


# rows

SEQUENCE = """
graph @g[B in 1..](%x: f32[B, 6]) -> (f32[B, 4]) {
  %w = const @m.fc.weight#seed=1 : f32[4, 6]  loc(m.fc)
  %h = linear %x, %w : f32[B, 4]  loc(m.fc)
  %y = OVER : f32[B, 4]  loc(m)
  return %y
}
"""


def sequence(over: str) -> Graph:
    """A linear layer, and something computed over an axis of what it gives, in a module."""
    return parse_graph(SEQUENCE.replace("OVER", over), generate=True)


TIME, EACH = "cumsum %h {axis = 0}", "tanh %h"


@pytest.mark.parametrize(("over", "rows"), [(TIME, False), (EACH, True), ("cumsum %h {axis = 1}", True)])
def test_rows_that_depend_on_each_other_are_no_samples(over: str, rows: bool) -> None:
    graph = sequence(over)
    found = told_apart([True], graph, graph.inputs, graph.outputs, [[random(1, 6)], [random(9, 6)]])
    assert found == ([True] if rows else None)


def test_bounds_of_sizes_hold_while_rows_are_compared() -> None:
    graph = parse_graph("""
graph @g[B in 5..](%x: f32[B, 6]) -> (f32[B, 6]) {
  %y = cumsum %x {axis = 0} : f32[B, 6]
  return %y
}
""")
    assert told_apart([True], graph, graph.inputs, graph.outputs, [[random(9, 6)]]) == [True]
    assert told_apart([True], graph, graph.inputs, graph.outputs, [[random(10, 6)]]) is None


@pytest.mark.parametrize(("over", "steps"), [(TIME, 9), (EACH, 1)])
def test_whole_batches_are_samples_where_the_first_axis_is_time(over: str, steps: int) -> None:
    """Ten batches of six rows, one of which, or six rows, are held out."""
    data = Calibration([[random(6, 6, seed=i)] for i in range(10)])
    recipe = Recipe(rate=1e-3, epochs=1)
    graph, dense = sequence(over), sequence(over).clone()
    assert finetune(graph, dense, data, recipe=recipe).outcome.planned == steps  # type: ignore[union-attr]
    block, = reconstruct(graph, dense, data, [region_at(graph, "m")], recipe=recipe)
    assert block.outcome is not None and block.outcome.planned == steps


# changed inputs

WITH_TABLE = """
graph @g[B in 1..](%x: f32[B, 6], %t: f32[5, 6]) -> (f32[B, 5]) {
  %w = const @fc.weight#seed=1 : f32[6, 6]  loc(fc)
  %h = linear %x, %w : f32[B, 6]  loc(fc)
  %s = permute %t {order = [1, 0]} : f32[6, 5]
  %y = matmul %h, %s : f32[B, 5]
  return %y
}
"""


def test_only_inputs_that_have_rows_are_changed() -> None:
    graph, dense = worse(WITH_TABLE)
    seen: list[list[torch.Size]] = []

    def change(inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        seen.append([x.shape for x in inputs])
        return [x + 0.1 * torch.randn_like(x) for x in inputs]

    data = Calibration([[random(40, 6), random(5, 6)]])
    report = finetune(graph, dense, data, recipe=FEW, options=Options(augment=change))
    assert report.changed and not report.note
    assert seen and all(len(shapes) == 1 and shapes[0][1:] == (6,) for shapes in seen)


def test_an_augmentation_is_asked_to_fit_inputs_with_rows_only() -> None:
    text = WITH_TABLE.replace("%t: f32[5, 6]", "%i: i64[5]").replace(
        "  %s =", "  %v = const @table#seed=2 : f32[9, 6]\n  %t = take %v, %i {axis = 0} : f32[5, 6]\n  %s =")
    graph = parse_graph(text, generate=True)
    context = Context(calibration=Calibration([[random(40, 6), torch.arange(5)]]))
    PassManager("distill{steps=2,rate=0.001,augment=mix}").run(graph, context)
    assert len(context.shared[TRAINED]) == 1


def test_without_rows_nothing_is_changed_and_a_note_says_so() -> None:
    graph, dense = worse(SEQUENCE.replace("OVER", TIME))
    data = Calibration([[random(6, 6, seed=i)] for i in range(8)])
    report = finetune(graph, dense, data, recipe=FEW, options=Options(augment="noise"))
    assert "cannot be told apart" in report.note and report.outcome is not None and report.outcome.steps == 20


# time

def test_the_time_that_a_teacher_takes_is_not_trained_in() -> None:
    context = Context(calibration=Calibration([[random(40, 8)]]))
    context.shared[DEADLINE] = time.monotonic() + 100.0
    for one in (Distill(), Distill(steps=9), Distill(seconds=5.0)):
        assert one.recipe(context).deadline == context.shared[DEADLINE]


def test_seconds_alone_are_all_used() -> None:
    context = Context(calibration=Calibration([[random(40, 8)]]))
    passes = (Distill(), Distill(seconds=5.0), Distill(seconds=5.0, epochs=3.0), Distill(seconds=5.0, steps=7))
    found = [(r.epochs if r.steps is None else r.steps, r.seconds) for r in (one.recipe(context) for one in passes)]
    assert found == [(20.0, None), (math.inf, 5.0), (3.0, 5.0), (7, 5.0)]


# nodes that are equal

SMOOTHED = """
graph @g[B in 1..](%x: f32[B, 6]) -> (f32[B, 5]) {
  %s = const @smooth#seed=3 : f32[6]
  %w = const @q.weight#seed=1 : f32[5, 6]  loc(q)
  %m = mul %x, %s : f32[B, 6]
  %a = quantize %m {dtype = !i8, scale = 0.02} : f32[B, 6] affine<i8, scale=0.02>
  %q = linear %a, %w : f32[B, 5]  loc(q)
  %v = const @k.weight#seed=2 : f32[5, 6]  loc(k)
  %n = mul %x, %s : f32[B, 6]
  %b = quantize %n {dtype = !i8, scale = 0.02} : f32[B, 6] affine<i8, scale=0.02>
  %k = linear %b, %v : f32[B, 5]  loc(k)
  %y = mul %q, %k : f32[B, 5]
  return %y
}
"""


def test_layers_that_read_the_same_integers_still_do_after_training() -> None:
    graph = parse_graph(SMOOTHED, generate=True)
    context = Context(calibration=Calibration([[random(90, 6)]]))
    PassManager([Damage(), Distill(steps=20, rate=1e-3)]).run(graph, context)
    verify(graph)
    assert context.shared[TRAINED][-1].improved
    assert sum(n.op.name == "quantize" for n in graph.nodes) == 1


def test_every_training_of_a_pipeline_has_a_file_of_its_own(tmp_path: Path) -> None:
    graph = parse_graph(MLP, generate=True)
    one = Distill(steps=4, rate=1e-3, checkpoint=str(tmp_path))
    PassManager([Damage(), one, one]).run(graph, Context(calibration=Calibration([[random(90, 8)]])))
    first, second = sorted(tmp_path.rglob("*.pt"), key=lambda p: len(p.parts))
    assert first.parent == tmp_path and second == tmp_path / "2" / first.name


# errors

class Given:
    """A task that gives what it is told to, batch by batch."""

    def __init__(self, *batches: tuple[torch.Tensor, torch.Tensor]) -> None:
        self.batches = batches

    def results(self) -> Iterator[tuple[list[torch.Tensor], list[torch.Tensor]]]:
        return (([ours], [theirs]) for ours, theirs in self.batches)


def error_of(*batches: tuple[torch.Tensor, torch.Tensor]) -> float:
    return held_error(Given(*batches), 1)  # type: ignore[arg-type]


def test_errors_of_rows_are_those_of_all_batches() -> None:
    theirs = [random(5, 16, seed=1), random(3, 16, seed=2)]
    ours = [y + 0.1 * random(*y.shape, seed=3) for y in theirs]
    found = error_of(*zip(ours, theirs))
    assert found == pytest.approx(error_by_row(torch.cat(ours), torch.cat(theirs)))


def test_a_number_near_zero_does_not_make_the_error_infinite() -> None:
    theirs = torch.tensor([[3.0], [0.0], [4.0]])
    ours = theirs + torch.tensor([[0.3], [0.4], [0.0]])
    assert error_of((ours[:2], theirs[:2]), (ours[2:], theirs[2:])) == pytest.approx(0.1)
    assert error_of((ours[:, 0], theirs[:, 0])) == pytest.approx(0.1)
    assert error_of((torch.ones(2, 1), torch.zeros(2, 1))) == float("inf")


def test_the_teacher_runs_once_for_what_is_held_out() -> None:
    graph, _ = worse(MLP)
    samples = Samples([[random(40, 8)]], [True], size=4, held=0.25, seed=0)
    calls: list[int] = []

    def teacher(inputs: Sequence[Any]) -> list[torch.Tensor]:
        calls.append(len(inputs[0]))
        return [inputs[0][:, :4]]

    task = Matching(TrainableGraph(graph), samples, Objective(("mse",)), teacher=teacher)
    task.held()
    assert held_error(task, 1) > 0 and held_error(task, 1) > 0
    assert calls == [4, 4, 2]


def test_random_numbers_of_other_devices_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "manual_seed", None)
    graph, _ = worse(MLP)
    samples = Samples([[random(40, 8)]], [True], size=8, held=0.25, seed=3)
    change = augmentation("noise")
    samples.grow(change, 1)
    task = Matching(TrainableGraph(graph), samples, Objective(("mse",)), teacher=lambda x: [x[0][:, :4]], augment=change)
    batch = samples.epoch(0)[0]
    assert float(task.loss(batch, 5).detach()) == float(task.loss(batch, 5).detach())


def test_what_is_kept_with_the_data_is_limited_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """A float for each of 40 rows takes 160 bytes: three of these fit, the latest ones."""
    monkeypatch.setattr("mcomp.passes.compress.training.tasks._KEPT_BYTES", 500)
    data = Calibration([[random(40, 8)]], memo={"other": 1})
    for seed in range(5):
        text = MLP.replace("@head.weight#seed=4 : f32[4", f"@head.weight#seed={seed} : f32[1").replace("B, 4]", "B, 1]")
        dense = parse_graph(text, generate=True)
        before = list(data.memo)
        taught_values(dense, data, dense.outputs, limit_bytes=1 << 20)
    assert len(data.memo) == 1 + 3 and list(data.memo)[:-1] == ["other", *before[2:]]


@pytest.mark.parametrize("size", [1, 4, 7, 64])
@pytest.mark.parametrize("rows", [1, 5, 16, 17, 33, 100])
def test_an_epoch_has_as_many_minibatches_as_is_said(size: int, rows: int) -> None:
    for batched, held in (([True], 0.0), ([True], 0.2), (None, 0.2)):
        samples = Samples([[torch.zeros(rows, 3)], [torch.zeros(2 * rows, 5)]], batched, size=size, held=held, seed=0)
        assert samples.steps_per_epoch == len(samples.epoch(0)) == len(samples.epoch(3))
