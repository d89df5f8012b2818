"""What the README says is run: its example, its commands' names, its links."""

import re
from pathlib import Path

import pytest
import torch

import mcomp.backend
from mcomp.cli import COMMANDS
from tests.api.models import batches, wide

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "README.md").read_text()

needs_compiler = pytest.mark.skipif(
    mcomp.backend.backend_named("cpu").available() is not None, reason="there is no C++ compiler on this machine"
)


@needs_compiler
def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    block, = re.findall(r"^```python\n(.*?)^```$", TEXT, re.M | re.S)
    data, model = batches(), wide()
    x = data[0][0]
    with torch.no_grad():
        labels = model(x).argmax(1)

    def accuracy(candidate: torch.nn.Module) -> float:
        return float((candidate(x).argmax(1) == labels).double().mean())

    names = {"model": model, "x": x, "batches": data, "accuracy": accuracy}
    exec(compile(block, "README.md", "exec"), names)
    assert "versions" in capsys.readouterr().out
    assert (tmp_path / "model.mcomp").exists()
    torch.testing.assert_close(names["y"], model(x), rtol=1e-5, atol=1e-6)


def test_every_command_is_listed() -> None:
    assert set(re.findall(r"^\| `mcomp (\w+)", TEXT, re.M)) == set(COMMANDS)


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", TEXT)
    assert links
    for link in links:
        assert (ROOT / link).exists(), link
