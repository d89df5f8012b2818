"""What is offered to the planner: a choice takes what the catalog says, and its pipeline makes that."""

from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache

import pytest
import torch

from mcomp.ir import Graph, parse_graph, verify
from mcomp.manager import Context, PassManager, parse_pipeline, pipeline_text
from mcomp.manager.context import STUDENTS, TRAINING
from mcomp.ops.evaluate import run_graph
from mcomp.passes.compress import findings, offers
from mcomp.passes.compress.candidates import Menu as LayerMenu
from mcomp.passes.compress.candidates import layer_candidates
from mcomp.passes.compress.offers import LayersAndWidths, survey
from mcomp.passes.compress.prune import Prune
from mcomp.passes.compress.quantize import Quantize
from mcomp.plan.memory import Memory
from mcomp.plan.offers import Choice, Menu
from mcomp.plan.quality import relative_error
from mcomp.plan.spread import Spread
from mcomp.runtime.calibration import Calibration
from tests.compress.graphs import layers, mixed, mlp

CONVS = """
graph @g[B in 1..](%x: f32[B, 8, 10, 10]) -> (f32[B, 6]) {
  %w1 = const @a.weight#seed=1 : f32[24, 8, 3, 3]  loc(a)
  %h = conv %x, %w1 {stride = [1, 1], padding = [[1, 1], [1, 1]], dilation = [1, 1], groups = 1} : f32[B, 24, 10, 10]  loc(a)
  %r = relu %h : f32[B, 24, 10, 10]  loc(r)
  %w2 = const @b.weight#seed=2 : f32[8, 24, 3, 3]  loc(b)
  %c = conv %r, %w2 {stride = [1, 1], padding = [[1, 1], [1, 1]], dilation = [1, 1], groups = 1} : f32[B, 8, 10, 10]  loc(b)
  %s = add %c, %x : f32[B, 8, 10, 10]  loc(s)
  %m = mean %s {axes = [2, 3], keepdim = false} : f32[B, 8]  loc(m)
  %w3 = const @fc.weight#seed=3 : f32[6, 8]  loc(fc)
  %y = linear %m, %w3 : f32[B, 6]  loc(fc)
  return %y
}"""


def data(name: str) -> torch.Tensor:
    return mixed(300, 64) if name == "mlp" else mixed(24, 10, 10, 8).permute(0, 3, 1, 2).contiguous()


def graph_of(name: str) -> Graph:
    return mlp(outputs=64) if name == "mlp" else parse_graph(CONVS, generate=True)


@lru_cache
def catalog(name: str) -> LayersAndWidths:
    graph = graph_of(name)
    context = Context(calibration=Calibration([[data(name)]]))
    return survey(graph, context, Menu(fast=False, small=True), Spread(), Memory())


def made(name: str, choice: Choice) -> Graph:
    graph = graph_of(name)
    PassManager(parse_pipeline(catalog(name).pipeline(choice))).run(graph, Context(calibration=Calibration([[data(name)]])))
    verify(graph)
    return graph


def choices(name: str, count: int = 12) -> list[Choice]:
    """Random choices, the untouched and the plain one among them."""
    found = catalog(name)
    generator = torch.Generator().manual_seed(0)
    draws = [
        tuple(int(torch.randint(0, len(g.options), (), generator=generator)) for g in found.groups) for _ in range(count)
    ]
    return [(0,) * len(found.groups), found.plain, *draws]


def matrix_bytes(graph: Graph) -> int:
    return sum(n.result.weight.nbytes for n in graph.nodes if n.op.name == "const" and n.type.rank > 1)  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["mlp", "convs"])
def test_a_choice_takes_the_bytes_that_the_catalog_says(name: str) -> None:
    found = catalog(name)
    for choice in choices(name):
        promised = sum(found.nbytes(i, choice) for i in range(len(found.touching)))
        real = matrix_bytes(made(name, choice))
        assert real == pytest.approx(promised, rel=0.02), found.pipeline(choice)


@pytest.mark.parametrize("name", ["mlp", "convs"])
def test_pieces_are_shaped_as_what_a_choice_leaves(name: str) -> None:
    found = catalog(name)
    for choice in choices(name):
        shapes = [
            tuple(n.operand(1).tensor.shape) for i in range(len(found.touching)) for piece in found.pieces(i, choice)
            for n in layers(piece)
        ]
        for i in range(len(found.touching)):
            for piece in found.pieces(i, choice):
                verify(piece)
        assert sorted(shapes) == sorted(tuple(n.operand(1).tensor.shape) for n in layers(made(name, choice)))


