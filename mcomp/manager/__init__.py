"""The pass manager: passes, pipelines as text, cached analyses, instruments."""

from mcomp.manager.analysis import Analyses, Analysis
from mcomp.manager.context import Context, LayerOptions, Remark
from mcomp.manager.instrument import Instrument
from mcomp.manager.passes import ALL, NONE, Pass, PassEffect, PassResult, pass_named, register_pass, registered_passes
from mcomp.manager.pipeline import Fixpoint, parse_pipeline, pipeline_text
from mcomp.manager.run import PassManager

__all__ = [
    "ALL", "NONE", "Analyses", "Analysis", "Context", "Fixpoint", "Instrument", "LayerOptions", "Pass", "PassEffect",
    "PassManager", "PassResult", "Remark", "parse_pipeline", "pass_named", "pipeline_text", "register_pass",
    "registered_passes",
]
