"""Analyses: cost, coupling, density, liveness."""

from mcomp.passes.analysis.cost import Cost, GraphCost, NodeCost, weight_bytes
from mcomp.passes.analysis.coupling import Coupling, CouplingAnalysis, Dimension, Removal
from mcomp.passes.analysis.density import Density, WeightDensity
from mcomp.passes.analysis.liveness import Interval, Intervals, Liveness
from mcomp.passes.analysis.operations import Operations

__all__ = [
    "Cost", "Coupling", "CouplingAnalysis", "Density", "Dimension", "GraphCost", "Interval", "Intervals", "Liveness",
    "NodeCost", "Operations", "Removal", "WeightDensity", "weight_bytes",
]
