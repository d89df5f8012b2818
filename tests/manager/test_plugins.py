"""Packages of others add passes and backends through entry points."""

import subprocess
import sys
from pathlib import Path

MODULE = '''
from dataclasses import dataclass

from mcomp.backend import Backend, backend_named, register_backend
from mcomp.manager import Pass, PassResult, register_pass


@register_pass
@dataclass(frozen=True)
class Nothing(Pass):
    """Do nothing."""

    name = "other-nothing"

    def run(self, graph, context):
        return PassResult(False)


class Mirror(Backend):
    name = "mirror"

    def pipeline(self):
        return "other-nothing"

    def compile(self, graph, options, context=None):
        return backend_named("reference").compile(graph, options, context)


register_backend(Mirror())
'''


def package(folder: Path, text: str) -> Path:
    """Lay out an installed package with an entry point, as pip does."""
    (folder / "other_passes.py").write_text(text)
    info = folder / "other_passes-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other-passes\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[mcomp.plugins]\nother = other_passes\n")
    return folder


def run(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    start = f"import sys; sys.path.insert(0, {str(folder)!r})\n"
    return subprocess.run([sys.executable, "-c", start + code], capture_output=True, text=True, check=False)


def test_a_pass_and_a_backend_of_a_plug_in_are_found_by_name(tmp_path: Path) -> None:
    done = run(package(tmp_path, MODULE), """
import torch, mcomp
from mcomp.manager import registered_passes
print("other-nothing" in registered_passes())
model = torch.nn.Linear(4, 2).eval()
x = torch.randn(3, 4)
fast = mcomp.optimize(model, (x,), target="mirror", pipeline="other-nothing,dce")
print(torch.allclose(fast(x), model(x)))
""")
    assert done.stdout.split() == ["True", "True"], done.stderr


def test_a_broken_plug_in_is_named(tmp_path: Path) -> None:
    code = "from mcomp.manager import registered_passes\nregistered_passes()"
    done = run(package(tmp_path, "import does_not_exist"), code)
    assert "the plug-in other (other_passes) failed to import" in done.stderr
    assert "does_not_exist" in done.stderr
