"""The trainable view: same numbers as the interpreter, gradients through every operator, encodings held, write-back."""

import numpy as np
import pytest
import torch

from mcomp.errors import BackendError, IRError
from mcomp.ir import NM, Affine, BlockSparse, Encoding, Graph, Node, TensorType, dtypes, parse_graph, verify
from mcomp.ir.encoding import DENSE
from mcomp.ops import op_named
from mcomp.ops.evaluate import constant, run_graph
from mcomp.passes.compress.training.data import Samples
from mcomp.passes.compress.training.forward import Forward
from mcomp.passes.compress.training.objective import Objective
from mcomp.passes.compress.training.parameters import parameter
from mcomp.passes.compress.training.precision import has_bf16, wants_bf16
from mcomp.passes.compress.training.tasks import Matching
from mcomp.passes.compress.training.trainer import Recipe, train
from mcomp.passes.compress.training.view import TrainableGraph, is_trainable, untie_vectors
from tests.ops.cases import ALL_CASES
from tests.ops.suite import Case, graph_of, inputs_of
from tests.ops.test_encoded import _parts

MLP = """
graph @mlp[B in 1..](%x: f32[B, 16]) -> (f32[B, 8]) {
  %w = const @fc1.weight#seed=1 : f32[12, 16]  loc(fc1)
  %b = const @fc1.bias#seed=2 : f32[12]  loc(fc1)
  %h = linear %x, %w, %b : f32[B, 12]  loc(fc1)
  %q = quantize %h {QUANTIZE} : f32[B, 12] ENCODING  loc(fc1)
  %v = const @fc2.weight#seed=3 : f32[8, 12]  loc(fc2)
  %y = linear %q, %v : f32[B, 8]  loc(fc2)
  return %y
}
"""
STATIC = ("dtype = !i8, scale = 0.02", "affine<i8, scale=0.02>")
DYNAMIC = ("dtype = !i8", "affine<i8, axis=0>")


def mlp(quantize: tuple[str, str] = STATIC) -> Graph:
    return parse_graph(MLP.replace("QUANTIZE", quantize[0]).replace("ENCODING", quantize[1]), generate=True)


def rows(count: int = 6, width: int = 16) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("quantize", [
    STATIC, DYNAMIC, ("dtype = !u8, scale = 0.03, zero = 7", "affine<u8, scale=0.03, zero=7>"),
    ("dtype = !u8, zero_point = true", "affine<u8, axis=0, zero_point=true>"),
])
def test_quantization_in_the_loop_gives_what_the_interpreter_gives(quantize: tuple[str, str]) -> None:
    graph = mlp(quantize)
    (expected,) = run_graph(graph, [rows()])
    (found,) = TrainableGraph(graph)([rows()])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    found.square().sum().backward()


_FLOATS = (torch.float32, torch.float64)


def _differentiable(case: Case) -> bool:
    graph = graph_of(case)
    return any(isinstance(v.type, TensorType) and v.type.dtype.is_float for v in graph.outputs) and any(
        isinstance(v.type, TensorType) and v.type.dtype.is_float for v in graph.inputs
    )


@pytest.mark.parametrize("case", [pytest.param(c, id=c.id) for c in ALL_CASES if _differentiable(c)])
def test_gradients_pass_through_every_operator(case: Case) -> None:
    """Statistics of a batch norm are measured, not trained; results that are the same almost everywhere have no gradient."""
    graph = graph_of(case)
    sizes = case.all_sizes()[0]
    given = inputs_of(case, sizes)
    held = (1, 2) if case.op == "batch_norm" else ()
    leaves = [x.clone().requires_grad_() if x.is_floating_point() and i not in held else x for i, x in enumerate(given)]
    torch.manual_seed(0)
    outputs = [y for y in Forward(graph, constant)(leaves, sizes) if y.is_floating_point()]
    wanted = [x for x in leaves if x.requires_grad]
    linked = [y for y in outputs if y.requires_grad]
    if not linked:
        assert case.op in _WITHOUT_GRADIENT, f"{case.op} cuts gradients off"
        return
    found = torch.autograd.grad(sum(y.double().sum() for y in linked), wanted, allow_unused=True)
    assert all(g is None or g.shape == x.shape for g, x in zip(found, wanted))


_WITHOUT_GRADIENT = {"heaviside", "full_like", "rand_like", "bernoulli", "multinomial", "shape_of"}


