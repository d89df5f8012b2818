"""Compiled models made from IR text, without capture."""

from __future__ import annotations

from mcomp.backend import CompileOptions, backend_named
from mcomp.capture.signature import Parameter, Signature
from mcomp.capture.structure import Items, Leaf, Pairs
from mcomp.ir import Graph, parse_graph
from mcomp.report.report import Report
from mcomp.runtime.compiled import Built, CompiledModel
from mcomp.runtime.program import CompiledProgram

MLP = """
graph @mlp[B in 1..](%x: f32[B, 8]) -> (f32[B, 4]) {
  %w = const @fc1.weight#seed=1 : f32[16, 8]  loc(fc1)
  %b = const @fc1.bias#seed=2 : f32[16]  loc(fc1)
  %h = linear %x, %w, %b : f32[B, 16]  loc(fc1 "model.py":7)
  %r = relu %h : f32[B, 16]  loc(act)
  %v = const @fc2.weight#seed=3 : f32[4, 16]  loc(fc2)
  %y = linear %r, %v : f32[B, 4]  loc(fc2)
  return %y
}
"""

COUNTER = """
graph @counter[B in 1..](%x: f32[B], state @count %n: f32[]) -> (f32[B], f32[]) {
  %one = full {value = 1.0, shape = [], dtype = !f32} : f32[]
  %m = add %n, %one : f32[]
  %y = mul %x, %m : f32[B]
  return %y, state @count = %m
}
"""


def model(text: str = MLP, target: str = "reference") -> CompiledModel:
    """A compiled model that takes the graph's arguments by name and returns a tensor, or a tuple of several."""
    graph = parse_graph(text, generate=True)
    executable = backend_named(target).compile(graph, CompileOptions())
    names = [v.name for v, s in zip(graph.inputs, graph.input_specs) if s.kind == "arg"]
    signature = Signature(tuple(Parameter(n, "any") for n in names))
    arguments = Pairs(tuple(names), tuple(Leaf(i) for i in range(len(names))))
    count = sum(1 for s in graph.output_specs if s.kind == "result")
    results = Leaf(0) if count == 1 else Items("tuple", tuple(Leaf(i) for i in range(count)))
    program = CompiledProgram(graph, executable, signature, arguments, results)
    return CompiledModel(Built(program=program, parts={}, eager=None, report=Report(target=target)), target=target)


def graph_of(compiled: CompiledModel) -> Graph:
    """The model's graph."""
    return compiled.only_program("read").graph