@pytest.mark.parametrize("name", ["mlp", "convs"])
def test_only_the_groups_that_touch_a_part_change_it(name: str) -> None:
    found = catalog(name)
    base = choices(name)[3]
    for part, touching in enumerate(found.touching):
        for g, group in enumerate(found.groups):
            moved = (*base[:g], (base[g] + 1) % len(group.options), *base[g + 1 :])
            if g not in touching:
                assert found.nbytes(part, moved) == found.nbytes(part, base)
                assert found.operations(part, moved) == found.operations(part, base)


def test_expected_errors_are_those_of_the_outputs() -> None:
    """Of single changes within a factor; of branches and factors at most: what follows is refitted."""
    found, x = catalog("convs"), data("convs")
    exact = run_graph(graph_of("convs"), [x])
    untouched = (0,) * len(found.groups)
    for g, group in enumerate(found.groups):
        for level in (1, len(group.options) - 1):
            option = group.options[level]
            choice = (*untouched[:g], level, *untouched[g + 1 :])
            error = relative_error([run_graph(made("convs", choice), [x])], [exact])
            low, high = 0.25 * error - 0.01, 4 * error + 0.01
            assert low < option.error**0.5, (group.key, option.name, error)
            refitted = option.kind in (offers.BRANCH, offers.THIN)
            assert refitted or option.error**0.5 < high, (group.key, option.name, error)


def test_a_branch_that_is_gone_takes_its_layers_with_it() -> None:
    found = catalog("convs")
    branch = next(g for g, group in enumerate(found.groups) if group.options[-1].name == "gone")
    choice = tuple(1 if g == branch else level for g, level in enumerate(found.plain))
    assert [n.name for n in layers(made("convs", choice))] == ["y"]
    inside = [group.key for group in found.groups if branch in group.inside]
    assert set(inside) == {"a.weight:0", "h", "c"}


