"""A compiled model as files for people to read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from mcomp.errors import ArtifactError

if TYPE_CHECKING:
    from mcomp.runtime.compiled import CompiledModel


def dump(model: CompiledModel, folder: Path, *, weights: bool) -> list[Path]:
    """See `CompiledModel.dump`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        written = []
        for name, text in _texts(model).items():
            (folder / name).write_text(text)
            written.append(folder / name)
        if weights:
            written.append(_weights(model, folder / "weights.safetensors"))
    except OSError as e:
        raise ArtifactError(f"{folder} could not be written: {e}", code="MC0702",
                            help="free space or choose another folder; the model itself is unharmed") from e
    return written


def _texts(model: CompiledModel) -> dict[str, str]:
    texts = {}
    for path, program in model.built.programs().items():
        stem = path or "model"
        texts[f"{stem}.mir"] = f"{program.graph}\n"
        texts[f"{stem}.lowered.mir"] = f"{program.executable.graph}\n"
        texts[f"{stem}{program.executable.suffix}"] = program.executable.source()
    texts["report.txt"] = f"{model.report()}\n"
    texts["report.json"] = json.dumps(model.report().to_json(), indent=1) + "\n"
    return {name: text for name, text in texts.items() if text}


def _weights(model: CompiledModel, path: Path) -> Path:
    from safetensors import SafetensorError

    from mcomp.manager.instruments.reproducer import write_weights

    programs = model.built.programs().values()
    try:
        write_weights(path, *(p.graph for p in programs), *(p.executable.graph for p in programs))
    except SafetensorError as e:
        raise OSError(f"{path.name}: {e}") from e
    return path
