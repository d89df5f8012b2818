"""Pipelines as text."""

from dataclasses import dataclass
from typing import Literal

import pytest

from mcomp.errors import ParseError, PassError
from mcomp.manager import Fixpoint, Pass, PassResult, parse_pipeline, pipeline_text, register_pass
from mcomp.manager.pipeline import with_options
from tests.manager.graphs import AddAbs, Break


@register_pass
@dataclass(frozen=True)
class Options(Pass):
    """A pass with an option of every kind."""

    name = "test-options"
    ratio: float = 0.5
    count: int | None = None
    on: bool = True
    label: str = "a"
    items: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    mode: Literal["auto", "none"] = "auto"

    def run(self, graph, context):  # type: ignore[no-untyped-def]
        return PassResult(False)


@register_pass
@dataclass(frozen=True)
class Needy(Pass):
    """A pass with an option that must be given."""

    name = "test-needy"
    factor: float
    label: str = ""

    def run(self, graph, context):  # type: ignore[no-untyped-def]
        return PassResult(False)


@pytest.mark.parametrize("text", [
    "test-add-abs", "test-add-abs,test-break", "test-options{ratio=0.25,count=3,on=false,label=\"x y\",items=[1,2]}",
    "fixpoint(test-add-abs,test-break{harmless=0}),test-add-abs{keeps=true}", "",
    "fixpoint(fixpoint(test-add-abs){limit=2},test-break){limit=3},test-add-abs",
])
def test_text_survives(text: str) -> None:
    steps = parse_pipeline(text)
    assert parse_pipeline(pipeline_text(steps)) == steps


def test_a_fixpoint_keeps_its_limit() -> None:
    steps = (Fixpoint((AddAbs(),), limit=3), Fixpoint((Break(),)))
    assert pipeline_text(steps) == "fixpoint(test-add-abs){limit=3},fixpoint(test-break)"
    assert parse_pipeline(pipeline_text(steps)) == steps


@pytest.mark.parametrize("text", [
    "0", "1.2", "-3", "1e5", "1_000", "none", "None", "true", "FALSE", "inf", "-Infinity", "nan", "NaN", "", "größe", "٣",
    "a b", "a,b", "x*", "\\", "\"", "line\nline", "encoder.layer.0", "a-b",
])
def test_strings_survive_whatever_they_look_like(text: str) -> None:
    step = Options(label=text, names=(text, "b"))
    assert parse_pipeline(pipeline_text([step])) == (step,)


def test_words_that_an_option_has_stand_without_quotes() -> None:
    assert pipeline_text([Options(mode="none", label="none")]) == 'test-options{label="none",mode=none}'
    for text in ('test-options{mode="none"}', "test-options{mode=none}"):
        assert parse_pipeline(text) == (Options(mode="none"),)


def test_passes_text_and_classes_mix() -> None:
    steps = parse_pipeline(["test-add-abs", AddAbs(keeps=True), Break, Fixpoint((AddAbs(),))])
    assert steps == (AddAbs(), AddAbs(keeps=True), Break(), Fixpoint((AddAbs(),)))


def test_an_int_serves_where_a_float_is_wanted() -> None:
    assert parse_pipeline("test-options{ratio=1}") == (Options(ratio=1.0),)


@pytest.mark.parametrize(("text", "help"), [
    ("count=x", "use a whole number, or none"), ("on=1", "use true or false"), ("ratio=much", "use a number"),
    ("mode=aut", "use one of auto, none"), ("items=[a]", "use a list, each item a whole number"), ("label=1", "use a text"),
])
def test_values_of_another_kind_say_what_is_allowed(text: str, help: str) -> None:
    with pytest.raises(PassError) as caught:
        parse_pipeline(f"test-options{{{text}}}")
    assert caught.value.help == help
    name = text.partition("=")[0]
    with pytest.raises(PassError) as caught:
        with_options(Options(), {name: object()})
    assert caught.value.help == help


def test_an_option_given_twice_is_an_error_with_its_place() -> None:
    with pytest.raises(PassError, match=r"option ratio is given twice\n.*\n {35}\^\n"):
        parse_pipeline("test-options{ratio=0.5, label=a, ratio=0.25}")


@pytest.mark.parametrize(("text", "message"), [
    ("test-add-ab", "did you mean test-add-abs"),
    ("test-options{rati=1}", "did you mean ratio"),
    ("test-options{count=x}", "count is 'x', not int"),
    ("test-options{on=1}", "not bool"),
    ("fixpoint(test-add-abs){limit=0}", "limit is 0, not a positive int"),
    ("fixpoint(test-add-abs){limit=many}", "limit is 'many', not a positive int"),
    ("fixpoint(test-add-abs){times=3}", "fixpoint has no option times"),
])
def test_wrong_names_and_options_say_what_to_write(text: str, message: str) -> None:
    with pytest.raises(PassError, match=message) as caught:
        parse_pipeline(text)
    assert "^" in str(caught.value)


def test_an_option_without_a_default_must_be_given() -> None:
    assert parse_pipeline("test-needy{factor=2}") == (Needy(2.0),)
    with pytest.raises(PassError, match=r"test-needy needs its option factor\n.*\n {16}\^\n.*test-needy\{factor=...\}"):
        parse_pipeline("test-add-abs, test-needy{label=a}")
    with pytest.raises(PassError, match=r"needs its option factor"):
        parse_pipeline([Needy])


@pytest.mark.parametrize("text", [
    "a,,b", "test-add-abs{", "test-add-abs}", "fixpoint(test-add-abs", "test-add-abs test-break", ",",
    "fixpoint(test-add-abs){", "fixpoint(test-add-abs){limit=3", r'test-options{label="\x"}', 'test-options{label="a\nb"}',
])
def test_bad_text_shows_a_caret(text: str) -> None:
    with pytest.raises((ParseError, PassError)) as caught:
        parse_pipeline(text)
    assert "^" in str(caught.value)


def test_things_that_are_no_pass_are_refused() -> None:
    with pytest.raises(PassError, match="neither a pass nor text"):
        parse_pipeline([3])
