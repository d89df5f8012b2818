"""distill: students from modules and from the region itself, blocks and whole models trained back, refusals, text."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mcomp.errors import PassError
from mcomp.ir import Affine, Graph, dtypes, parse_graph, verify
from mcomp.ir.encoding import quantize_array
from mcomp.ir.printer import graph_text
from mcomp.manager import Context, Pass, PassManager, PassResult
from mcomp.manager.context import STUDENTS, TRAINED
from mcomp.manager.pipeline import parse_pipeline, pipeline_text
from mcomp.ops.evaluate import run_graph
from mcomp.passes.compress.distill import INTERRUPTED, PROGRESS, Distill
from mcomp.passes.compress.finetune import Options, finetune
from mcomp.passes.compress.reconstruct import reconstruct
from mcomp.passes.compress.training import teacher
from mcomp.passes.compress.training.augment import augmentation
from mcomp.passes.compress.training.data import Samples
from mcomp.passes.compress.training.objective import Objective
from mcomp.passes.compress.training.tasks import Matching, only_relevant, running_teacher
from mcomp.passes.compress.training.trainer import Recipe, train
from mcomp.passes.compress.training.view import TrainableGraph
from mcomp.plan.quality import relative_error
from mcomp.runtime.calibration import Calibration

MLP = """
graph @mlp[B in 1..](%x: f32[B, 8]) -> (f32[B, 4]) {
  %w1 = const @body.0.weight#seed=1 : f32[64, 8]  loc(body.0)
  %b1 = const @body.0.bias#seed=2 : f32[64]  loc(body.0)
  %h = linear %x, %w1, %b1 : f32[B, 64]  loc(body.0)
  %r = relu %h : f32[B, 64]  loc(body.1)
  %w2 = const @body.2.weight#seed=3 : f32[64, 64]  loc(body.2)
  %g = linear %r, %w2 : f32[B, 64]  loc(body.2)
  %s = tanh %g : f32[B, 64]  loc(body.3)
  %w3 = const @head.weight#seed=4 : f32[4, 64]  loc(head)
  %y = linear %s, %w3 : f32[B, 4]  loc(head)
  return %y
}
"""
RUN = """
graph @run[B in 1..](%x: f32[B, 8]) -> (f32[B, 8]) {
LAYERS
  return %a3
}
"""
_LAYER = """
  %wI = const @layer.I.a.weight#seed=I0 : f32[16, 8]  loc(layer.I.a)
  %vI = const @layer.I.b.weight#seed=I5 : f32[8, 16]  loc(layer.I.b)
  %hI = linear %X, %wI : f32[B, 16]  loc(layer.I.a)
  %rI = relu %hI : f32[B, 16]  loc(layer.I)
  %yI = linear %rI, %vI : f32[B, 8]  loc(layer.I.b)
  %aI = add %X, %yI : f32[B, 8]  loc(layer.I)
"""


def layers() -> str:
    found = [_LAYER.replace("I", str(i)).replace("%X", "%x" if i == 0 else f"%a{i - 1}") for i in range(4)]
    return RUN.replace("LAYERS", "".join(found))


def calibration(rows: int = 768, width: int = 8) -> Calibration:
    generator = torch.Generator().manual_seed(0)
    return Calibration([[torch.randn(rows // 3, width, generator=generator)] for _ in range(3)])


def distilled(text: str, pipeline: Any, **options: Any) -> tuple[Graph, Context, float]:
    """The graph after the pipeline, its context, and the relative error of its outputs on inputs it was not trained on."""
    graph = parse_graph(text, generate=True)
    context = Context(calibration=calibration(), **options)
    x = [torch.randn(64, 8, generator=torch.Generator().manual_seed(9))]
    expected = run_graph(graph, x)
    PassManager(pipeline).run(graph, context)
    verify(graph)
    return graph, context, relative_error([run_graph(graph, x)], [expected])


class Small(nn.Module):
    """f32[B, 8] -> f32[B, 64], with a batch norm."""

    def __init__(self, out: int = 64) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(8, 24)
        self.norm = nn.BatchNorm1d(24)
        self.last = nn.Linear(24, out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.last(torch.relu(self.norm(self.first(x)))))


def test_a_module_takes_the_place_of_a_region() -> None:
    student = Small().train()
    graph, context, error = distilled(MLP, [Distill(region="body", student=student, epochs=30, rate=5e-2, max_error=0.9)])
    assert [n.op.name for n in graph.nodes if n.op.name != "const"] == ["linear", "relu", "linear", "tanh", "linear"]
    assert graph.value("s").producer is not None
    (entry,) = graph.ledger
    assert (entry.rule, entry.layer, entry.node) == ("distill", "body", "s")
    assert 0 < entry.error < 0.6 and entry.bytes_saved > 0 and error < 0.6
    locations = {str(n.loc) for n in graph.nodes if n.op.name == "linear"}
    assert any("distill[body.first" in place for place in locations), locations
    assert any(r.kind == "applied" and "Small" in r.reason for r in context.remarks)
    assert student.training, "the user's module is left as it was"


def test_a_student_of_another_shape_is_an_error_with_both_types() -> None:
    with pytest.raises(PassError, match=r"gives f32\[B, 12\].*%s: f32\[B, 64\]"):
        distilled(MLP, [Distill(region="body", student=Small(12), steps=1)])


class Pair(nn.Module):
    """Takes more than the region has."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 64)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.fc(x + y)


