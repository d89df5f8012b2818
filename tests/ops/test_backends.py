"""Every case on every backend, against the reference: plain, odd and strided inputs, at every size."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import pytest
import torch

from mcomp.backend import CompileOptions, Executable, backend_named, backends
from mcomp.errors import McompError
from mcomp.ops.evaluate import run_graph
from tests.ops.cases import ALL_CASES
from tests.ops.suite import Case, assert_close, graph_of, inputs_of, scale_of, tolerance_of

_OPTIONS = CompileOptions(threads=2)


def _missing(name: str) -> str | None:
    return backend_named(name).available()


_NAMES = [
    pytest.param(name, marks=pytest.mark.skipif(_missing(name) is not None, reason=f"{name}: {_missing(name)}"))
    for name in backends()
]


@cache
def _compiled(backend: str) -> dict[str, Executable | McompError]:
    """Every case's executable, or why it does not compile. All are compiled in one call, which is many times cheaper
    than one by one; where that fails, in halves, down to the cases at fault."""
    return _compile(backend, ALL_CASES)


def _compile(backend: str, cases: Sequence[Case]) -> dict[str, Executable | McompError]:
    try:
        found = backend_named(backend).compile_many([graph_of(c) for c in cases], _OPTIONS)
    except McompError as e:
        if len(cases) == 1:
            return {cases[0].id: e}
        middle = len(cases) // 2
        return _compile(backend, cases[:middle]) | _compile(backend, cases[middle:])
    return {case.id: executable for case, executable in zip(cases, found, strict=True)}


def _executable(backend: str, case: Case) -> Executable:
    found = _compiled(backend)[case.id]
    if isinstance(found, McompError):
        raise found
    return found


@pytest.mark.parametrize("case", [pytest.param(c, id=c.id) for c in ALL_CASES])
@pytest.mark.parametrize("backend", _NAMES)
def test_agrees_with_the_reference(backend: str, case: Case) -> None:
    graph = graph_of(case)
    executable = _executable(backend, case)
    for count, sizes in enumerate(case.all_sizes()):
        for variant in _variants(backend, case, first=count == 0):
            inputs = inputs_of(case, sizes, variant)
            before = [x.clone() for x in inputs]
            found = executable.run(inputs, sizes)
            expected = run_graph(graph, inputs, sizes)
            assert len(found) == len(expected)
            for i, (a, b) in enumerate(zip(found, expected)):
                what = f"result {i} at {dict(sizes)}, {variant}"
                if case.compare == "type":
                    assert (tuple(a.shape), a.dtype) == (tuple(b.shape), b.dtype), what
                elif isinstance(b, torch.Tensor):
                    assert_close(a, b, tolerance_of(case), what, scale=scale_of(case, inputs, b))
                else:
                    assert a == b, what
            assert all(_same(a, b) for a, b in zip(inputs, before)), f"inputs were changed at {dict(sizes)}, {variant}"


def _variants(backend: str, case: Case, *, first: bool) -> list[str]:
    """Kinds of inputs. Triton's interpreter is slow: strided ones, which become contiguous before kernels see them, are
    tried at the first sizes only."""
    plain = ["plain", "special"] if case.special else ["plain"]
    return [*plain, "strided"] if first or backend != "cuda" else plain


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(torch.nan_to_num(a), torch.nan_to_num(b)) if a.is_floating_point() else torch.equal(a, b)
