"""Random graphs on every backend: what goes wrong only when operators meet (fusion, layouts, reuse of memory)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mcomp.backend import CompileOptions, backend_named, backends
from mcomp.ir import Graph
from mcomp.ops.evaluate import run_graph
from tests.ops.suite import strided
from tests.strategies import graphs, inputs_for

_NAMES = [name for name in backends() if name != "reference"]


@pytest.mark.parametrize("backend", _NAMES)
@settings(
    max_examples=1, derandomize=True, deadline=None, phases=(Phase.generate,), database=None,
    suppress_health_check=list(HealthCheck),
)
@given(st.lists(graphs(max_steps=8, smooth=True), min_size=24, max_size=24))
def test_agrees_with_the_reference(backend: str, many: list[Graph]) -> None:
    """One call compiles all graphs; each runs at several sizes, on contiguous and on strided inputs."""
    missing = backend_named(backend).available()
    if missing is not None:
        pytest.skip(f"{backend}: {missing}")
    compiled = backend_named(backend).compile_many(many, CompileOptions(threads=2))
    for graph, executable in zip(many, compiled, strict=True):
        for batch in (1, 3, 17):
            inputs = inputs_for(graph, batch)
            expected = run_graph(graph, inputs)
            for given_inputs in (inputs, [strided(x) for x in inputs]):
                for a, b in zip(executable.run(given_inputs, {"B": batch}), expected, strict=True):
                    _assert_near(torch.as_tensor(a), b, f"B = {batch}\n{graph}")


def _assert_near(found: torch.Tensor, expected: torch.Tensor, what: str) -> None:
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype), what
    if not expected.is_floating_point():
        assert torch.equal(found, expected), what
        return
    finite = expected.isfinite()
    assert torch.equal(finite, found.isfinite()), what
    scale = float(expected[finite].abs().max()) if finite.any() else 0.0
    torch.testing.assert_close(
        found[finite], expected[finite], rtol=1e-3, atol=1e-4 + 1e-3 * min(scale, 1e6), msg=lambda m: f"{m}\n{what}"
    )