def test_a_student_with_other_arguments_is_an_error() -> None:
    with pytest.raises(PassError, match="Pair"):
        distilled(MLP, [Distill(region="body", student=Pair(), steps=1)])


class Counts(Small):
    """Keeps state."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count += 1
        return super().forward(x)


class Looks(Small):
    """Looks at values."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) if x.sum() > 0 else super().forward(-x)


class Loses(Small):
    """Gives nothing."""

    def forward(self, x: torch.Tensor) -> Any:
        return object()


@pytest.mark.parametrize(("student", "message", "help"), [
    (Counts, "Counts keeps state between calls", "changes no buffer"),
    (Looks, "Looks cannot be captured whole", "torch.export"),
    (Loses, "the student Loses gives 0 results", ""),
])
def test_a_student_that_cannot_be_one_says_what_would_help(student: type[Small], message: str, help: str) -> None:
    with pytest.raises(PassError, match=message) as caught:
        distilled(MLP, [Distill(region="body", student=student(), steps=1)])
    assert caught.value.where == "body"
    assert caught.value.help and help in caught.value.help


def test_a_student_that_is_no_smaller_or_too_far_off_is_refused() -> None:
    wide = nn.Sequential(nn.Linear(8, 256), nn.Linear(256, 64))
    graph, context, error = distilled(MLP, [Distill(region="body", student=wide, steps=1)])
    assert error == 0.0 and not graph.ledger
    assert any("no smaller" in r.reason and r.remedy for r in context.remarks)
    graph, context, error = distilled(MLP, [Distill(region="body", student=Small(), steps=1, max_error=0.01)])
    assert error == 0.0 and not graph.ledger
    assert any("more than 1.0%" in r.reason and r.remedy for r in context.remarks)


def test_excluded_layers_stay() -> None:
    graph, context, error = distilled(MLP, "distill{region=body,student=narrower,steps=5}", exclude=["body.2"])
    assert error == 0.0 and not graph.ledger
    assert any('excluded by "body.2"' in r.reason for r in context.remarks)


@pytest.mark.parametrize("region", ["body", ""])
def test_what_pruning_keeps_becomes_a_narrower_student(region: str) -> None:
    where = f"region={region}," if region else ""
    graph, _, error = distilled(MLP, f"distill{{{where}student=narrower,ratio=0.5,epochs=8,max_error=0.9}}")
    assert graph.value("h").tensor.shape[1] == 32
    assert graph.value("s").tensor.shape[1] == (64 if region else 32)
    assert error < 0.6
    (entry,) = graph.ledger
    assert entry.layer == (region or "mlp") and entry.bytes_saved > 0 and "50% of the units" in entry.detail


def test_data_that_does_not_fit_is_left_out_with_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcomp.passes.compress.reconstruct.CACHED_BYTES", 1 << 17)
    _, context, _ = distilled(MLP, damaged("distill{region=body,steps=2,rate=0.001}"))
    assert any("of 3 calibration batches" in r.reason for r in context.remarks)


