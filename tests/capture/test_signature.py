"""Positional and keyword arguments that mean the same call."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mcomp.capture.signature import Signature
from mcomp.errors import ArtifactError, CallError


def forward(a: Any, b: Any = 2, *rest: Any, c: Any, d: Any = None, **named: Any) -> None: ...


def test_equal_calls_bind_equally() -> None:
    signature = Signature.of(forward)
    bound = signature.bind((1,), {"c": 3})
    assert bound == signature.bind((), {"a": 1, "c": 3}) == signature.bind((1, 2), {"c": 3, "d": None})
    assert signature.bind((1, 2, 5), {"c": 3, "e": 4}) == bound | {"rest": (5,), "named": {"e": 4}}


def test_unbinding_passes_only_what_was_given() -> None:
    signature = Signature.of(forward)
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        ((1,), {"c": 3}), ((1, 2, 5), {"c": 3, "e": 4}), ((), {"a": 1, "c": 2, "d": 4}),
    ]
    for args, kwargs in calls:
        bound = signature.bind(args, kwargs)
        args2, kwargs2 = signature.unbind(bound, signature.given(args, kwargs))
        assert signature.bind(args2, kwargs2) == bound
        assert len(args2) + len(kwargs2) == len(args) + len(kwargs)


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {"c": 1}, "`a` is missing"),
        ((1,), {}, "`c` is missing"),
        ((1,), {"a": 1, "c": 2}, r"twice\n.*by position or by name; the model takes \(a, "),
    ],
)
def test_calls_that_do_not_fit(args: Any, kwargs: Any, message: str) -> None:
    with pytest.raises(CallError, match=message):
        Signature.of(forward).bind(args, kwargs)


def test_too_many_arguments() -> None:
    signature = Signature.of(lambda x: x)
    with pytest.raises(CallError, match="positional arguments too many"):
        signature.bind((1, 2), {})
    with pytest.raises(CallError, match="`y`"):
        signature.bind((1,), {"y": 2})


def test_signatures_survive_json() -> None:
    signature = Signature.of(forward)
    assert Signature.from_json(json.loads(json.dumps(signature.to_json()))) == signature
    with pytest.raises(ArtifactError):
        Signature.from_json([{"name": "x", "kind": "strange"}])
