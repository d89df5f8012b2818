"""What generated code covers: a lowering that is no longer registered would let everything run in torch, in silence."""

import subprocess
import sys

import pytest
import torch
from torch import nn

import mcomp
from mcomp.backend import backend_named, lowered_ops
from mcomp.ops.base import all_ops
from tests.cpu.backend_harness import needs_compiler

WITHOUT = {
    "assert_", "bernoulli", "bilinear", "cond", "const", "digamma", "erfinv", "item", "median_with_index", "multinomial",
    "nextafter", "nonzero", "rand", "randint", "randn", "return",
}
"""Operators that torch runs, or that are no work."""


def test_all_other_operators_have_lowerings() -> None:
    backend_named("cpu")
    assert len(all_ops()) > 200
    assert sorted(set(all_ops()) - lowered_ops("cpu") - WITHOUT) == []


def test_every_file_of_lowerings_is_imported_with_the_backend() -> None:
    code = (
        "import sys; from pathlib import Path; from mcomp.backend import backend_named\n"
        "backend_named('cpu')\n"
        "import mcomp.backends.cpu.lower as lower\n"
        "files = {p.stem for p in Path(lower.__path__[0]).glob('*.py') if '@lowers(' in p.read_text()}\n"
        "print(len(files) > 10, sorted(f for f in files if f'mcomp.backends.cpu.lower.{f}' not in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "True []\n"


@needs_compiler
@pytest.mark.parametrize("lossy", [{}, {"pipeline": "quantize{bits=8}"}], ids=["f32", "i8"])
def test_a_small_network_runs_in_generated_code_alone(lossy: dict[str, str]) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    ).eval()
    x = torch.randn(2, 3, 16, 16)
    fast = mcomp.optimize(network, (x,), progress=False, **lossy)
    report = fast.report()
    assert (report.native_nodes, report.native_flops) == (1.0, 1.0)
    assert not report.torch_nodes and not report.opaque_nodes
    with torch.no_grad():
        torch.testing.assert_close(fast(x), network(x), rtol=0.1 if lossy else 1e-4, atol=0.05 if lossy else 1e-5)