def test_the_layers_that_do_least_are_left_out() -> None:
    graph, _, error = distilled(layers(), "distill{region=layer,student=shallower,ratio=0.5,epochs=10,max_error=5.0}")
    assert sum(n.op.name == "add" for n in graph.nodes) == 2
    assert error < 1.0
    assert "without layer." in graph.ledger[0].detail
    assert graph.outputs[0].name == "a3"


def test_each_block_by_itself() -> None:
    graph, _, _ = distilled(layers(), [
        Distill(region="layer", split="modules", student=nn.Linear(8, 8), epochs=5, max_error=5.0),
    ])
    assert [e.layer for e in graph.ledger] == ["layer.0", "layer.1", "layer.2", "layer.3"]
    assert sum(n.op.name == "linear" for n in graph.nodes) == 4 and not [n for n in graph.nodes if n.op.name == "add"]



@dataclass(frozen=True)
class Damage(Pass):
    """Rounds matrices to i4, a scale per row, and shifts them off: what training can make up for."""

    name = "damage"

    def run(self, graph: Graph, context: Context) -> PassResult:
        encoding = Affine(dtypes.i4, axis=(0,))
        random = np.random.default_rng(0)
        with graph.edit(self.name) as editor:
            for node in [n for n in graph.nodes if n.op.name == "const" and n.type.rank == 2]:
                weight = node.result.weight
                assert weight is not None
                worse = weight.decode() * random.uniform(0.4, 1.6, weight.type.static_shape)
                parts = quantize_array(worse, encoding)
                stored = graph.store.add(node.type.with_encoding(encoding), parts)
                editor.set_attrs(node, digest=stored.digest)
                editor.set_type(node.result, stored.type)
        return PassResult(True)


def damaged(*steps: Any) -> list[Any]:
    return [Damage(), *steps]


def worse(text: str) -> tuple[Graph, Graph]:
    """A damaged graph, and the one it was."""
    graph = parse_graph(text, generate=True)
    dense = graph.clone()
    Damage().run(graph, Context())
    return graph, dense


def test_self_distillation_makes_up_for_damage_with_the_weights_in_integers() -> None:
    _, _, before = distilled(MLP, damaged())
    graph, context, after = distilled(MLP, damaged("distill{epochs=15}"))
    assert after < 0.8 * before
    entry = graph.ledger[-1]
    assert entry.rule == "distill" and 0 < entry.error < before
    kinds = {str(n.type.encoding) for n in graph.nodes if n.op.name == "const" and len(n.type.shape) == 2}
    assert kinds == {"affine<i4, axis=0>"}
    assert any(r.kind == "applied" and r.rule == "distill" for r in context.remarks)


def test_a_rate_is_looked_for_once() -> None:
    """How trainings went is told, with what each took."""
    _, context, _ = distilled(MLP, damaged("distill{steps=60}", "distill{steps=40}"))
    first, second = context.shared[TRAINED]
    assert [first.probed, second.probed] == [True, False]
    assert first.rate == second.rate > 0
    assert [first.steps, second.steps] == [60, 40]
    assert 0 < first.step_seconds * 60 < first.seconds and first.check_seconds > 0


def test_blocks_are_trained_one_after_another() -> None:
    _, _, before = distilled(layers(), damaged())
    graph, _, after = distilled(layers(), damaged("distill{split=residual,epochs=8,scales=true,mix=0.3}"))
    assert after < before
    assert [e.node for e in graph.ledger if e.rule == "distill"] == ["a0", "a1", "a2", "a3"]


def test_padding_teaches_nothing() -> None:
    values = [[torch.ones(2, 3, 4), torch.ones(6)], [torch.ones(2, 3, 4), torch.ones(6)]]
    known = Calibration([[torch.zeros(2, 3, 4)]] * 2)
    known.relevant = {(1, 6): torch.tensor([True, True, False, True, False, False])}
    found = only_relevant(values, known)
    assert bool(torch.isfinite(found[0][0]).all())
    assert torch.isnan(found[1][0])[..., 0].tolist() == [[False, False, True], [False, True, True]]
    assert bool(torch.isfinite(found[1][1]).all())


