"""Convolutions that are normalized while they are trained: the same function before, and folded into plain ones after."""

from typing import Any

import pytest
import torch
from torch import Tensor

from mcomp.ir import Graph, parse_graph
from mcomp.ir.printer import graph_text
from mcomp.manager import Context, PassManager
from mcomp.manager.context import TRAINED
from mcomp.ops.evaluate import run_graph
from mcomp.passes.compress.distill import Distill
from mcomp.passes.compress.teaching import NORMALIZED, PLAIN, has_norms
from mcomp.passes.compress.training import trainer
from mcomp.passes.compress.training.data import Samples
from mcomp.passes.compress.training.objective import Objective
from mcomp.passes.compress.training.tasks import Matching
from mcomp.passes.compress.training.trainer import Recipe, train
from mcomp.passes.compress.training.view import TrainableGraph
from mcomp.plan.quality import relative_error
from mcomp.runtime.calibration import Calibration

CONVS = """
graph @convs[B in 1..](%x: f32[B, 3, 8, 8]) -> (f32[B, 6, 4, 4]) {
  %w1 = const @a.weight#seed=1 : f32[8, 3, 3, 3]  loc(a)
  %b1 = const @a.bias#seed=2 : f32[8]  loc(a)
  %h = conv %x, %w1, %b1 {stride=[1, 1], padding=[[1, 1], [1, 1]], dilation=[1, 1]} : f32[B, 8, 8, 8]  loc(a)
  %r = relu %h : f32[B, 8, 8, 8]  loc(a)
  %w2 = const @b.weight#seed=3 : f32[8, 1, 3, 3]  loc(b)
  %b2 = const @b.bias#seed=4 : f32[8]  loc(b)
  %g = conv %r, %w2, %b2 {stride=[2, 2], padding=[[0, 1], [0, 1]], dilation=[1, 1], groups=8} : f32[B, 8, 4, 4]  loc(b)
  %s = relu %g : f32[B, 8, 4, 4]  loc(b)
  %w3 = const @c.weight#seed=5 : f32[6, 8, 1, 1]  loc(c)
  %y = conv %s, %w3 {stride=[1, 1], padding=[[0, 0], [0, 0]], dilation=[1, 1]} : f32[B, 6, 4, 4]  loc(c)
  return %y
}
"""


def convs() -> Graph:
    return parse_graph(CONVS, generate=True)


def images(count: int, channels: int = 3, size: int = 8, seed: int = 1) -> Tensor:
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(seed))


def matching(graph: Graph, count: int = 64, size: int = 32) -> Matching:
    x = images(count)
    (y,) = run_graph(convs(), [x])
    samples = Samples([[x, 2.0 * y + 0.3]], [True, True], size=size, held=0.25, seed=0)
    return Matching(TrainableGraph(graph), samples, Objective(("mse",)))


def test_it_begins_as_the_convolution_that_it_was() -> None:
    graph = convs()
    task, x = matching(graph), images(5, seed=2)
    assert task.normalize() == 2 and task.kind == NORMALIZED
    with torch.no_grad():
        torch.testing.assert_close(task.student([x])[0], run_graph(graph, [x])[0], rtol=1e-4, atol=1e-5)
    assert {"g:gain", "h:gain"} <= task.tensors().keys()
    assert set(task.buffers()) == {"g:mean", "g:variance", "h:mean", "h:variance"}


def test_a_step_sees_the_statistics_of_its_minibatch() -> None:
    """Inputs that are shifted and twice as large give the same where they are normalized, but for the edges; without a
    gradient they do not."""
    task, x = matching(convs()), images(32)
    task.normalize()
    first = task.student.nodes[2]
    assert first.op.name == "conv"
    kept = TrainableGraph(task.student.graph, outputs=[first.result])
    kept.normalize([x])
    inner = kept([x])[0].detach()[:, :, 1:-1, 1:-1]
    moved = kept([2.0 * x])[0].detach()[:, :, 1:-1, 1:-1]
    torch.testing.assert_close(inner, moved, rtol=1e-3, atol=1e-3)
    with torch.no_grad():
        assert (kept([2.0 * x])[0][:, :, 1:-1, 1:-1] - kept([x])[0][:, :, 1:-1, 1:-1]).abs().max() > 0.1


