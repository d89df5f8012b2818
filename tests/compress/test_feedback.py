"""Rounding: feedback and learning lower the output's error, hold masks and are what `quantize` uses."""

import numpy as np
import pytest
import torch

from mcomp.backend import CompileOptions
from mcomp.backends.cpu import BACKEND
from mcomp.backends.cpu.executor import CpuExecutable
from mcomp.ir import Affine, BlockSparse, TensorType, dtypes
from mcomp.ir.encoding import NM
from mcomp.passes.compress.algebra import damped, output_error
from mcomp.passes.compress.encode import stored_blocks
from mcomp.passes.compress.feedback import DAMPING, Levels, Way, learn, round_weight
from tests.compress.graphs import compressed, conv, layers, mixed, mlp, random, weight_of
from tests.cpu.backend_harness import check, needs_compiler

WAYS: tuple[Way, ...] = ("nearest", "feedback", "learned")


def problem(groups: int = 1, rows: int = 24, width: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight and second moments of inputs that depend on each other."""
    inputs = torch.stack([mixed(500, width, seed=i).double() for i in range(groups)])
    return random(groups, rows, width, seed=7).double(), inputs.transpose(1, 2) @ inputs / 500


@pytest.mark.parametrize("levels", [Levels(-8, 7), Levels(-8, 7, 16), Levels(-128, 127)])
@pytest.mark.parametrize("groups", [1, 3])
def test_feedback_beats_the_nearest_and_learning_beats_feedback(levels: Levels, groups: int) -> None:
    weight, gram = problem(groups)
    errors = []
    for way in WAYS:
        found = round_weight(weight, gram, levels, way)
        assert found.integers.min() >= levels.low and found.integers.max() <= levels.high
        assert torch.equal(found.integers, found.integers.round())
        assert found.scales.shape == (groups, 24, 1 if levels.group is None else 4) and (found.scales > 0).all()
        errors.append(output_error(found.weight - weight, gram))
    nearest, feedback, learned = errors
    assert feedback < 0.7 * nearest
    assert learned < feedback


def test_learning_never_raises_the_error_and_ends_where_no_change_helps() -> None:
    weight, gram = problem(width=32)
    gram = damped(gram, DAMPING)
    levels = Levels(-8, 7, 16)
    found = round_weight(weight, gram, levels, "feedback", damping=0.0)
    last = output_error(found.weight - weight, gram)
    for _ in range(8):
        found = learn(weight, gram, found, sweeps=1)
        error = output_error(found.weight - weight, gram)
        assert error <= last * (1 + 1e-9)
        last = error
    found = learn(weight, gram, found, sweeps=40)
    last = output_error(found.weight - weight, gram)
    for place in [(0, 0, 0), (0, 3, 17), (0, 23, 31)]:
        for step in (-1, 1):
            changed = found.integers.clone()
            changed[place] = (changed[place] + step).clamp(levels.low, levels.high)
            other = changed * levels.spread(found.scales, 32)
            assert output_error(other - weight, gram) >= last * (1 - 1e-9)


def test_without_correlations_feedback_is_rounding_to_the_nearest() -> None:
    weight = random(1, 8, 20).double()
    gram = torch.eye(20).double()[None]
    plain, fed = (round_weight(weight, gram, Levels(-8, 7), way) for way in ("nearest", "feedback"))  # type: ignore[arg-type]
    assert torch.equal(plain.integers, fed.integers)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("patterns", [2, 24])
def test_masks_are_held(way: Way, patterns: int) -> None:
    """Few masks are solved on the inputs they keep, many in turn; both hold zeros and gain from feedback."""
    weight, gram = problem()
    choices = torch.rand(patterns, 64, generator=torch.Generator().manual_seed(0)) < 0.5
    mask = choices[torch.arange(24) % patterns][None]
    pruned = torch.where(mask, weight, 0.0)
    found = round_weight(pruned, gram, Levels(-8, 7), way, mask)
    assert not found.integers[~mask].any()
    if way != "nearest":
        plain = round_weight(pruned, gram, Levels(-8, 7), "nearest", mask)
        assert output_error(found.weight - pruned, gram) < 0.8 * output_error(plain.weight - pruned, gram)


def test_singular_moments_and_rows_of_zeros() -> None:
    weight, _ = problem()
    weight[0, 3] = 0
    for gram in (torch.zeros(1, 64, 64).double(), torch.ones(1, 64, 64).double()):
        for way in WAYS:
            found = round_weight(weight, gram, Levels(-8, 7, 32), way)
            assert torch.isfinite(found.weight).all() and not found.integers[0, 3].any()


@pytest.mark.parametrize("pipeline", [
    "quantize{bits=4}", "quantize{bits=4,group=16}", "quantize{bits=4,activations=dynamic}",
])
def test_four_bits_are_better_with_feedback(pipeline: str) -> None:
    batches = [[mixed(100, 64, seed=i)] for i in range(3)]
    errors = {}
    for way in ("nearest", "feedback", "learned", "auto"):
        graph, _, errors[way] = compressed(mlp(), pipeline.replace("}", f",rounding={way}}}"), batches)
        assert all(n.operand(1).tensor.encoding.dtype is dtypes.i4 for n in layers(graph))  # type: ignore[attr-defined]
        assert 0.3 * errors[way] < sum(e.error**2 for e in graph.ledger) ** 0.5 < 3 * errors[way]
    assert errors["feedback"] < 0.9 * errors["nearest"]
    assert errors["auto"] < 0.9 * errors["nearest"]


@needs_compiler
@pytest.mark.parametrize("activations", ["none", "dynamic"])
def test_fewer_bits_lose_more_and_run(activations: str) -> None:
    batches, errors, sizes = [[mixed(100, 64)]], [], []
    for bits in (8, 4, 3, 2):
        pipeline = f"quantize{{bits={bits},activations={activations},max_error=9.0}}"
        graph, _, error = compressed(mlp(), pipeline, batches)
        errors.append(error)
        sizes.append(sum(n.operand(1).weight.nbytes for n in layers(graph)))  # type: ignore[union-attr]
        if bits < 4:
            executable = BACKEND.compile(graph, CompileOptions(threads=2))
            assert isinstance(executable, CpuExecutable)
            assert sum("linear" in k.name for k in executable.kernels({"B": 5})) == 2
            check(executable, [mixed(5, 64, seed=3)], tolerance=5e-3)
    assert errors == sorted(errors) and sizes == sorted(sizes, reverse=True) and errors[-1] < 0.6
    assert sizes[2] < 0.8 * sizes[1] and sizes[3] < 0.75 * sizes[2]


def test_auto_leaves_eight_bits_that_change_little_to_the_nearest() -> None:
    graph, _, _ = compressed(mlp(), "quantize", [[mixed(100, 64)]])
    assert not any("rounded with" in e.detail for e in graph.ledger)
    graph, _, _ = compressed(mlp(), "quantize{rounding=feedback}", [[mixed(100, 64)]])
    assert all("rounded with error feedback" in e.detail for e in graph.ledger)


@pytest.mark.parametrize("groups", [1, 4])
def test_convolutions_with_feedback(groups: int) -> None:
    x = mixed(6, 8, 8, 12).permute(0, 3, 1, 2).contiguous()
    errors = [
        compressed(conv(groups=groups), f"quantize{{bits=4,rounding={way},correct=false}}", [[x]])[2]
        for way in ("nearest", "learned")
    ]
    assert errors[1] < 0.9 * errors[0]


def test_zeros_of_a_pruned_weight_stay_zero() -> None:
    graph = mlp()
    node = layers(graph)[0]
    dense = weight_of(node)
    dense[:, ::3] = 0
    dense[::4, 1::3] = 0
    with graph.edit("prune") as e:
        e.replace(node.operand(1), e.const(dense, name="fc1.weight", before=node))
    found, _, _ = compressed(graph, "quantize{bits=4,rounding=learned}", [[mixed(100, 64)]])
    after = weight_of(layers(found)[0])
    assert not after[dense == 0].any() and after[dense != 0].any()


def blocks(dense: np.ndarray, block: tuple[int, int], keep: np.ndarray) -> tuple[BlockSparse, dict[str, np.ndarray]]:
    """The encoding and parts of the kept blocks of a matrix."""
    counts, columns = keep.sum(1), np.concatenate([row.nonzero()[0] for row in keep]).astype(np.int32)
    starts = np.concatenate([[0], counts.cumsum()]).astype(np.int32)
    return BlockSparse(block, int(counts.sum())), {
        "values": stored_blocks(dense, block, starts, columns), "columns": columns, "rows": starts,
    }


@pytest.mark.parametrize("bits", [4, 8])
def test_block_sparse_weights_become_integers_in_their_blocks(bits: int) -> None:
    graph = mlp()
    node = layers(graph)[0]
    dense = weight_of(node)
    keep = np.random.default_rng(0).random((3, 16)) < 0.5
    encoding, parts = blocks(dense, (32, 4), keep)
    with graph.edit("prune") as e:
        type = TensorType((96, 64), dtypes.f32, encoding)
        e.replace(node.operand(1), e.const(parts["values"], parts=parts, type=type, name="fc1.weight", before=node))
    batches = [[mixed(100, 64)]]
    found, context, error = compressed(graph, f"quantize{{bits={bits}}}", batches)
    coded = layers(found)[0].operand(1).tensor.encoding
    assert isinstance(coded, BlockSparse) and isinstance(coded.inner, Affine) and coded.inner.dtype.bits == bits
    mask = np.kron(keep, np.ones((32, 4), bool))
    assert not weight_of(layers(found)[0])[~mask].any()
    assert 0 < error < (0.15 if bits == 4 else 0.03), [str(r) for r in context.remarks]
    assert all(e.bytes_saved > 0 for e in found.ledger)


def test_two_of_four_weights_become_integers_in_their_places() -> None:
    graph = mlp()
    node = layers(graph)[0]
    dense = weight_of(node).reshape(96, 16, 4)
    at = np.sort(np.argsort(-np.abs(dense), -1)[..., :2], -1)
    parts = {"values": np.ascontiguousarray(np.take_along_axis(dense, at, -1).reshape(96, 32)),
             "indices": np.ascontiguousarray(at.reshape(96, 32).astype(np.uint8))}
    with graph.edit("prune") as e:
        type = TensorType((96, 64), dtypes.f32, NM(2, 4))
        e.replace(node.operand(1), e.const(parts["values"], parts=parts, type=type, name="fc1.weight", before=node))
    found, _, error = compressed(graph, "quantize{bits=4,rounding=learned}", [[mixed(100, 64)]])
    coded = layers(found)[0].operand(1).tensor.encoding
    assert isinstance(coded, NM) and coded.inner == Affine(dtypes.i4, axis=(0,))
    assert ((weight_of(layers(found)[0]).reshape(96, 16, 4) != 0).sum(-1) <= 2).all()
    assert 0 < error < 0.15
