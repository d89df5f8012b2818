"""All cases of the operator suite. A new family adds its own `cases_<family>.py` to `_MODULES`."""

from __future__ import annotations

from tests.ops import cases_elementwise, cases_index, cases_moves, cases_products, cases_reduce, cases_windows
from tests.ops.suite import Case

_MODULES = (cases_elementwise, cases_index, cases_moves, cases_products, cases_reduce, cases_windows)
ALL_CASES: list[Case] = [case for module in _MODULES for case in module.CASES]
