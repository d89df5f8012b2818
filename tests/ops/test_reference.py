"""Every case: inferred types, text, cost, and the reference against independent formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mcomp.ir import dims, dtypes, parse_graph, verify
from mcomp.ir.types import TensorType
from mcomp.ops import Tolerance, all_ops, op_named
from mcomp.ops.elementwise import ElementWise
from mcomp.ops.evaluate import evaluate_attrs, run_graph
from tests.ops.cases import ALL_CASES
from tests.ops.suite import Case, assert_close, graph_of, inputs_of, scale_of, tolerance_of, with_absent

_PARAMETERS = [pytest.param(c, id=c.id) for c in ALL_CASES]
_VARIANTS = ("plain", "special", "strided")


def _variants(case: Case) -> list[str]:
    return [v for v in _VARIANTS if v != "special" or case.special]


def test_names_of_cases_are_unique() -> None:
    names = [c.id for c in ALL_CASES]
    assert len(names) == len(set(names)), sorted({n for n in names if names.count(n) > 1})


def test_every_operator_has_a_case() -> None:
    structural = {"return", "const", "fused", "decode", "quantize"}
    missing = all_ops().keys() - {c.op for c in ALL_CASES} - structural
    assert not missing, f"operators without a case: {sorted(missing)}"


def test_every_operator_has_a_docstring() -> None:
    assert not [name for name, op in all_ops().items() if not type(op).__doc__]


@pytest.mark.parametrize("case", _PARAMETERS)
def test_inferred_types_and_text(case: Case) -> None:
    graph = graph_of(case)
    verify(graph)
    text = str(graph)
    again = parse_graph(text)
    verify(again)
    assert str(again) == text


@pytest.mark.parametrize("case", _PARAMETERS)
def test_reference_gives_the_inferred_types(case: Case) -> None:
    graph = graph_of(case)
    for sizes in case.all_sizes():
        for variant in _variants(case):
            outputs = run_graph(graph, inputs_of(case, sizes, variant), sizes)
            assert len(outputs) == len(graph.outputs)
            for value, found in zip(graph.outputs, outputs):
                if isinstance(value.type, TensorType):
                    assert found.dtype == dtypes.to_torch(value.type.dtype)


@pytest.mark.parametrize("case", [p for p in _PARAMETERS if p.values[0].expect is not None])
def test_reference_against_a_formula(case: Case) -> None:
    graph = graph_of(case)
    (node,) = graph.nodes
    for sizes in case.all_sizes():
        for variant in _variants(case):
            given = inputs_of(case, sizes, variant)
            found = run_graph(graph, given, sizes)
            with np.errstate(all="ignore"):
                expected = case.expect(*with_absent(case, [_wide(x) for x in given]),
                                       **evaluate_attrs(node.attrs, sizes))
            pieces = list(expected) if isinstance(expected, (tuple, list)) else [expected]
            assert len(pieces) == len(found)
            for a, b in zip(found, pieces):
                wanted = torch.from_numpy(np.array(b)).to(a.dtype)
                tolerance = tolerance_of(case)
                assert_close(a, wanted, Tolerance.APPROXIMATE if tolerance is Tolerance.ROUNDING else tolerance,
                             f"{sizes} {variant}", scale=scale_of(case, given, wanted))


def _wide(x: torch.Tensor) -> np.ndarray:
    """The numpy array that formulas compute with: floats as f64."""
    return x.double().numpy() if x.is_floating_point() else x.numpy()


@pytest.mark.parametrize("case", _PARAMETERS)
def test_cost_is_known_for_every_size(case: Case) -> None:
    graph = graph_of(case)
    for node in graph.nodes:
        cost = node.op.node_cost(node)
        for sizes in case.all_sizes():
            known = {**dict.fromkeys(graph.symbols, 2), **sizes}
            assert all(dims.evaluate(c, known) >= 0 for c in (cost.flops, cost.read, cost.write))


@pytest.mark.parametrize("name", sorted(n for n, o in all_ops().items() if isinstance(o, ElementWise)))
def test_element_types_agree_with_torch(name: str) -> None:
    """Where an element-wise operator accepts a type, torch takes it and gives the stated result type."""
    op = op_named(name)
    cases = [c for c in ALL_CASES if c.op == name]
    attrs = next(iter(graph_of(cases[0]).nodes)).attrs
    tried = 0
    for dtype in op.accepts - dtypes.STORED_ONLY:
        types = [TensorType((2, 3), dtype) for _ in op.operands]
        if name == "where":
            types[0] = TensorType((2, 3), dtypes.bool_)
        if name == "div" and not dtype.is_float and not dtype.is_complex:
            attrs = {"rounding": "floor"}
        elif name == "div":
            attrs = {"rounding": "none"}
        (inferred,) = op.infer(types, attrs)
        found = op.reference([torch.ones(2, 3).to(dtypes.to_torch(t.dtype)) for t in types], attrs)
        assert (tuple(found.shape), found.dtype) == (inferred.shape, dtypes.to_torch(inferred.dtype))
        tried += 1
    assert tried
