"""The front: what no other version beats."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from mcomp.plan.telling import frontier


def version(name: str, quality: float | None, error: float | None, latency_ms: float | None, weight_bytes: int) -> Any:
    return SimpleNamespace(name=name, quality=quality, error=error, latency_ms=latency_ms, weight_bytes=weight_bytes)


def front(*versions: Any, chosen: int = 0) -> list[str]:
    shop = SimpleNamespace(versions=list(versions))
    return [v.name for v in frontier(shop, versions[chosen])]  # type: ignore[arg-type]


def test_what_was_evaluated_beats_what_was_not_by_its_error() -> None:
    kept = version("kept", 0.9, 0.02, 1.0, 100)
    worse, better = version("worse", None, 0.03, 1.1, 120), version("better", None, 0.01, 1.1, 120)
    assert front(kept, worse, better) == ["kept", "better"]
    assert front(better, kept, worse, chosen=2) == ["better", "kept", "worse"]


def test_where_both_were_evaluated_quality_counts() -> None:
    kept, other = version("kept", 0.9, 0.02, 1.0, 100), version("other", 0.8, 0.01, 1.1, 100)
    assert front(kept, other) == ["kept"]
    assert front(version("kept", 0.8, 0.01, 1.0, 100), version("other", 0.9, 0.02, 1.0, 100)) == ["kept", "other"]


def test_what_was_not_measured_is_on_no_front() -> None:
    kept = version("kept", None, 0.02, None, 100)
    assert front(kept, version("a", None, None, 1.0, 50), version("b", None, 0.01, None, 50)) == ["kept"]