def test_constants_that_blocks_share_are_held() -> None:
    shared = layers().replace("%w1 = const @layer.1.a.weight#seed=10 : f32[16, 8]  loc(layer.1.a)\n", "")
    graph = parse_graph(shared.replace("linear %a0, %w1", "linear %a0, %w0"), generate=True)
    dense = graph.clone()
    Damage().run(graph, Context())
    before = {n.name: n.attrs["digest"] for n in graph.nodes if n.op.name == "const"}
    reconstruct(graph, dense, calibration(), recipe=Recipe(rate=1e-3, steps=10))
    changed = {n.name for n in graph.nodes if n.op.name == "const" and before[n.name] != n.attrs["digest"]}
    assert "w0" not in changed and {"v0", "v1"} <= changed


def test_one_region_is_trained_back() -> None:
    graph, _, _ = distilled(MLP, damaged("distill{region=body,epochs=5}"))
    assert [e.layer for e in graph.ledger if e.rule == "distill"] == ["body"]


def test_a_graph_that_nothing_changed_is_left_alone() -> None:
    graph, context, error = distilled(MLP, "distill{steps=3}")
    assert error == 0.0 and not graph.ledger
    assert any(r.kind == "missed" and r.rule == "distill" for r in context.remarks)


def test_the_same_seed_gives_the_same_weights() -> None:
    texts = {str(distilled(MLP, damaged("distill{steps=20}"), seed=4)[0]) for _ in range(2)}
    assert len(texts) == 1


