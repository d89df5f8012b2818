"""What a student is taught, and on what: kinds of outputs, rows of samples, errors, and the states that torch is in."""

import pytest
import torch

from mcomp.ir import Graph, parse_graph
from mcomp.passes.compress.training.objective import kinds_of


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
