"""Dumps take the place of earlier dumps, and of nothing else."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from mcomp.errors import ArtifactError
from tests.cpu.backend_harness import needs_compiler
from tests.runtime.build import model


@pytest.mark.parametrize("name", [
    "model.mir", "model.lowered.mir", "report.txt", "report.json", "weights.safetensors",
    pytest.param("model.cpp", marks=needs_compiler),
])
def test_files_of_others_are_not_replaced(tmp_path: Path, name: str) -> None:
    fast = model(target="cpu" if name == "model.cpp" else "reference")
    (tmp_path / name).write_text('{"mine": 1}\n')
    with pytest.raises(ArtifactError, match=f"{name} is there already, and mcomp did not write it"):
        fast.dump(tmp_path)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [(name, '{"mine": 1}\n')]


@needs_compiler
def test_an_earlier_dump_is_replaced(tmp_path: Path) -> None:
    fast = model(target="cpu")
    written = fast.dump(tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    assert set(written) == before.keys()
    for path in before:
        if path.suffix != ".safetensors":
            path.write_bytes(before[path] + b"\n")
    fast.dump(tmp_path)
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_weights_that_are_not_dumped_are_not_in_the_way(tmp_path: Path) -> None:
    save_file({"w": np.zeros(2)}, tmp_path / "weights.safetensors")
    before = (tmp_path / "weights.safetensors").read_bytes()
    model().dump(tmp_path, weights=False)
    assert (tmp_path / "weights.safetensors").read_bytes() == before
