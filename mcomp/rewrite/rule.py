"""Rules: a pattern, a check that says why not, and a rewrite."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mcomp.ir.edit import Editor
from mcomp.ir.graph import Value
from mcomp.manager.passes import PassEffect
from mcomp.rewrite.pattern import OpPattern

if TYPE_CHECKING:
    from mcomp.rewrite.match import Match


@dataclass(frozen=True, slots=True)
class Miss:
    """Why a rule does not apply where its pattern matched, and what would make it. Without a reason, no remark is left:
    the match was of no interest."""

    reason: str = ""
    remedy: str = ""


NO = Miss()
"""A match of no interest."""

Check = Callable[["Match"], Miss | None]
Replace = Callable[["Match", Editor], Value | Sequence[Value] | None]


@dataclass(frozen=True)
class Rule:
    """Replaces what `pattern` matches.

    `check` returns None to go on, or a Miss, which becomes a remark. `rewrite` makes new nodes with `match.add` and
    returns the values that stand for the root's results, or None when it changed nodes in place. `effect` says what
    the rule does to numbers; a rule that is not exact respects `exclude`. With `private`, the rule misses when a node
    inside the pattern has users outside of it, so that the old nodes would stay.
    """

    name: str
    pattern: OpPattern
    rewrite: Replace
    check: Check | None = None
    effect: PassEffect = PassEffect.EXACT
    private: bool = False


def rule(
    name: str, pattern: OpPattern, *, check: Check | None = None, effect: PassEffect = PassEffect.EXACT,
    private: bool = False,
) -> Callable[[Replace], Rule]:
    """Decorator: make a rule of a rewrite function.

    >>> @rule("silu", op("mul", var("x"), op("sigmoid", var("x"))), effect=PassEffect.ROUNDING)
    ... def silu(match, editor):
    ...     return match.add(editor, "silu", [match["x"]])
    """
    return lambda rewrite: Rule(name, pattern, rewrite, check, effect, private)