def test_gradients_of_a_layer_agree_with_differences() -> None:
    graph = parse_graph("""
    graph @g[B in 1..](%x: f64[B, 4]) -> (f64[B, 3]) {
      %w = const @fc.weight#seed=1 : f64[3, 4]
      %b = const @fc.bias#seed=2 : f64[3]
      %h = linear %x, %w, %b : f64[B, 3]
      %y = tanh %h : f64[B, 3]
      return %y
    }
    """, generate=True)
    view = TrainableGraph(graph)
    x = rows(3, 4).double()
    weight = view.trained[graph.value("w").producer].master  # type: ignore[index]
    view([x])[0].sum().backward()
    step = torch.zeros_like(weight)
    step[1, 2] = 1e-6
    with torch.no_grad():
        weight += step
        high = view([x])[0].sum()
        weight -= 2 * step
        low = view([x])[0].sum()
    assert weight.grad is not None
    assert float(weight.grad[1, 2]) == pytest.approx(float(high - low) / 2e-6, rel=1e-6)


_ENCODINGS = [
    DENSE, Affine(axis=(0,)), Affine(dtypes.u8, axis=(0,), zero_point=True), Affine(dtypes.i4, axis=(0,), group=4),
    Affine(scale=0.037), NM(), NM(2, 4, Affine(axis=(0,))), NM(2, 4, Affine(dtypes.i4, group=4)),
    BlockSparse((4, 4), 5), BlockSparse((4, 4), 6, Affine(axis=(0,))), BlockSparse((2, 8), 0),
]


def encoded_graph(encoding: Encoding) -> Graph:
    graph = Graph("g")
    x = graph.add_input("x", TensorType((6, 16), dtypes.f32))
    dense = np.random.default_rng(5).standard_normal((12, 16)).astype(np.float32)
    with graph.edit("make") as editor:
        type = TensorType((12, 16), dtypes.f32, encoding)
        parts = {"values": dense} if encoding == DENSE else _parts(type, encoding, dense)
        weight = editor.const(parts["values"], parts=parts, type=type, name="fc.weight")
        y = editor.add("linear", [x, weight]).result
    graph.set_outputs([y])
    return graph


