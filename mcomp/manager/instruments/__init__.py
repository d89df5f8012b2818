"""Instruments: what to watch a pipeline with."""

from mcomp.manager.instruments.check import NumericCheck, NumericError
from mcomp.manager.instruments.dump import Dump
from mcomp.manager.instruments.limit import RewriteLimit, Skip
from mcomp.manager.instruments.measure import Statistics, Timing
from mcomp.manager.instruments.reproducer import Reproducer
from mcomp.manager.instruments.verifier import Verify

__all__ = [
    "Dump", "NumericCheck", "NumericError", "Reproducer", "RewriteLimit", "Skip", "Statistics", "Timing", "Verify",
]
