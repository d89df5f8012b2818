"""Progress: a bar on a terminal, lines elsewhere, nothing where it is not wanted."""

import io

import pytest

from mcomp.plan import progress
from mcomp.plan.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def work(wanted: bool, stream: io.StringIO) -> str:
    with Progress(wanted, stream) as shown:
        shown.step("capturing [the] model")
        shown.step("measuring tiles: 3 of 40")
        if shown._bar is not None:
            task, = shown._bar.tasks
            assert (task.completed, task.total) == (3, 40)
            shown.step("compiling")
            assert (task.completed, task.total) == (0, None)
            shown.step("capturing [the] model")
            shown._bar.refresh()
        if not wanted:
            shown.note("nobody asked")
    return stream.getvalue()


def test_a_terminal_shows_a_bar() -> None:
    assert "mcomp: capturing [the] model" in work(True, Terminal())


def test_elsewhere_there_are_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_S", 0.0)
    assert work(True, io.StringIO()) == "mcomp: capturing [the] model\nmcomp: measuring tiles: 3 of 40\n"


def test_quick_work_says_nothing() -> None:
    assert work(True, io.StringIO()) == ""


@pytest.mark.parametrize("stream", [Terminal(), io.StringIO()])
def test_a_note_is_told_at_once(stream: io.StringIO) -> None:
    with Progress(True, stream) as shown:
        shown.note("some [of] it stays as it is")
        assert "mcomp: some [of] it stays as it is\n" in stream.getvalue()


@pytest.mark.parametrize("stream", [Terminal(), io.StringIO()])
def test_nothing_is_shown_unasked(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_S", 0.0)
    assert work(False, stream) == ""


def test_a_bar_ends_when_work_fails() -> None:
    with pytest.raises(RuntimeError), Progress(True, Terminal()) as shown:
        shown.step("compiling")
        raise RuntimeError
    assert shown._bar is None