def test_what_was_learned_is_folded_into_plain_convolutions() -> None:
    graph = convs()
    task, x = matching(graph), images(7, seed=3)
    task.normalize()
    outcome = train(task, task.samples, Recipe(rate=3e-2, steps=40))
    assert outcome.improved and outcome.kind == NORMALIZED
    with torch.no_grad():
        (expected,) = task.student([x])
        gains = [float(v.std()) for k, v in task.tensors().items() if k.endswith(":gain")]
    assert min(gains) > 0.0
    ops = [n.op.name for n in graph.nodes]
    assert task.student.write() == 5
    assert [n.op.name for n in graph.nodes] == ops
    torch.testing.assert_close(run_graph(graph, [x])[0], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(task.student([x])[0], expected, rtol=1e-4, atol=1e-5)


def test_a_state_has_the_running_statistics() -> None:
    task, x = matching(convs()), images(5, seed=4)
    task.normalize()
    with torch.no_grad():
        before, state = task.student([x])[0], task.student.state()
    task.student([3.0 * images(32)])
    with torch.no_grad():
        assert not torch.allclose(task.student([x])[0], before)
        task.student.load(state)
        torch.testing.assert_close(task.student([x])[0], before)


def test_a_training_that_is_broken_off_goes_on_to_the_same_end(tmp_path: Any) -> None:
    ends = []
    for breaks in (False, True):
        graph = convs()
        for steps in ([20, 40] if breaks else [40]):
            task = matching(graph)
            task.normalize()
            if steps == 20:
                usual = task.loss

                def failing(batch: Any, step: int, usual: Any = usual) -> Tensor:
                    if step == 20:
                        raise KeyboardInterrupt
                    found: Tensor = usual(batch, step)
                    return found

                task.loss = failing  # type: ignore[method-assign]
            path = tmp_path / f"{breaks}.pt"
            train(task, task.samples, Recipe(rate=1e-2, steps=40, checks=40), checkpoint=path, identity="one")
        task.student.write()
        ends.append(graph_text(graph, digests=32))
    assert ends[0] == ends[1]


@pytest.mark.parametrize(("count", "size"), [(64, 8), (10, 64)])
def test_few_samples_have_no_statistics(count: int, size: int) -> None:
    task = matching(convs(), count, size)
    assert task.normalize() == 0 and task.kind == PLAIN and not task.buffers()


def test_a_weight_that_two_convolutions_share_stays_plain() -> None:
    text = CONVS.replace(
        "%w3 = const @c.weight#seed=5 : f32[6, 8, 1, 1]  loc(c)\n",
        "%w3 = const @c.weight#seed=5 : f32[6, 8, 1, 1]  loc(c)\n"
        "  %g2 = conv %r, %w2, %b2 {stride=[2, 2], padding=[[0, 1], [0, 1]], dilation=[1, 1], groups=8}"
        " : f32[B, 8, 4, 4]  loc(b)\n  %s2 = add %s, %g2 : f32[B, 8, 4, 4]  loc(b)\n",
    ).replace("conv %s, %w3", "conv %s2, %w3")
    task = matching(parse_graph(text, generate=True))
    assert task.normalize() == 1


def distilled(graph: Graph, *passes: Any, **options: Any) -> tuple[Graph, list[Any]]:
    context = Context(calibration=Calibration([[images(64)]]))
    PassManager([*passes, Distill(steps=40, loss="mse", **options)]).run(graph, context)
    return graph, list(context.shared[TRAINED])


def test_distill_normalizes_what_is_not_rounded_yet() -> None:
    from mcomp.passes.compress.prune import Prune
    from mcomp.passes.compress.quantize import Quantize

    prune = Prune(ratio=0.3)
    kinds = []
    for passes, options in (
        ([prune], {}), ([prune], {"normalize": "none"}), ([prune, Quantize()], {}),
    ):
        _, done = distilled(convs(), *passes, **options)
        kinds.append([t.kind for t in done])
    assert kinds == [[NORMALIZED], [PLAIN], [PLAIN]]
    assert has_norms(convs())


def test_kinds_learn_at_rates_of_their_own() -> None:
    """The rate that the training with normalization found is not that of the one behind it, in integers."""
    from mcomp.passes.compress.quantize import Quantize

    graph = convs()
    context = Context(calibration=Calibration([[images(64)]]))
    text = [Distill(steps=30, loss="mse"), Quantize(), Distill(steps=30, loss="mse")]
    with graph.edit("shift") as editor:
        node = next(n for n in graph.nodes if n.op.name == "const" and n.attrs["name"] == "a.bias")
        stored = graph.store.get(node.attrs["digest"])
        editor.set_attrs(node, digest=graph.store.add(stored.type, {"values": stored.decode() + 0.5}).digest)
    context.shared["distill.teacher"] = convs()
    PassManager(text).run(graph, context)
    done = context.shared[TRAINED]
    assert [t.kind for t in done] == [NORMALIZED, PLAIN] and all(t.probed for t in done)
    assert relative_error([run_graph(graph, [images(9)])], [run_graph(convs(), [images(9)])]) < 0.2


@pytest.mark.parametrize(("recipe", "tried"), [
    (Recipe(steps=600), False), (Recipe(steps=599), True), (Recipe(steps=600, optimizer="sgd"), True),
    (Recipe(epochs=1e6, seconds=0.1), True), (Recipe(epochs=1e6, seconds=1e5), False),
])
def test_long_trainings_try_no_rates(recipe: Recipe, tried: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those without normalization do."""
    monkeypatch.setattr(trainer._Training, "_over", lambda self: True)
    monkeypatch.setattr(trainer, "probe_steps", lambda total: 2)
    for normalized in (False, True):
        task = matching(convs())
        if normalized:
            task.normalize()
        outcome = train(task, task.samples, recipe)
        assert outcome.probed is (tried or not normalized)
        assert outcome.probed or outcome.rate == trainer.NORMALIZED_RATE