def test_findings_are_kept_and_taken_again(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, memory = graph_of("mlp"), Memory()
    context = Context(calibration=Calibration([[data("mlp")]]))
    first = survey(graph, context, Menu(), Spread(), memory)
    monkeypatch.setattr(findings, "layer_candidates", None)
    second = survey(graph, context, Menu(), Spread(), memory)
    assert second.groups == first.groups
    assert second.pipeline(second.plain) == first.pipeline(first.plain) == "quantize"


def treatments(menu: Menu) -> set[str]:
    """Names of the levels of both layers."""
    found = survey(graph_of("mlp"), Context(calibration=Calibration([[data("mlp")]])), menu, Spread(), Memory())
    return {option.name for group in found.groups if group.key in ("h", "y") for option in group.options}


def test_four_bits_are_offered_where_they_can_be_of_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside bytes where time counts too, beside floats where it does not; for time alone where weights are read and
    little else is done."""
    fast, small = treatments(Menu()), treatments(Menu(fast=False, small=True))
    both = treatments(Menu(small=True))
    assert "int8 static" in fast and not any("int4" in name for name in fast)
    assert {"int8 static", "int4"} < small and "int4 static" not in small
    assert {"int8 static", "int4 static"} < both and "int4" not in both
    monkeypatch.setattr(findings, "_MANY", 1000)
    assert "int4" in treatments(Menu()) and {"int4", "int4 static"} < treatments(Menu(small=True))
    monkeypatch.setattr(findings, "_FEW", 0)
    assert treatments(Menu()) == fast


def test_wide_dimensions_are_ordered_by_magnitude(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(findings, "WIDE", 40)
    graph = graph_of("mlp")
    found = survey(graph, Context(calibration=Calibration([[data("mlp")]])), Menu(thin=True), Spread(), Memory())
    width = next(g for g, group in enumerate(found.groups) if g in found.counts)
    text = found.pipeline(tuple(2 if g == width else 0 for g in range(len(found.groups))))
    assert "score=magnitude" in text and "refit=false" in text


def test_trained_pipelines_hold_the_plan_and_steps() -> None:
    found = catalog("mlp")
    text = found.trained(choices("mlp")[2], 100)
    assert text is not None
    parse_pipeline(text)
    assert text.count("distill{") == 2 and "steps=70" in text and "steps=30" in text
    assert str(found.trained(choices("mlp")[2], 100, {"plain": 0.003})).count("rate=0.003") == 2
    assert found.trained((0,) * len(found.groups), 100) is None


def test_normalized_convolutions_learn_longer_before_they_are_rounded_and_at_a_rate_of_their_own() -> None:
    biased = CONVS.replace("  %h = conv %x, %w1", "  %b1 = const @a.bias#seed=4 : f32[24]  loc(a)\n  %h = conv %x, %w1, %b1")
    graph, context = parse_graph(biased, generate=True), Context(calibration=Calibration([[data("convs")]]))
    found = survey(graph, context, Menu(fast=False, small=True), Spread(), Memory())
    width = next(g for g, group in enumerate(found.groups) if g in found.counts)
    choice = tuple(1 if g == width else level for g, level in enumerate(found.plain))
    text = found.trained(choice, 100, {"normalized": 0.01, "plain": 0.001})
    taught, mended = [step for step in parse_pipeline(text or "") if step.name == "distill"]
    assert (taught.steps, taught.rate, mended.steps, mended.rate) == (80, 0.01, 20, 0.001)


def test_what_is_factored_is_trained_before_it_is_rounded() -> None:
    found = catalog("mlp")
    group, level = next(
        (g, i) for g, some in enumerate(found.groups) for i, o in enumerate(some.options)
        if o.kind == offers.THIN and "int8 static" in o.name
    )
    choice = tuple(level if g == group else plain for g, plain in enumerate(found.plain))
    text = found.trained(choice, 100)
    assert text is not None
    steps = [step.name for step in parse_pipeline(text)]
    assert steps == ["treat", "distill", "quantize", "distill"]
    assert pipeline_text(parse_pipeline(text)[:1]) in found.pipeline(choice)


@pytest.mark.parametrize(("name", "kinds"), [("mlp", ["channel", "blocks"]), ("convs", ["spatial", "channel"])])
def test_so_is_what_is_factored_and_has_few_bits(name: str, kinds: list[str]) -> None:
    """Factors and blocks are trained as floats; their parts become integers behind that."""
    found = catalog(name)
    for kind in kinds:
        group, level = next(
            (g, i) for g, some in enumerate(found.groups) for i, o in enumerate(some.options)
            if o.name.startswith(kind) and "int4" in o.name
        )
        choice = tuple(level if g == group else 0 for g in range(len(found.groups)))
        text = found.trained(choice, 100)
        assert text is not None
        shaping, first, rounding, *rest = parse_pipeline(text)
        assert [s.name for s in (shaping, first, rounding, *rest)][:3] == ["treat", "distill", "treat"]
        assert "int" not in pipeline_text([shaping]) and kind not in pipeline_text([rounding])
        graph = graph_of(name)
        context = Context(calibration=Calibration([[data(name)]]))
        PassManager([shaping, rounding]).run(graph, context)
        verify(graph)
        assert not [r for r in context.remarks if r.kind == "missed"]
        promised = sum(found.nbytes(i, choice) for i in range(len(found.touching)))
        assert matrix_bytes(graph) == pytest.approx(promised, rel=0.02)


def test_a_glance_rounds_to_the_nearest() -> None:
    """About the same error, without what takes longest; treatments below 8 bits stay as they are."""
    found, choice = catalog("mlp"), choices("mlp")[2]
    text = found.glanced(found.pipeline(choice))
    assert "rounding=nearest" in text and text.replace("{rounding=nearest}", "").replace("rounding=nearest,", "") == (
        found.pipeline(choice)
    )
    assert "rounding" not in found.glanced('treat{choices=["h=int4"]}')


def test_passes_before_a_training_see_a_part_of_much_data() -> None:
    """At least 32 batches and 256 samples; training sees all, and where there is no more than that nothing is said."""
    for rows, batches, limits in ((8, 100, {"32"}), (2, 200, set()), (300, 33, {"32"}), (8, 32, set())):
        x = torch.zeros(rows, 64)
        found = offers._sampled((Prune(), Quantize()), Calibration([[x]] * batches))
        assert {f"{p.limit}" for p in found if p != type(p)()} == limits


def test_processes_find_the_same_candidates() -> None:
    graph, calibration = graph_of("convs"), Calibration([[data("convs")]])
    menu = LayerMenu(shares=(0.5,), precisions=((None, "none"), (8, "static"), (4, "none")))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    here = layer_candidates(graph, Context(calibration=calibration), menu=menu)
    torch.set_num_threads(threads)
    with ProcessPoolExecutor(1) as pool:
        there = layer_candidates(graph, Context(calibration=calibration), menu=menu, spread=Spread(pool))
    assert there == here


def test_a_layer_whose_task_fails_is_left_out_with_a_remark(monkeypatch: pytest.MonkeyPatch) -> None:
    from mcomp.passes.compress import candidates

    usual = candidates.run_layer_task

    def fail(task: candidates.LayerTask) -> object:
        if task.node.name == "c":
            raise MemoryError("no room")
        return usual(task)

    monkeypatch.setattr(candidates, "run_layer_task", fail)
    context = Context(calibration=Calibration([[data("convs")]]))
    assert set(layer_candidates(graph_of("convs"), context)) == {"h", "y"}
    assert "MemoryError: no room" in next(r.reason for r in context.remarks if r.layer == "b")


def student_catalog(path: str, *students: torch.nn.Module) -> tuple[LayersAndWidths, Context]:
    context = Context(calibration=Calibration([[mixed(300, 64)]]))
    context.shared.update({STUDENTS: {path: students}, TRAINING: 20.0})
    return survey(mlp(outputs=64), context, Menu(fast=False, small=True, thin=True), Spread(), Memory()), context


def test_a_given_student_takes_the_place_of_its_module_and_leaves_the_rest_to_be_chosen() -> None:
    torch.manual_seed(0)
    student = torch.nn.Sequential(torch.nn.Linear(64, 8), torch.nn.ReLU(), torch.nn.Linear(8, 64))
    found, context = student_catalog("", student)
    group = next(i for i, g in enumerate(found.groups) if g.key == "student of the model")
    assert 0.0 < found.groups[group].options[1].error < 1.0
    others = [i for i, g in enumerate(found.groups) if i != group]
    assert all(group in found.groups[i].inside for i in others)
    choice = tuple(1 if i == group else level for i, level in enumerate(found.plain))
    text = found.pipeline(choice)
    assert text.startswith("distill{student=given,")
    assert "widths" not in text
    taught, rounded, mended = parse_pipeline(found.trained(choice, 50) or "")
    assert (taught.student, taught.steps, rounded.name) == ("given", 35, "quantize")
    assert (taught.augment, mended.augment, mended.steps) == ("mix", None, 15)  # the model runs along in neither
    # However far off it is after few steps, by which the pace is told: otherwise the pace would be that of the whole model.
    for few in (text, found.trained(choice, 2) or "", found.trained(choice, 2, {"plain": 3e4}) or ""):
        graph = mlp(outputs=64)
        PassManager(parse_pipeline(few)).run(graph, context)
        verify(graph)
        assert [n.operand(1).tensor.shape for n in graph.nodes if n.op.name == "linear"] == [(8, 64), (64, 8)]
    assert matrix_bytes(graph) == pytest.approx(sum(found.nbytes(i, choice) for i in range(len(found.touching))), rel=0.02)
    everything = tuple(len(g.options) - 1 for g in found.groups)
    assert found.pipeline(everything) == text


def test_of_several_students_of_a_module_one_is_chosen() -> None:
    torch.manual_seed(0)
    students = [torch.nn.Sequential(torch.nn.Linear(64, n), torch.nn.ReLU(), torch.nn.Linear(n, 64)) for n in (2, 4096, 16)]
    found, context = student_catalog("", *students)
    assert any("student 1 of the model is no choice" in note for note in found.notes)
    group = next(i for i, g in enumerate(found.groups) if g.key == "student of the model")
    kept, small, large = found.groups[group].options
    assert (kept.name, small.name, large.name) == ("kept", "given 0", "given 2")
    assert small.error > large.error
    part = len(found.layers)
    for level, width, number in ((1, 2, 0), (2, 16, 2)):
        choice = (*found.plain[:group], level, *found.plain[group + 1 :])
        text, graph = found.pipeline(choice), mlp(outputs=64)
        assert ("number=2" in text) is (number == 2)
        PassManager(parse_pipeline(text)).run(graph, context)
        assert [n.operand(1).tensor.shape for n in graph.nodes if n.op.name == "linear"] == [(width, 64), (64, width)]
        assert found.nbytes(part, choice) == pytest.approx(matrix_bytes(graph), rel=0.02)


def test_a_student_that_is_no_smaller_is_no_choice_and_the_note_says_why() -> None:
    torch.manual_seed(0)
    wide = torch.nn.Sequential(torch.nn.Linear(64, 4096), torch.nn.ReLU(), torch.nn.Linear(4096, 64))
    found, _ = student_catalog("", wide)
    assert found.students == ()
    assert "no smaller" in found.notes[0]
