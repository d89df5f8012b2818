"""Small graphs that the tests of compressions share."""

from __future__ import annotations

import numpy as np
import torch

from mcomp.ir import Graph, Node, graph_text, parse_graph, verify
from mcomp.manager import Context, PassManager
from mcomp.ops.evaluate import run_graph
from mcomp.plan.quality import relative_error
from mcomp.runtime.calibration import Calibration


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    """Normal numbers, the same for the same seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def mixed(*shape: int, seed: int = 0, rank: int = 4) -> torch.Tensor:
    """Rows whose channels depend on each other: mostly `rank` directions, and a little noise."""
    width = shape[-1]
    return random(*shape[:-1], rank, seed=seed) @ random(rank, width, seed=99) + 0.1 * random(*shape, seed=seed + 1) + 0.5


def layers(graph: Graph) -> list[Node]:
    """The linear and conv nodes."""
    return [n for n in graph.nodes if n.op.name in ("linear", "conv")]


def weight_of(node: Node) -> np.ndarray:
    """The decoded weight of a layer."""
    stored = node.operand(1).weight
    assert stored is not None
    return np.array(stored.decode())


def compressed(
    graph: Graph, pipeline: str, batches: list[list[torch.Tensor]], **options: object
) -> tuple[Graph, Context, float]:
    """A clone of the graph after the pipeline, its context, and the relative error of its outputs. The clone verifies and
    survives printing and parsing."""
    copy = graph.clone()
    context = Context(calibration=Calibration(batches), **options)  # type: ignore[arg-type]
    PassManager(pipeline).run(copy, context)
    verify(copy)
    assert graph_text(parse_graph(graph_text(copy), copy.store)) == graph_text(copy)
    ours, theirs = ([run_graph(g, b) for b in batches] for g in (copy, graph))
    return copy, context, relative_error(ours, theirs)


def mlp(width: int = 64, inner: int = 96, outputs: int = 48) -> Graph:
    """Two linears with a bias and a relu between them."""
    return parse_graph(f"""
    graph @mlp[B in 1..](%x: f32[B, {width}]) -> (f32[B, {outputs}]) {{
      %w = const @fc1.weight#seed=1 : f32[{inner}, {width}]  loc(fc1)
      %b = const @fc1.bias#seed=2 : f32[{inner}]  loc(fc1)
      %h = linear %x, %w, %b : f32[B, {inner}]  loc(fc1)
      %r = relu %h : f32[B, {inner}]  loc(act)
      %v = const @fc2.weight#seed=3 : f32[{outputs}, {inner}]  loc(fc2)
      %y = linear %r, %v : f32[B, {outputs}]  loc(fc2)
      return %y
    }}""", generate=True)


def conv(
    inputs: int = 12, outputs: int = 16, kernel: str = "3, 3", stride: str = "1, 1", padding: str = "[1, 1], [1, 1]",
    dilation: str = "1, 1", size: str = "8, 8", out: str = "8, 8", groups: int = 1,
) -> Graph:
    """One convolution with a bias."""
    attrs = f"{{stride = [{stride}], padding = [{padding}], dilation = [{dilation}], groups = {groups}}}"
    return parse_graph(f"""
    graph @cnn[B in 1..](%x: f32[B, {inputs}, {size}]) -> (f32[B, {outputs}, {out}]) {{
      %w = const @c.weight#seed=1 : f32[{outputs}, {inputs // groups}, {kernel}]  loc(c)
      %b = const @c.bias#seed=2 : f32[{outputs}]  loc(c)
      %y = conv %x, %w, %b {attrs} : f32[B, {outputs}, {out}]  loc(c)
      return %y
    }}""", generate=True)
