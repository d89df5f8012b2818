"""The layers import each other only in one direction, and importing mcomp stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def python_files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def under(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


@pytest.mark.parametrize("path", [p for p in python_files("mcomp") if p.name != "builtin.py"], ids=lambda p: p.name)
def test_the_core_names_no_pass_and_no_backend(path: Path) -> None:
    if "passes" in path.relative_to(ROOT / "mcomp").parts[:1] or "backends" in path.relative_to(ROOT / "mcomp").parts[:1]:
        return
    assert not [n for n in imports_of(path) if under(n, "mcomp.passes") or under(n, "mcomp.backends")]


def test_passes_import_no_backend() -> None:
    assert not [(p, n) for p in python_files("passes") for n in imports_of(p) if under(n, "mcomp.backends")]


def test_backends_import_no_pass_and_not_each_other() -> None:
    names = [p.name for p in (ROOT / "backends").iterdir() if p.is_dir() and p.name != "__pycache__"]
    for path in python_files("backends"):
        own = path.relative_to(ROOT / "backends").parts[0]
        for name in imports_of(path):
            assert not under(name, "mcomp.passes"), path
            for other in names:
                assert other == own or not under(name, f"mcomp.backends.{other}"), path


def test_importing_mcomp_imports_nothing_heavy() -> None:
    code = "import mcomp, sys; print([m for m in ('torch', 'networkx', 'rich', 'sympy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.mark.parametrize("package", ["passes", "backends"])
def test_a_second_copy_of_a_package_cannot_be_imported(package: str) -> None:
    done = subprocess.run([sys.executable, "-c", f"import {package}"], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode != 0
    assert f"mcomp.{package}" in done.stderr
