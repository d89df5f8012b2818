"""Reports and remarks."""

from mcomp.report.report import Eager, Report, Row, Stage

__all__ = ["Eager", "Report", "Row", "Stage"]
