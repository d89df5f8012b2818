"""Second moments: what layers read, refits on them, and two graphs side by side."""

import numpy as np
import pytest
import torch

from mcomp.ir import Graph, Node, parse_graph
from mcomp.passes.compress.moments import (
    Pair,
    as_weight,
    bias_shift,
    collect_moments,
    cross_moments,
    input_indices,
    moment_bytes,
    refit,
    relative_error,
    solve,
    weight_matrix,
    whiten,
)
from mcomp.passes.compress.samples import collect
from mcomp.runtime.calibration import Calibration

TWO_READERS = """
graph @g[B in 1..](%x: f32[B, 6]) -> (f32[B, 4], f32[B, 3]) {
  %r = relu %x : f32[B, 6]
  %w = const @a.weight#seed=1 : f32[4, 6]
  %y = linear %r, %w : f32[B, 4]  loc(a)
  %v = const @b.weight#seed=2 : f32[3, 6]
  %c = const @b.bias#seed=3 : f32[3]
  %z = linear %r, %v, %c : f32[B, 3]  loc(b)
  return %y, %z
}
"""


def layers(graph: Graph) -> list[Node]:
    return [n for n in graph.nodes if n.op.name in ("linear", "conv")]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def conv_graph(groups: int, stride: str, padding: str, dilation: str, out: str, kernel: str = "3, 2") -> Graph:
    attrs = f"{{stride = {stride}, padding = {padding}, dilation = {dilation}, groups = {groups}}}"
    return parse_graph(f"""
    graph @c[B in 1..](%x: f32[B, 4, 9, 8]) -> (f32[B, 6, {out}]) {{
      %w = const @c.weight#seed=1 : f32[6, {4 // groups}, {kernel}]
      %b = const @c.bias#seed=2 : f32[6]
      %y = conv %x, %w, %b {attrs} : f32[B, 6, {out}]
      return %y
    }}""", generate=True)


def test_a_linear_reads_rows_whatever_the_batches() -> None:
    graph = parse_graph(TWO_READERS, generate=True)
    first, second = layers(graph)
    batches = [random(size, 6, seed=size) for size in (1, 5, 17)]
    found = collect_moments(graph, Calibration([[b] for b in batches]), [first, second])
    rows = torch.cat(batches).relu().double()
    assert found[first] is found[second]
    assert found[first].count == 23
    torch.testing.assert_close(found[first].gram[0], rows.T @ rows / 23)
    torch.testing.assert_close(found[first].mean[0], rows.mean(0))
    torch.testing.assert_close(found[first].covariance[0], torch.cov(rows.T, correction=0))


def test_inputs_of_the_graph_are_seen_and_the_limit_is_kept() -> None:
    graph = parse_graph("""
    graph @g[B in 1..](%x: f32[B, 3, 6]) -> (f32[B, 3, 4]) {
      %w = const @a.weight#seed=1 : f32[4, 6]
      %y = linear %x, %w : f32[B, 3, 4]
      return %y
    }""", generate=True)
    (node,) = layers(graph)
    found = collect_moments(graph, Calibration([[random(2, 3, 6)], [random(4, 3, 6)]]), [node], limit=1)
    assert found[node].count == 6


