"""Simplification: identities, chains of views and casts, and formulas written out, back into one operator."""

from __future__ import annotations

from dataclasses import dataclass

from mcomp.ir.graph import Graph
from mcomp.manager import ALL, Context, Pass, PassEffect, PassResult, register_pass
from mcomp.passes.cleanup.nested import in_branches
from mcomp.passes.cleanup.rules_activation import ACTIVATION_RULES
from mcomp.passes.cleanup.rules_attention import ATTENTION_RULES
from mcomp.passes.cleanup.rules_identity import IDENTITY_RULES
from mcomp.passes.cleanup.rules_linear import LINEAR_RULES
from mcomp.passes.cleanup.rules_norm import NORM_RULES
from mcomp.passes.cleanup.rules_rope import ROPE_RULES
from mcomp.passes.cleanup.rules_view import MOVED_POINTWISE_RULES, VIEW_RULES
from mcomp.rewrite import Outcome, apply_rules

EXACT_RULES = (*IDENTITY_RULES, *VIEW_RULES, *ROPE_RULES)
ROUNDING_RULES = (*MOVED_POINTWISE_RULES, *LINEAR_RULES, *ACTIVATION_RULES, *NORM_RULES, *ATTENTION_RULES)


@register_pass
@dataclass(frozen=True)
class Simplify(Pass):
    """Replaces what is written at length by what says the same in one operator.

        %s = sigmoid %x : f32[B, 8]                   %y = silu %x : f32[B, 8]
        %m = mul %x, %s : f32[B, 8]                   return %y
        %y = contiguous %m : f32[B, 8]
        return %y

    Identities (x * 1, -(-x), casts and back), views of views, joins of splits, dropout and assertions: exact. Written
    out attention, norms, activations, softmax and linear layers, with `exact` off: rounding.
    """

    name = "simplify"
    exact: bool = False

    @property
    def effect(self) -> PassEffect:  # type: ignore[override]
        """exact with `exact`, else rounding."""
        return PassEffect.EXACT if self.exact else PassEffect.ROUNDING

    def run(self, graph: Graph, context: Context) -> PassResult:
        rules = EXACT_RULES if self.exact else (*EXACT_RULES, *ROUNDING_RULES)
        outcome = Outcome()

        def simplify(g: Graph) -> bool:
            found = apply_rules(rules, g, context, self.name)
            outcome.merge(found)
            return found.changed

        changed = in_branches(graph, self.name, simplify) | simplify(graph)
        return PassResult(True, statistics=outcome.applied) if changed else PassResult(False, ALL)
