"""Graphs and passes that the tests of the manager share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from mcomp.ir import Graph, parse_graph
from mcomp.manager import Analysis, Context, Pass, PassEffect, PassResult, register_pass

MLP = """
graph @mlp[B in 1..](%x: f32[B, 8]) -> (f32[B, 4]) {
  %w = const @fc1.weight#seed=1 : f32[8, 8]  loc(fc1)
  %h = linear %x, %w : f32[B, 8]  loc(fc1)
  %r = relu %h : f32[B, 8]  loc(act)
  %v = const @fc2.weight#seed=2 : f32[4, 8]  loc(fc2)
  %y = linear %r, %v : f32[B, 4]  loc(fc2)
  return %y
}
"""


def mlp() -> Graph:
    return parse_graph(MLP, generate=True)


@dataclass(frozen=True)
class CountNodes(Analysis):
    """The number of nodes."""

    name = "test-count"
    runs: ClassVar[list[int]] = []

    def run(self, graph: Graph, context: Context) -> int:
        self.runs.append(graph.version)
        return len(graph)


@register_pass
@dataclass(frozen=True)
class AddAbs(Pass):
    """Put `abs` behind every relu, once: exact, as relu is never negative."""

    name = "test-add-abs"
    keeps: bool = False
    times: int = 1

    def run(self, graph: Graph, context: Context) -> PassResult:
        done = 0
        for node in list(graph.nodes):
            if node.op.name != "relu" or any(u.op.name == "abs" for u in node.result.users):
                continue
            for _ in range(self.times):
                if not context.allow_rewrite(self.name):
                    break
                with graph.edit(self.name, loc=node.loc) as e:
                    users = node.result.uses
                    new = e.add("abs", [node.result], loc=node.loc, before=node.next).result
                    for user, index in users:
                        e.set_operand(user, index, new)
                done += 1
        return PassResult(done > 0, frozenset({"test-count"}) if self.keeps else frozenset(), {"added": done})


@register_pass
@dataclass(frozen=True)
class Break(Pass):
    """Claim to be exact, and put `exp` behind the relu with this number of earlier harmless rewrites."""

    name = "test-break"
    harmless: int = 2
    effect: ClassVar[PassEffect] = PassEffect.EXACT

    def run(self, graph: Graph, context: Context) -> PassResult:
        relu = next(n for n in graph.nodes if n.op.name == "relu")
        changed = False
        for step in range(self.harmless + 2):
            if not context.allow_rewrite(self.name):
                break
            with graph.edit(f"{self.name}-{step}", loc=relu.loc) as e:
                users = relu.result.uses
                op = "exp" if step == self.harmless else "abs"
                new = e.add(op, [relu.result], loc=relu.loc, before=relu.next).result
                for user, index in users:
                    e.set_operand(user, index, new)
            changed = True
        return PassResult(changed)


@register_pass
@dataclass(frozen=True)
class Negate(Pass):
    """Put `neg` behind every relu: where that gives zeros, only their signs change."""

    name = "test-negate"

    def run(self, graph: Graph, context: Context) -> PassResult:
        relu = next(n for n in graph.nodes if n.op.name == "relu")
        with graph.edit(self.name) as e:
            users = relu.result.uses
            new = e.add("neg", [relu.result], before=relu.next).result
            for user, index in users:
                e.set_operand(user, index, new)
        return PassResult(True)


@register_pass
@dataclass(frozen=True)
class Lower(AddAbs):
    """The same as `AddAbs`, and never left out."""

    name = "test-lower"
    required: ClassVar[bool] = True


@register_pass
@dataclass(frozen=True)
class LowerWrong(Break):
    """The same as `Break`, and never left out."""

    name = "test-lower-wrong"
    required: ClassVar[bool] = True


@register_pass
@dataclass(frozen=True)
class Crash(Pass):
    """Fail in the middle of an edit."""

    name = "test-crash"

    def run(self, graph: Graph, context: Context) -> PassResult:
        with graph.edit("crash") as e:
            e.add("relu", [graph.inputs[0]])
            raise RuntimeError("on purpose")


@register_pass
@dataclass(frozen=True)
class CrashLater(Pass):
    """Finish an edit that gives the first layer the weight of zeros, then fail."""

    name = "test-crash-later"

    def run(self, graph: Graph, context: Context) -> PassResult:
        first = next(n for n in graph.nodes if n.op.name == "const")
        zeros = graph.store.add(first.type, np.zeros(first.type.static_shape, np.float32))
        with graph.edit("zeros") as e:
            e.set_attrs(first, digest=zeros.digest)
        raise RuntimeError("on purpose")


@register_pass
@dataclass(frozen=True)
class Lie(Pass):
    """Change the graph and deny it."""

    name = "test-lie"

    def run(self, graph: Graph, context: Context) -> PassResult:
        with graph.edit("lie") as e:
            e.add("relu", [graph.inputs[0]])
        return PassResult(False)


def same(a: Any, b: Any) -> bool:
    import torch

    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
