"""A compiled model as files for people to read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from mcomp.errors import ArtifactError
from mcomp.files import MARK, check_own, is_marked

if TYPE_CHECKING:
    from mcomp.runtime.compiled import CompiledModel

_WEIGHTS = "weights.safetensors"
_BEGINNINGS = {".mir": b"graph @", ".json": b'{\n "target": '}
"""How files begin that have no room for the mark."""


def dump(model: CompiledModel, folder: Path, *, weights: bool) -> list[Path]:
    """See `CompiledModel.dump`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        written = []
        texts = _texts(model)
        for name in (*texts, *([_WEIGHTS] if weights else [])):
            check_own(folder / name, _is_own)
        for name, text in texts.items():
            (folder / name).write_text(text)
            written.append(folder / name)
        if weights:
            written.append(_weights(model, folder / _WEIGHTS))
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
    texts["report.txt"] = f"{MARK}.\n\n{model.report()}\n"
    texts["report.json"] = json.dumps(model.report().to_json(), indent=1) + "\n"
    return {name: text for name, text in texts.items() if text}


def _is_own(path: Path) -> bool:
    """Whether a file is one of a dump."""
    if path.name == _WEIGHTS:
        from mcomp.manager.instruments.reproducer import holds_weights

        return holds_weights(path)
    if path.suffix in _BEGINNINGS:
        with open(path, "rb") as file:
            return file.read(100).startswith(_BEGINNINGS[path.suffix])
    return is_marked(path)


def _weights(model: CompiledModel, path: Path) -> Path:
    from safetensors import SafetensorError

    from mcomp.manager.instruments.reproducer import write_weights

    programs = model.built.programs().values()
    try:
        write_weights(path, *(p.graph for p in programs), *(p.executable.graph for p in programs))
    except SafetensorError as e:
        raise OSError(f"{path.name}: {e}") from e
    return path
