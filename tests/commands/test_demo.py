"""The demonstration on digits, with less training and searching."""

import functools
from pathlib import Path

import pytest

import mcomp.backend
from mcomp.demo import digits, minilm
from tests.commands.conftest import Mcomp

pytestmark = pytest.mark.skipif(
    mcomp.backend.backend_named("cpu").available() is not None, reason="there is no C++ compiler on this machine"
)


def test_digits(mcomp: Mcomp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.setattr(digits, "trained", functools.partial(digits.trained, epochs=2))
    monkeypatch.setattr(digits, "SECONDS", 8.0)
    output = tmp_path / "digits.mcomp"
    ran = mcomp("demo", "-o", output)
    assert ran.code == 0, ran.out + ran.err
    for words in ("trained a CNN", "fold_batch_norm", "budget: evaluate drops at most 0.01: met", "accuracy on test digits",
                  "imported of torch, networkx, rich, sympy: none of them", "the answers agree"):
        assert words in ran.out
    assert output.exists()


def test_a_budget_that_was_not_judged_is_not_met(
    mcomp: Mcomp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sklearn")
    from mcomp.api import optimize

    monkeypatch.setattr(digits, "trained", lambda *data: digits.network().eval())
    monkeypatch.setattr(digits, "agree_without_torch", lambda *answers: True)
    monkeypatch.setattr("mcomp.optimize", lambda model, args, **options: optimize(model, args, target="reference"))
    ran = mcomp("demo", "-o", tmp_path / "digits.mcomp")
    assert "the answers agree" in ran.out
    assert ran.code == 1


def test_the_output_is_looked_at_first(mcomp: Mcomp) -> None:
    ran = mcomp("demo", "-o", "/no/such/folder/digits.mcomp")
    assert ran.code == 3
    assert "there is no folder" in ran.err


def test_a_missing_package_is_named(mcomp: Mcomp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    ran = mcomp("demo", "-o", tmp_path / "digits.mcomp")
    assert ran.code == 3
    assert "needs the package sklearn" in ran.err
    assert 'pip install -e ".[demo]" in the folder of mcomp' in ran.err


def test_the_sentences_are_the_same_every_time() -> None:
    assert minilm.sentences() == minilm.sentences()
    assert len(set(minilm.sentences())) == 1000