def test_augmented_inputs_and_features() -> None:
    def shift(inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        return [x + 0.1 * torch.randn_like(x) for x in inputs]

    graph, dense = worse(layers())
    torch.manual_seed(3)
    state = torch.get_rng_state()
    report = finetune(graph, dense, calibration(), recipe=Recipe(rate=3e-3, steps=60),
                      options=Options(augment=shift, features=0.5))
    assert report.after < report.before and report.changed == 8
    assert torch.equal(state, torch.get_rng_state()), "the user's random numbers are not touched"


def test_changed_inputs_come_again_so_that_the_teacher_runs_less() -> None:
    graph, _ = worse(MLP)
    (batch,) = Calibration([[torch.randn(64, 8)]]).batches
    found = Samples([batch], [True], size=16, held=0.25, seed=0)
    found.cycle = 2
    calls: list[int] = []

    def teacher(inputs: Sequence[Any]) -> list[torch.Tensor]:
        calls.append(inputs[0].shape[0])
        return [inputs[0][:, :4]]

    task = Matching(TrainableGraph(graph), found, Objective(("mse",)), teacher=teacher, augment=augmentation("noise"))
    train(task, found, Recipe(rate=None, steps=18, checks=3))
    assert len(calls) == 6 + 1 and found.steps_per_epoch == 3
    assert float(task.loss(found.epoch(1)[2], 5).detach()) == float(task.loss(found.epoch(3)[2], 11).detach())


def test_what_the_teacher_gave_for_changed_inputs_is_kept_over_trainings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training of the same inputs, changed in the same way, asks the teacher for what is held out only, and ends the
    same; another seed changes other inputs."""
    calls: list[int] = []

    def counted(*given: Any, **options: Any) -> Any:
        run = running_teacher(*given, **options)
        return lambda inputs: [calls.append(1), run(inputs)][1]

    monkeypatch.setattr(teacher, "running_teacher", counted)
    data, found = calibration(), []
    for seed in (0, 0, 1):
        graph, dense = worse(layers())
        calls.clear()
        recipe = Recipe(rate=3e-3, steps=6, checks=1)
        finetune(graph, dense, data, recipe=recipe, options=Options(augment="noise"), seed=seed)
        found.append((len(calls), graph_text(graph, digests=32)))
    assert found[0][0] - found[1][0] == 6
    assert found[0][1] == found[1][1] != found[2][1]
    assert found[2][0] == found[0][0]


def test_a_student_by_number_is_one_of_those_that_were_given() -> None:
    students = tuple(nn.Sequential(nn.Linear(8, n), nn.ReLU(), nn.Linear(n, 4)) for n in (3, 5))
    for number, width in enumerate((3, 5)):
        context = Context(calibration=Calibration([[torch.randn(64, 8)]]))
        context.shared[STUDENTS] = {"": students}
        graph = parse_graph(MLP, generate=True)
        text = f"distill{{student=given,number={number},steps=2,rate=0.001,max_error=50.0}}"
        PassManager(parse_pipeline(text)).run(graph, context)
        assert [n.operand(1).tensor.shape for n in graph.nodes if n.op.name == "linear"] == [(width, 8), (4, width)]
    with pytest.raises(PassError, match="number is 2, and 2 were given for ''"):
        PassManager(parse_pipeline("distill{student=given,number=2,steps=2}")).run(parse_graph(MLP, generate=True), context)


def test_an_augmentation_that_does_not_fit_says_so() -> None:
    graph, context, _ = distilled(MLP, damaged("distill{augment=images,steps=2}"))
    assert not graph.ledger and any("rank 4" in r.reason for r in context.remarks)


def test_an_interrupted_training_goes_on_from_its_folder(tmp_path: Path) -> None:
    recipe = Recipe(rate=3e-3, steps=40, checks=4)

    def say(text: str) -> None:
        if "step 20" in text:
            raise KeyboardInterrupt

    whole, dense = worse(MLP)
    finetune(whole, dense, calibration(), recipe=recipe)
    broken, dense = worse(MLP)
    report = finetune(broken, dense, calibration(), recipe=recipe, checkpoint=tmp_path, progress=say)
    assert report.interrupted and report.changed
    again, dense = worse(MLP)
    report = finetune(again, dense, calibration(), recipe=recipe, checkpoint=tmp_path)
    assert report.outcome is not None and report.outcome.resumed_at == 20
    assert str(again) == str(whole)


def test_the_pass_tells_that_it_was_interrupted_and_what_it_is_at() -> None:
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        if len(said) == 3:
            raise KeyboardInterrupt

    graph = parse_graph(MLP, generate=True)
    context = Context(calibration=calibration())
    context.shared[PROGRESS] = say
    PassManager(damaged("distill{rate=0.003,steps=40}")).run(graph, context)
    assert context.shared[INTERRUPTED] is True
    assert "of 40" in said[0]
    assert any("interrupted" in r.reason for r in context.remarks)


def test_after_an_interruption_nothing_more_is_trained() -> None:
    graph = parse_graph(MLP, generate=True)
    context = Context(calibration=calibration())
    context.shared[INTERRUPTED] = True
    PassManager(damaged("distill{rate=0.003,steps=40}")).run(graph, context)
    assert TRAINED not in context.shared
    assert any("was interrupted" in r.reason for r in context.remarks)


def test_outputs_that_cannot_be_compared_end_it() -> None:
    text = MLP.replace("return %y", "%i = argmax %y {axis = 1} : i64[B]\n  return %i").replace("(f32[B, 4])", "(i64[B])")
    graph = parse_graph(text, generate=True)
    dense = graph.clone()
    report = finetune(graph, dense, calibration(), recipe=Recipe(steps=3))
    assert not report.changed and "changes what is compared" in report.reason


def test_blocks_without_a_counterpart_say_so() -> None:
    graph = parse_graph(layers(), generate=True)
    other = parse_graph(MLP.replace("@mlp", "@other"), generate=True)
    reports = reconstruct(graph, other, calibration(), recipe=Recipe(steps=2))
    assert all("no value that stands for" in r.reason for r in reports) and len(reports) == 4


@pytest.mark.parametrize("text", [
    "distill{student=wider}", "distill{ratio=0.0}", "distill{seconds=-1.0}", "distill{held=1.0}", "distill{region=bodi}",
    "distill{temperature=0.0}", "distill{augment=blur}", "distill{augment=mix,region=body}",
])
def test_bad_options_are_errors_before_any_work(text: str) -> None:
    with pytest.raises(PassError):
        distilled(MLP, text)


def test_its_text_comes_back() -> None:
    text = "distill{region=layer2,student=narrower,ratio=0.25,seconds=60.0}"
    assert pipeline_text(parse_pipeline(text)) == text
    assert pipeline_text([Distill(region="a", student=nn.Linear(2, 2))]) == "distill{region=a,student=Linear}"


def test_no_calibration_is_an_error() -> None:
    with pytest.raises(PassError, match="calibration"):
        PassManager("distill").run(parse_graph(MLP, generate=True), Context())
