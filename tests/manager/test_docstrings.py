"""What `mcomp passes NAME` prints: every option of a pass is explained."""

import dataclasses
import inspect
import re

import pytest

from mcomp.manager import Pass, registered_passes

OURS = {name: cls for name, cls in registered_passes().items() if cls.__module__.startswith("mcomp.")}


@pytest.mark.parametrize("cls", OURS.values(), ids=OURS)
def test_every_option_is_in_the_docstring(cls: type[Pass]) -> None:
    text = inspect.getdoc(cls) or ""
    names = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    assert [name for name in names if not re.search(rf"`{name}`|\b{name}(, \w+)*:", text)] == []
