"""Analyses: cost, liveness, density."""

from mcomp.passes.analysis.cost import Cost, GraphCost, NodeCost, weight_bytes
from mcomp.passes.analysis.density import Density, WeightDensity
from mcomp.passes.analysis.liveness import Interval, Intervals, Liveness

__all__ = [
    "Cost", "Density", "GraphCost", "Interval", "Intervals", "Liveness", "NodeCost", "WeightDensity", "weight_bytes",
]