@pytest.mark.parametrize("learned", [False, True], ids=["fixed", "learned"])
@pytest.mark.parametrize("encoding", _ENCODINGS, ids=str)
def test_every_encoding_trains_and_is_written_back(encoding: Encoding, learned: bool) -> None:
    graph = encoded_graph(encoding)
    before = next(n for n in graph.nodes if n.op.name == "const")
    was = torch.from_numpy(np.array(before.result.weight.decode()))  # type: ignore[union-attr]
    stored = _stored(before)
    (expected,) = run_graph(graph, [rows()])
    view = TrainableGraph(graph, learn_scales=learned)
    (found,) = view([rows()])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert view.write() == 0, "nothing was trained, so nothing changes"
    optimizer = torch.optim.Adam(list(view.tensors().values()), lr=0.05)
    target = torch.randn(6, 12, generator=torch.Generator().manual_seed(1))
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = (view([rows()])[0] - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    if isinstance(encoding, BlockSparse) and encoding.count == 0:
        return
    assert min(losses[-5:]) < 0.9 * losses[0]
    (expected,) = view([rows()])
    assert view.write() == 1
    verify(graph)
    after = next(n for n in graph.nodes if n.op.name == "const")
    assert after.type == before.type
    (found,) = run_graph(graph, [rows()])
    torch.testing.assert_close(found, expected.detach(), rtol=1e-4, atol=1e-4)
    now = torch.from_numpy(np.array(after.result.weight.decode()))  # type: ignore[union-attr]
    if isinstance(encoding, (NM, BlockSparse)):
        assert not bool(now[~stored].any()), "what was pruned stays zero"
    assert not torch.equal(now, was)


def _stored(node: Node) -> torch.Tensor:
    """Where the encoding of a constant holds elements."""
    weight = node.result.weight
    assert weight is not None
    parts = {k: np.ones_like(v) if k in ("values", "scales") else v for k, v in weight.parts.items()}
    return torch.from_numpy(np.array(weight.type.encoding.decode(parts, weight.type))) != 0


def test_learned_scales_of_activations_are_written_to_the_node() -> None:
    graph = mlp()
    view = TrainableGraph(graph, learn_scales=True)
    view([rows()])[0].square().sum().backward()
    scale = view.tensors()["q:scale"]
    assert scale.grad is not None and float(scale.grad) != 0.0
    with torch.no_grad():
        scale.fill_(0.5)
    (expected,) = view([rows()])
    view.write()
    verify(graph)
    assert graph.value("q").producer.attrs["scale"] == pytest.approx(0.02 * 2.718281828**0.5)  # type: ignore[union-attr]
    torch.testing.assert_close(run_graph(graph, [rows()])[0], expected.detach(), rtol=1e-5, atol=1e-5)


def test_zeros_of_a_pruned_dense_weight_stay() -> None:
    graph = encoded_graph(DENSE)
    node = next(n for n in graph.nodes if n.op.name == "const")
    weight = np.array(node.result.weight.decode())  # type: ignore[union-attr]
    weight[::2] = 0.0
    with graph.edit("prune") as editor:
        editor.set_attrs(node, digest=graph.store.add(node.type, weight).digest)
    view = TrainableGraph(graph)
    view([rows()])[0].sum().backward()
    with torch.no_grad():
        for tensor in view.tensors().values():
            tensor.add_(1.0)
    view.write()
    after = next(n for n in graph.nodes if n.op.name == "const").result.weight.decode()  # type: ignore[union-attr]
    assert not after[::2].any() and after[1::2].all()


def test_chosen_constants_only_are_parameters() -> None:
    graph = mlp()
    view = TrainableGraph(graph, chosen=lambda node: is_trainable(node) and node.attrs["name"] == "fc2.weight")
    assert list(view.tensors()) == ["v:values"]


def test_numbers_of_the_computation_are_no_parameters() -> None:
    graph = parse_graph("""
    graph @g[B in 1..](%x: f32[B, 4]) -> (f32[B, 4]) {
      %gain = const @gain#seed=1 : f32[4]
      %half = const @half#seed=2 : f32[]
      %g = mul %x, %gain : f32[B, 4]
      %y = mul %g, %half : f32[B, 4]
      return %y
    }
    """, generate=True)
    assert [n.name for n in graph.nodes if n.op.name == "const" and is_trainable(n)] == ["gain"]


def test_values_inside_are_features_and_parts_can_be_run() -> None:
    graph = mlp(DYNAMIC)
    view = TrainableGraph(graph, outputs=[graph.value("y"), graph.value("h")])
    y, h = view([rows()])
    part = TrainableGraph(graph, inputs=[graph.value("h")], outputs=[graph.value("y")])
    assert list(part.tensors()) == ["v:values"]
    assert torch.equal(part([h])[0], y)
    with pytest.raises(IRError, match="needed and not given"):
        Forward(graph, constant, inputs=[graph.value("y")], outputs=[graph.value("h")])


def test_images_are_laid_out_channels_last_and_give_the_same() -> None:
    graph = parse_graph("""
    graph @cnn[B in 1..](%x: f32[B, 3, 8, 8]) -> (f32[B, 4, 8, 8]) {
      %w = const @c.weight#seed=1 : f32[4, 3, 3, 3]
      %y = conv %x, %w {stride = [1, 1], padding = [[1, 1], [1, 1]], dilation = [1, 1]} : f32[B, 4, 8, 8]
      return %y
    }
    """, generate=True)
    view = TrainableGraph(graph)
    assert view.channels_last
    x = torch.randn(2, 3, 8, 8)
    (found,) = view([x])
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, run_graph(graph, [x])[0], rtol=1e-5, atol=1e-5)


WIDE = """
graph @wide[B in 1..](%x: f32[B, 128]) -> (f32[B, 128]) {
  %w = const @fc.weight#seed=1 : f32[128, 128]
  %h = linear %x, %w : f32[B, 128]
  %q = quantize %h {dtype = !i8, scale = 0.05} : f32[B, 128] affine<i8, scale=0.05>
  %v = const @out.weight#seed=2 : f32[128, 128]
  %y = linear %q, %v : f32[B, 128]
  return %y
}
"""


def test_steps_in_bf16_train_and_what_is_held_out_stays_float() -> None:
    graph = parse_graph(WIDE, generate=True)
    student = TrainableGraph(graph)
    assert wants_bf16(student, "bf16") and not wants_bf16(student, "f32")
    assert wants_bf16(student, "auto") == has_bf16()
    assert not wants_bf16(TrainableGraph(mlp()), "auto"), "its layers are narrow"
    x = torch.randn(64, 128)
    samples = Samples([[x, x.flip(0)]], [True, True], size=16, held=0.25, seed=0)
    task = Matching(student, samples, Objective(("mse",)), bf16=True)
    exact = Matching(student, samples, Objective(("mse",)))
    batch = samples.epoch(0)[0]
    with torch.no_grad():
        rounded, plain = float(task.loss(batch, 0)), float(exact.loss(batch, 0))
    assert rounded != plain and rounded == pytest.approx(plain, rel=0.05)
    assert task.held() == exact.held()
    assert train(task, samples, Recipe(rate=1e-3, steps=20, checks=2)).improved
    assert all(t.dtype is torch.float32 for t in student.tensors().values())