@pytest.mark.parametrize(("groups", "stride", "padding", "dilation", "out"), [
    (1, "[1, 1]", "[[0, 0], [0, 0]]", "[1, 1]", "7, 7"),
    (1, "[2, 3]", "[[1, 1], [0, 1]]", "[1, 1]", "5, 3"),
    (2, "[1, 2]", "[[2, 0], [1, 1]]", "[2, 3]", "7, 4"),
])
def test_the_moments_of_a_convolution_give_its_output(
    groups: int, stride: str, padding: str, dilation: str, out: str
) -> None:
    """E|W x|^2 by the moments is the mean square of what the convolution gives without its bias."""
    graph = conv_graph(groups, stride, padding, dilation, out)
    (node,) = layers(graph)
    x = random(5, 4, 9, 8)
    moments = collect_moments(graph, Calibration([[x]]), [node])[node]
    weight = weight_matrix(node)
    assert weight.shape == (groups, 6 // groups, 4 // groups * 6) and moments.gram.shape[0] == groups
    stored = node.operand(1).weight
    assert stored is not None
    y = node.op.reference([x, torch.from_numpy(stored.decode().copy()), None], node.attrs).double()
    assert moments.count == y[:, 0].numel()
    squares = ((weight @ moments.gram) * weight).sum(-1).reshape(-1)
    torch.testing.assert_close(squares, y.square().mean((0, 2, 3)), rtol=1e-5, atol=1e-7)
    means = (weight @ moments.mean[..., None]).reshape(-1)
    torch.testing.assert_close(means, y.mean((0, 2, 3)), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(as_weight(weight, stored.type.static_shape), stored.decode())
    assert moment_bytes(node) == 8 * (moments.gram.numel() + moments.mean.numel())


def test_pixels_are_subsampled_the_same_in_every_run() -> None:
    graph = conv_graph(1, "[1, 1]", "[[0, 0], [0, 0]]", "[1, 1]", "7, 7")
    (node,) = layers(graph)
    calibration = Calibration([[random(4, 4, 9, 8)], [random(9, 4, 9, 8, seed=1)]])
    one, two = (collect_moments(graph, calibration, [node], rows=200)[node] for _ in range(2))
    assert one.count == 200
    assert torch.equal(one.gram, two.gram)
    whole = collect_moments(graph, calibration, [node])[node]
    assert whole.count == 13 * 49
    assert 0 < float((one.gram - whole.gram).norm() / whole.gram.norm()) < 0.5


def test_masks_and_infinities_count_as_zeros() -> None:
    graph = parse_graph(TWO_READERS, generate=True)
    node = layers(graph)[0]
    x = random(8, 6).abs()
    spoiled = x.clone()
    spoiled[0, 0], spoiled[1, 1] = torch.finfo(torch.float32).max, float("inf")
    x[0, 0] = x[1, 1] = 0
    found = [collect_moments(graph, Calibration([[b]]), [node])[node].gram for b in (x, spoiled)]
    torch.testing.assert_close(found[0], found[1])


def test_what_no_data_reached_is_left_out() -> None:
    graph = parse_graph(TWO_READERS, generate=True)
    assert collect_moments(graph, Calibration([]), layers(graph)) == {}


def test_a_refit_is_exact_when_the_kept_inputs_span_the_removed_ones() -> None:
    base = random(200, 3).double()
    rows = torch.cat([base, base @ random(3, 2, seed=1).double() + 5.0], 1)
    weight = random(4, 5, seed=2).double()
    gram, mean, keep = rows.T @ rows / 200, rows.mean(0), torch.tensor([0, 1, 2])
    new = refit(weight, gram, keep, damping=0.0, mean=mean)
    shift = bias_shift(weight, new, keep, mean)
    torch.testing.assert_close(rows[:, keep] @ new.T + shift, rows @ weight.T)


def test_a_refit_is_the_least_squares_solution_and_damping_pulls_to_the_kept_weights() -> None:
    rows = random(300, 8).double() @ random(8, 8, seed=1).double()
    weight = random(4, 8, seed=2).double()[None]
    gram, keep = (rows.T @ rows / 300)[None], torch.tensor([0, 2, 3, 7])
    new = refit(weight, gram, keep, damping=0.0)[0]
    best = torch.linalg.lstsq(rows[:, keep], rows @ weight[0].T).solution.T
    torch.testing.assert_close(new, best)
    stiff = refit(weight, gram, keep, damping=1e9)[0]
    torch.testing.assert_close(stiff, weight[0][:, keep], rtol=1e-5, atol=1e-6)


def test_roots_and_solutions_of_a_singular_matrix() -> None:
    half = random(6, 3).double()
    gram = half @ half.T
    root, inverse = whiten(gram)
    torch.testing.assert_close(root @ root, gram, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(root @ inverse, torch.eye(6).double(), rtol=1e-6, atol=1e-6)
    right = gram @ random(6, 2, seed=1).double()
    torch.testing.assert_close(gram @ solve(gram, right, 1e-9), right, rtol=1e-5, atol=1e-5)
    nothing = torch.zeros(3, 3).double()
    assert torch.isfinite(solve(nothing, torch.ones(3, 1).double())).all()
    assert all(torch.isfinite(m).all() for m in whiten(nothing))
    assert relative_error(torch.ones(1, 3).double(), torch.ones(1, 3).double(), nothing) == 0.0


def test_inputs_of_some_channels() -> None:
    assert input_indices(torch.tensor([0, 2]), 3).tolist() == [0, 1, 2, 6, 7, 8]


def test_two_graphs_side_by_side() -> None:
    """A student that reads a narrower value is fitted to the dense outputs; its predicted error is the measured one."""
    dense = parse_graph("""
    graph @dense[B in 1..](%x: f32[B, 6]) -> (f32[B, 4]) {
      %w = const @a.weight#seed=1 : f32[8, 6]
      %h = linear %x, %w : f32[B, 8]
      %r = relu %h : f32[B, 8]
      %v = const @b.weight#seed=2 : f32[4, 8]
      %c = const @b.bias#seed=3 : f32[4]
      %y = linear %r, %v, %c : f32[B, 4]
      return %y
    }""", generate=True)
    student = parse_graph("""
    graph @student[B in 1..](%x: f32[B, 6]) -> (f32[B, 4]) {
      %w = const @a.weight#seed=4 : f32[5, 6]
      %h = linear %x, %w : f32[B, 5]
      %r = relu %h : f32[B, 5]
      %v = const @b.weight#seed=5 : f32[4, 5]
      %y = linear %r, %v : f32[B, 4]
      return %y
    }""", generate=True)
    batches = [random(40, 6, seed=i) for i in range(3)]
    calibration = Calibration([[b] for b in batches])
    teacher, learner = layers(dense)[1], layers(student)[1]
    cross = cross_moments(dense, student, [Pair(teacher, learner)], calibration)[learner]
    weight, bias = cross.regress(weight_matrix(learner), damping=0.0)

    hidden = torch.cat([(b @ torch.from_numpy(layers(student)[0].operand(1).weight.decode().copy()).T).relu()  # type: ignore[union-attr]
                        for b in batches]).double()
    y = torch.cat([calibration.outputs(dense)[i][0] for i in range(3)]).double()
    design = torch.cat([hidden, torch.ones(len(hidden), 1).double()], 1)
    best = torch.linalg.lstsq(design, y).solution
    torch.testing.assert_close(torch.cat([weight[0].T, bias], 0), best, rtol=1e-4, atol=1e-4)
    rough = hidden @ weight[0].T + bias[0]
    assert cross.error(weight, bias) == pytest.approx(float((rough - y).norm() / y.norm()), rel=1e-4)

    some = torch.tensor([3, 1])
    part = cross_moments(dense, student, [Pair(teacher, learner, some)], calibration)[learner]
    torch.testing.assert_close(part.cross, cross.cross[..., some])


def test_convolutions_of_two_graphs_take_the_same_pixels() -> None:
    graph = conv_graph(2, "[1, 2]", "[[2, 0], [1, 1]]", "[2, 3]", "7, 4")
    other, mapping = graph.clone_with_map()
    (node,) = layers(graph)
    copy = mapping[node.result].producer
    assert copy is not None
    calibration = Calibration([[random(5, 4, 9, 8)], [random(3, 4, 9, 8, seed=1)]])
    cross = cross_moments(graph, other, [Pair(node, copy)], calibration, rows=60)[copy]
    assert cross.inputs.count == 60
    bias = node.operand(2).weight
    assert bias is not None
    exact = torch.from_numpy(bias.decode().astype(np.float64)).reshape(2, 3)
    assert cross.error(weight_matrix(node), exact) < 1e-3
    weight, found = cross.regress(torch.zeros_like(weight_matrix(node)), damping=1e-12)
    assert cross.error(weight, found) < 1e-3


def test_only_relevant_rows_are_sampled() -> None:
    graph = parse_graph(TWO_READERS, generate=True)
    node = layers(graph)[0]
    calibration = Calibration([[random(5, 6)], [random(4, 6, seed=1)]])
    calibration.relevant = {(0, 5): torch.tensor([True, False, True, False, False])}
    sample = collect(graph, calibration, [(node.operand(0), -1)], 10)[node.operand(0), -1]
    kept = torch.cat([calibration.batches[0][0][[0, 2]], calibration.batches[1][0]]).relu()
    torch.testing.assert_close(sample.rows(), kept)
    assert sample.high == float(kept.max()) and sample.flat().numel() == 36
