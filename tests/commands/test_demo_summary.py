"""What demonstrations say at the end."""

from __future__ import annotations

import numpy as np
import pytest

from mcomp.demo.common import largest_difference, milliseconds

ONES = np.ones(3, np.float32)


@pytest.mark.parametrize(("found", "agrees"), [
    (ONES, True), (ONES + 1e-7, True), (ONES + 1, False), (np.full(3, np.nan), False), (np.full(3, np.inf), False),
    (np.ones((3, 1)), False), (np.array([1, np.nan, 1]), False),
])
@pytest.mark.parametrize("first", [True, False])
def test_nan_and_other_shapes_are_no_agreement(found: np.ndarray, agrees: bool, first: bool) -> None:
    pairs = [(ONES, ONES), (found, ONES)]
    a, b = zip(*(pairs if first else reversed(pairs)))
    assert (largest_difference(a, b) <= 1e-5) is agrees


def test_nothing_returned_is_agreement() -> None:
    assert largest_difference([], []) == 0.0
    assert largest_difference([np.zeros(0)], [np.zeros(0)]) == 0.0


def test_a_time_that_was_not_measured_is_a_dash() -> None:
    assert [milliseconds(v, 2) for v in (None, 0.1234, 12.0)] == ["-", "0.12", "12.00"]
