"""Files whose code is trusted: they run by their plan, without their graph, and are what was saved all the same."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import mcomp
from mcomp.backends.cpu import BACKEND
from mcomp.backends.cpu.isa import supported
from mcomp.errors import ArtifactError, BackendError
from mcomp.plugins import reviver
from mcomp.runtime import restore
from mcomp.runtime.artifact import ArtifactReader
from tests.cpu.backend_harness import needs_compiler
from tests.runtime.build import COUNTER, model
from tests.runtime.test_artifact import Header, altered
from tests.runtime.test_sizes import ADDED, SLICED

pytestmark = needs_compiler

TABLE = """
graph @table[B in 1..](%i: i64[B]) -> (f32[B, 4]) {
  %w = const @table.weight#seed=1 : f32[8, 4]
  %y = embedding %w, %i : f32[B, 4]  loc(table "model.py":3)
  return %y
}
"""


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return model(target="cpu").save(tmp_path / "model.mcomp")


def without_plan(path: Path) -> Path:
    def drop(tensors: dict[str, np.ndarray], metadata: dict[str, str], header: Header) -> None:
        del tensors["plan"], header["blobs"]["plan"]  # type: ignore[attr-defined]

    return altered(path, drop)


def with_plan(path: Path, **changes: object) -> Path:
    def change(tensors: dict[str, np.ndarray], metadata: dict[str, str], header: Header) -> None:
        plan = json.loads(tensors["plan"].tobytes()) | changes
        tensors["plan"] = np.frombuffer(json.dumps(plan).encode(), np.uint8)

    return altered(path, change)


def test_trusted_code_gives_the_same_results(saved: Path) -> None:
    x = torch.randn(5, 8)
    again, plain = mcomp.load(saved, trust_code=True), mcomp.load(saved)
    torch.testing.assert_close(again(x), plain(x), rtol=0, atol=0)
    torch.testing.assert_close(again(x[:1]), plain(x[:1]), rtol=0, atol=0)
    run = again.bind(x)
    torch.testing.assert_close(run(), plain(x), rtol=0, atol=0)
    assert str(again.ir) == str(plain.ir)
    assert again.report().to_json() == plain.report().to_json()


def test_what_only_the_graph_knows_is_read_when_asked_for(saved: Path, tmp_path: Path) -> None:
    again, plain = mcomp.load(saved, trust_code=True), mcomp.load(saved)
    here, there = (m.only_program("compared").executable for m in (again, plain))
    assert here.kernels({"B": 3}) == there.kernels({"B": 3})
    assert here.source().encode() == ArtifactReader(saved).blob("source")
    assert here.arena_bytes({"B": 3}) == there.arena_bytes({"B": 3})
    assert len(here.profile([torch.zeros(3, 8)], {"B": 3}, 1)) == len(here.kernels({"B": 3}))
    twice = mcomp.load(again.save(tmp_path / "twice.mcomp"), trust_code=True)
    x = torch.randn(2, 8)
    torch.testing.assert_close(twice(x), plain(x), rtol=0, atol=0)


def test_a_start_imports_no_operators_passes_or_lowerings(saved: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['safetensors'] = None\n"
        "import numpy as np, mcomp\n"
        f"y = mcomp.load({str(saved)!r}, trust_code=True)(np.ones((2, 8), np.float32))\n"
        "print(y.shape, [m for m in sys.modules if m.startswith(('mcomp.ops', 'mcomp.passes', 'mcomp.manager'))\n"
        "      or m in ('mcomp.ir.parser', 'mcomp.backends.cpu.builder', 'networkx', 'rich', 'importlib.metadata')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(2, 4) []"


def test_arguments_are_checked_without_the_graph(saved: Path) -> None:
    again = mcomp.load(saved, trust_code=True)
    with pytest.raises(mcomp.errors.CallError, match="expected 8"):
        again(torch.zeros(2, 7))
    with pytest.raises(mcomp.errors.CallError, match="f64"):
        again(torch.zeros(2, 8).double())


@pytest.mark.parametrize(("text", "good", "bad"), [(ADDED, [(7,), (7,)], [(7,), (1,)]), (SLICED, [(5, 4)], [(2, 4)])])
def test_sizes_are_checked_without_the_graph(
    text: str, good: list[tuple[int, ...]], bad: list[tuple[int, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = model(text, "cpu").save(tmp_path / "sizes.mcomp")
    monkeypatch.setattr(ArtifactReader, "graph", None)
    again = mcomp.load(path, trust_code=True)
    for run in (again, again.session()):
        run(*[torch.ones(shape) for shape in good])
        with pytest.raises(mcomp.errors.CallError, match=r"MC0406 the sizes [AB] = \d.* do not fit"):
            run(*[torch.ones(shape) for shape in bad])


def test_an_index_out_of_range_names_its_operator(tmp_path: Path) -> None:
    again = mcomp.load(model(TABLE, "cpu").save(tmp_path / "table.mcomp"), trust_code=True)
    assert again(torch.tensor([1, 2])).shape == (2, 4)
    with pytest.raises(IndexError, match=r"embedding: an index is out of range.*model.py"):
        again(torch.tensor([8]))


def test_state_starts_over(tmp_path: Path) -> None:
    fast = model(COUNTER, "cpu")
    fast(torch.ones(2))
    again = mcomp.load(fast.save(tmp_path / "counter.mcomp"), trust_code=True)
    assert [float(again(torch.ones(2))[0]) for _ in range(2)] == [1.0, 2.0]


def test_files_without_a_plan_load_by_their_graph(saved: Path) -> None:
    x = torch.randn(5, 8)
    expected = mcomp.load(saved)(x)
    torch.testing.assert_close(mcomp.load(without_plan(saved), trust_code=True)(x), expected, rtol=0, atol=0)


def test_a_plan_of_another_graph_is_not_used(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    revive = reviver("cpu")
    assert revive is not None
    monkeypatch.setattr(restore, "reviver", lambda target: lambda *a: calls.append(a) or revive(*a))
    mcomp.load(saved, trust_code=True)
    assert len(calls) == 1
    assert mcomp.load(with_plan(saved, ir="0" * 64), trust_code=True)(torch.zeros(1, 8)).shape == (1, 4)
    assert len(calls) == 1


def test_a_plan_that_says_nothing_of_sizes_is_not_used(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def drop(tensors: dict[str, np.ndarray], metadata: dict[str, str], header: Header) -> None:
        plan = json.loads(tensors["plan"].tobytes())
        del plan["sizes"]
        tensors["plan"] = np.frombuffer(json.dumps(plan).encode(), np.uint8)

    altered(saved, drop)
    monkeypatch.setattr(restore, "reviver", lambda target: lambda *a: pytest.fail("the plan was used"))
    assert mcomp.load(saved, trust_code=True)(torch.zeros(1, 8)).shape == (1, 4)


def test_nothing_of_the_plan_is_used_without_trust(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*arguments: object) -> None:
        raise AssertionError("the plan was read")

    monkeypatch.setattr(restore, "reviver", never)
    assert mcomp.load(with_plan(saved, recipe="[", face=3))(torch.zeros(1, 8)).shape == (1, 4)


@pytest.mark.parametrize("changes", [
    {"recipe": "["}, {"recipe": "{}"}, {"recipe": "[]"}, {"face": {}}, {"face": 3}, {"face": {"inputs": [["x", "f32[B"]]}},
    {"sizes": 3}, {"sizes": [["<", "B", "4", "", ""]]}, {"sizes": [["==", "B +", "4", "", ""]]}, {"sizes": [["==", "B"]]},
    {"sizes": [["==", 1, 2, "", ""]]},
])
def test_plans_that_cannot_be_read_are_refused(saved: Path, changes: dict[str, object]) -> None:
    with pytest.raises(ArtifactError, match="plan"):
        mcomp.load(with_plan(saved, **changes), trust_code=True)


def test_an_instruction_set_that_is_none_is_no_damage(saved: Path) -> None:
    with pytest.raises(BackendError, match="MC0602 there is no instruction set mmx"):
        mcomp.load(saved, trust_code=True, isa="mmx")


def test_code_that_does_not_load_is_no_damage(saved: Path) -> None:
    def change(tensors: dict[str, np.ndarray], metadata: dict[str, str], header: Header) -> None:
        name = next(n for n in tensors if n.startswith("code/"))
        tensors[name] = np.frombuffer(b"\x7fELF" + b"\0" * 100, np.uint8)

    altered(saved, change)
    with pytest.raises(BackendError, match=r"MC0604 compiled code cannot be loaded.*\n.*without trust_code=True"):
        mcomp.load(saved, trust_code=True)
    assert mcomp.load(saved)(torch.zeros(1, 8)).shape == (1, 4)


def portable(saved: Path) -> Path:
    """The same model with code that every machine runs."""
    return mcomp.load(saved, isa="portable").save(saved.with_name("portable.mcomp"))


@pytest.mark.parametrize("plan", [True, False])
def test_code_that_is_not_for_the_best_instruction_set_is_used(
    saved: Path, plan: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = portable(saved)
    if not plan:
        without_plan(path)
    monkeypatch.setattr(BACKEND, "compile", lambda *a: pytest.fail("it was compiled"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = mcomp.load(path, trust_code=True)
    assert list(again.only_program("read").executable.binaries()) == ["portable"]
    x = torch.randn(5, 8)
    torch.testing.assert_close(again(x), model()(x))


@pytest.mark.skipif(supported()[0].name == "portable", reason="this CPU runs portable code only")
def test_isa_asks_for_another_instruction_set_than_the_code_has(saved: Path) -> None:
    best = supported()[0].name
    with pytest.warns(UserWarning, match=f"compiled code for portable, which is not used: isa asks for {best}$"):
        again = mcomp.load(portable(saved), trust_code=True, isa=best)
    assert list(again.only_program("read").executable.binaries()) == [best]


def test_code_for_other_machines_is_told(saved: Path) -> None:
    def change(tensors: dict[str, np.ndarray], metadata: dict[str, str], header: Header) -> None:
        name = next(n for n in tensors if n.startswith("code/"))
        tensors["code/neon"] = tensors.pop(name)
        header["blobs"]["code/neon"] = header["blobs"].pop(name)  # type: ignore[attr-defined, index]
        plan = json.loads(tensors["plan"].tobytes())
        plan["recipe"] = json.dumps(json.loads(plan["recipe"]) | {"isa": "neon"})
        tensors["plan"] = np.frombuffer(json.dumps(plan).encode(), np.uint8)

    altered(saved, change)
    with pytest.warns(UserWarning, match=r"compiled code for neon, which is not used: this machine runs .*portable$"):
        again = mcomp.load(saved, trust_code=True)
    x = torch.randn(5, 8)
    torch.testing.assert_close(again(x), model()(x))


@pytest.mark.parametrize("trust", [True, False])
def test_what_helps_without_a_compiler_and_torch(tmp_path: Path, trust: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    path = model(target="cpu").save(tmp_path / "model.mcomp", code=False)
    monkeypatch.setattr(BACKEND, "available", lambda: "there is no C++ compiler")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(BackendError, match="MC0602 target cpu cannot run here") as caught:
        mcomp.load(path, trust_code=trust)
    assert ("the file holds no compiled code that" in str(caught.value)) == trust
    assert ("trust_code=True" in str(caught.value)) != trust


def test_any_changed_byte_is_noticed_with_trust(saved: Path) -> None:
    data = bytearray(saved.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    rng = np.random.default_rng(0)
    for position in rng.integers(start, len(data), 25):
        broken = bytearray(data)
        broken[position] ^= 0x40
        saved.write_bytes(broken)
        with pytest.raises(ArtifactError):
            again = mcomp.load(saved, trust_code=True)
            str(again.ir), again.report(), again.only_program("read").executable.source()
