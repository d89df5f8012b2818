"""Declarative rewriting: patterns over the graph, rules that say why they do not apply, and a driver."""

from mcomp.rewrite.driver import Outcome, apply_rules
from mcomp.rewrite.match import Match
from mcomp.rewrite.pattern import Found, OpPattern, Pattern, anything, const, either, maybe, number, op, through, var
from mcomp.rewrite.rule import NO, Miss, Rule, rule

__all__ = [
    "NO", "Found", "Match", "Miss", "OpPattern", "Outcome", "Pattern", "Rule", "anything", "apply_rules", "const",
    "either", "maybe", "number", "op", "rule", "through", "var",
]