def test_a_failing_operator_is_named() -> None:
    graph = parse_graph("""
    graph @g(%x: f32[4], %i: i64[2]) -> (f32[2]) {
      %y = gather %x, %i {axis = 0} : f32[2]  loc(pick)
      return %y
    }
    """)
    with pytest.raises(BackendError, match="gather failed"):
        TrainableGraph(graph)([torch.randn(4), torch.tensor([0, 9])])


def test_equal_biases_of_different_layers_become_two() -> None:
    graph = parse_graph("""
    graph @g[B in 1..](%x: f32[B, 4]) -> (f32[B, 4]) {
      %w = const @a.weight#seed=1 : f32[4, 4]
      %v = const @b.weight#seed=2 : f32[4, 4]
      %b = const @a.bias#seed=3 : f32[4]
      %h = linear %x, %w, %b : f32[B, 4]
      %y = linear %h, %v, %b : f32[B, 4]
      return %y
    }
    """, generate=True)
    assert untie_vectors(graph) == 1
    verify(graph)
    assert len(TrainableGraph(graph).tensors()) == 4
    assert untie_vectors(graph) == 0


def test_operators_that_have_a_specification_are_known() -> None:
    for name in ("linear", "conv", "embedding", "layer_norm", "batch_norm", "prelu", "lstm"):
        assert op_named(name).name == name


@pytest.mark.parametrize("quantize", [STATIC, DYNAMIC])
def test_halves_stay_halves_behind_rounding(quantize: tuple[str, str]) -> None:
    text = MLP.replace("QUANTIZE", quantize[0]).replace("ENCODING", quantize[1]).replace("f32", "f16")
    graph = parse_graph(text, generate=True)
    (expected,) = run_graph(graph, [rows().half()])
    (found,) = TrainableGraph(graph)([rows().half()])
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2)
    found.float().square().sum().backward()


def test_what_was_not_only_rounded_starts_as_it_is_stored() -> None:
    """Half of the rows are within a third of a step of what they were, the others (as of smoothed layers) are not."""
    graph = encoded_graph(Affine(axis=(0,)))
    node = next(n for n in graph.nodes if n.op.name == "const")
    weight = node.result.weight
    assert weight is not None
    stored = torch.from_numpy(np.array(weight.decode()))
    step = torch.from_numpy(np.array(weight.parts["scales"])).reshape(-1, 1)
    original = stored + step / 3
    original[6:] += 0.7 * stored[6:]
    found = parameter(node, original=original)
    assert found is not None
    near = (original - stored).abs() <= step
    assert bool(near[:6].all()) and float(near[6:].float().mean()) < 0.2
    kept = torch.minimum(original, stored + 0.49 * step).maximum(stored - 0.49 * step)
    torch.testing.assert_close(found.master.detach(), torch.where(near, kept, stored))


@pytest.mark.parametrize("encoding", [Affine(axis=(0,)), Affine(dtypes.i4, axis=(0,), group=4)], ids=str)
def test_zeros_of_a_pruned_weight_stay_once_it_is_integers(encoding: Affine) -> None:
    graph = encoded_graph(DENSE)
    node = next(n for n in graph.nodes if n.op.name == "const")
    pruned = np.array(node.result.weight.decode())  # type: ignore[union-attr]
    pruned[:, ::2] = 0.0
    with graph.edit("prune") as editor:
        stored = graph.store.add(node.type.with_encoding(encoding), _parts(node.type, encoding, pruned))
        editor.set_attrs(node, digest=stored.digest)
        editor.set_type(node.result, stored.type)
    view = TrainableGraph(graph, originals={"fc.weight": torch.from_numpy(pruned)})
    view([rows()])[0].sum().backward()
    with torch.no_grad():
        for tensor in view.tensors().values():
            tensor.add_(0.5)
    assert not bool(view.trained[node].value()[:, ::2].any())
    assert view.write() == 1
    after = next(n for n in graph.nodes if n.op.name == "const").result.weight.decode()  # type: ignore[union-attr]
    assert not after[:, ::2].any() and after[:, 1::2].any()
