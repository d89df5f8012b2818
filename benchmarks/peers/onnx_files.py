"""Export of a case to ONNX, for the runtimes that read it."""

from __future__ import annotations

from pathlib import Path

from benchmarks.peers.base import Setup, torch_example, torch_module


def export(setup: Setup) -> Path:
    """Write the case's module as ONNX at the case's own static shapes (what runtimes optimize best)."""
    import torch

    path = setup.folder() / f"{setup.case.name}.onnx"
    names = list(setup.case.input_names)
    program = torch.onnx.export(
        torch_module(setup), torch_example(setup), input_names=names, output_names=["output"], dynamo=True
    )
    assert program is not None
    program.save(str(path), external_data=False)
    return path
