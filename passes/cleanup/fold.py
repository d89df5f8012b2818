"""Folding: work on constants is done when compiling."""

from __future__ import annotations

from dataclasses import dataclass

from mcomp.ir.graph import Graph
from mcomp.manager import ALL, Context, Pass, PassEffect, PassResult, register_pass
from mcomp.passes.cleanup.fold_affine import AFFINE_RULES, index_constants
from mcomp.passes.cleanup.fold_constants import fold_constants
from mcomp.passes.cleanup.fold_numbers import NUMBER_RULES
from mcomp.passes.cleanup.nested import in_branches
from mcomp.rewrite import Outcome, apply_rules

_ROUNDS = 16


@register_pass
@dataclass(frozen=True)
class Fold(Pass):
    """Computes now what depends on constants only.

        %w = const @bn.weight#1f3e : f32[8]           %w = const @conv.weight#77c0 : f32[8, 3, 3, 3]
        %c = conv %x, %k, _ {...}                     %b = const @conv.bias#03aa : f32[8]
        %y = batch_norm %c, %m, %v, %w, %b            %y = conv %x, %w, %b {...}

    `constants`: pure nodes whose operands are all known become constants or, where every element is one number,
    `full`. A result may take at most `max_bytes` or as many bytes as its operands. Exact.
    `affine`: batch norm, and products and sums with constants per channel or with one number, go into the weights of
    the linear, conv or conv_transpose next to them. Rounding.
    `numbers`: two products (or sums) with numbers in a row become one. Rounding.
    """

    name = "fold"
    constants: bool = True
    affine: bool = True
    numbers: bool = True
    max_bytes: int = 1 << 20

    @property
    def effect(self) -> PassEffect:  # type: ignore[override]
        """exact while only constants are folded."""
        return PassEffect.ROUNDING if self.affine or self.numbers else PassEffect.EXACT

    def run(self, graph: Graph, context: Context) -> PassResult:
        outcome = Outcome()

        def fold(g: Graph) -> bool:
            found = self._fold(g, context)
            outcome.merge(found)
            return found.changed

        changed = in_branches(graph, self.name, fold) | fold(graph)
        return PassResult(True, statistics=outcome.applied) if changed else PassResult(False, ALL)

    def _fold(self, graph: Graph, context: Context) -> Outcome:
        outcome = Outcome()
        rules = [*(AFFINE_RULES if self.affine else ()), *(NUMBER_RULES if self.numbers else ())]
        for _ in range(_ROUNDS):
            index_constants(graph)
            found = apply_rules(rules, graph, context, self.name)
            if self.constants:
                found.merge(fold_constants(graph, context, self.max_bytes))
            outcome.merge(found)
            if not found.changed:
                break
        return outcome
