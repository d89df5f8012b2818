"""``python -m benchmarks.cold model.mcomp [model.onnx model.xml ...]``: from process start to the first answer.

Every start is a fresh process, files in turn: Python, the runtime and numpy are imported, the file is loaded, and one call
is made. Times are of the wall clock from before the process was started until it says that it has answered; processor time
is of the whole process; memory is its peak resident set (files that are mapped and touched included). `.mcomp` files are
loaded with `trust_code=True`; `.onnx` files by ONNX Runtime, as they are and as it saved them optimized before; `.xml`
files by OpenVINO, without and with its CACHE_DIR, which a first start that is not counted fills. The first row is Python
with numpy.

Symbolic sizes are what `--sizes` says, else the least that they may be. Dynamic sizes in `.xml` files have no names: that of
the first axis is B's, those of others the first other one that is given.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import machine

_TAIL = """
import os
status = open("/proc/self/status").read()
peak = int(status.split("VmHWM:")[1].split()[0])
print(peak, flush=True)
"""

_NUMPY = "import numpy as np\n"

_MCOMP = """
import sys
import numpy as np
import mcomp
sizes = {name: int(size) for name, size in (part.split("=") for part in sys.argv[3].split(",") if part)}
model = mcomp.load(sys.argv[1], trust_code=True, threads=int(sys.argv[2]))
face = model.built.program.face
given = []
for value in model.built.program.input_values():
    shape = [
        d if isinstance(d, int) else sizes.get(str(d)) or max(1, face.symbols[str(d)].low) for d in value.tensor.shape
    ]
    given.append(np.ones(shape, value.tensor.dtype.numpy))
model(*given)
"""

_ONNX = """
import sys
import numpy as np
import onnxruntime
sizes = {name: int(size) for name, size in (part.split("=") for part in sys.argv[3].split(",") if part)}
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = int(sys.argv[2])
if sys.argv[4] == "optimized":
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
kinds = {"tensor(int64)": np.int64, "tensor(float)": np.float32, "tensor(bool)": np.bool_}
session.run(None, {
    i.name: np.ones([d if isinstance(d, int) else sizes.get(d, 1) for d in i.shape], kinds[i.type])
    for i in session.get_inputs()
})
"""

_OPENVINO = """
import sys
import numpy as np
import openvino
sizes = {name: int(size) for name, size in (part.split("=") for part in sys.argv[3].split(",") if part)}
config = {"INFERENCE_NUM_THREADS": int(sys.argv[2]), "PERFORMANCE_HINT": "LATENCY"}
if sys.argv[4]:
    config["CACHE_DIR"] = sys.argv[4]
core = openvino.Core()
model = core.compile_model(sys.argv[1], "CPU", config)
others = [size for name, size in sizes.items() if name != "B"]
def size(axis, d):
    return d.get_length() if d.is_static else sizes.get("B", 1) if axis == 0 or not others else others[0]
model([np.ones([size(*pair) for pair in enumerate(i.partial_shape)], i.element_type.to_dtype()) for i in model.inputs])
"""

_PROGRAMS = {".mcomp": _MCOMP, ".onnx": _ONNX, ".xml": _OPENVINO}


@dataclass(frozen=True)
class Start:
    """One start: seconds of wall clock and processor, and the peak resident set in MiB."""

    wall: float
    cpu: float
    peak: float


def start(program: str, arguments: list[str]) -> Start:
    """Start Python with a program and wait for its answer. Raises CalledProcessError when it fails."""
    began = time.perf_counter()
    with subprocess.Popen([sys.executable, "-c", program + _TAIL, *arguments], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        answer = process.stdout.readline()
        wall = time.perf_counter() - began
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0 or not answer:
        raise subprocess.CalledProcessError(process.returncode, arguments)
    return Start(wall, usage.ru_utime + usage.ru_stime, int(answer) / 1024)


@dataclass(frozen=True)
class Way:
    """A way to start: its name, the program and its arguments, and bytes of the file."""

    name: str
    program: str
    arguments: tuple[str, ...] = ()
    file_bytes: int | None = None


def ways(files: Sequence[Path], threads: int, sizes: Mapping[str, int], folder: Path) -> list[Way]:
    """All ways to start these files; what runtimes make ahead goes to `folder`."""
    found = [Way("Python with numpy", _NUMPY)]
    for number, file in enumerate(files):
        program, size = _PROGRAMS[file.suffix], file.stat().st_size
        given = (str(threads), ",".join(f"{name}={count}" for name, count in sizes.items()))
        found.append(Way(file.name, program, (str(file), *given, ""), size))
        if file.suffix == ".onnx":
            made = optimized(file, threads, folder / f"{number}.onnx")
            found.append(Way(f"{file.name}, optimized", program, (str(made), *given, "optimized"), made.stat().st_size))
        elif file.suffix == ".xml":
            cache = str(folder / f"{number}")
            found.append(Way(f"{file.name}, CACHE_DIR", program, (str(file), *given, cache), size))
    return found


def optimized(file: Path, threads: int, target: Path) -> Path:
    """What ONNX Runtime makes of a model for this machine."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.optimized_model_filepath = str(target)
    onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return target


def sizes_of(text: str) -> dict[str, int]:
    """Sizes by the names of symbols, from `S=128,B=1`."""
    found: dict[str, int] = {}
    for part in filter(None, text.split(",")):
        name, _, size = part.partition("=")
        if not name or not size.isdecimal() or int(size) < 1:
            raise argparse.ArgumentTypeError(f"{part!r}: write S=128,B=1")
        found[name] = int(size)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print a table."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cold", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--starts", type=int, default=10, metavar="N", help="of each, in turn; the first one is not counted")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sizes", type=sizes_of, default={}, metavar="S=N,...", help="sizes of symbols, such as S=128")
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write every start there")
    options = parser.parse_args(words)
    unknown = [f for f in options.files if f.suffix not in _PROGRAMS]
    if unknown:
        parser.error(f"{unknown[0]}: what ends in {', '.join(_PROGRAMS)} can be started")
    made = machine.provenance("cold", [Path(w).name if Path(w) in options.files else w for w in words], options.threads)
    with tempfile.TemporaryDirectory() as folder:
        turns = ways(options.files, options.threads, options.sizes, Path(folder))
        found: dict[str, list[Start]] = {way.name: [] for way in turns}
        for _ in range(options.starts + 1):
            for way in turns:
                found[way.name].append(start(way.program, list(way.arguments)))
    print("| | file MiB | wall ms, least | median | processor ms, least | peak MiB | over numpy |")
    print("|---|---|---|---|---|---|---|")
    bare = min(s.peak for s in found["Python with numpy"][1:])
    for way in turns:
        counted = found[way.name][1:]
        walls, peak = [s.wall * 1e3 for s in counted], max(s.peak for s in counted)
        size = "" if way.file_bytes is None else f"{way.file_bytes / 2**20:.1f}"
        print(f"| {way.name} | {size} | {min(walls):.0f} | {statistics.median(walls):.0f} "
              f"| {min(s.cpu for s in counted) * 1e3:.0f} | {peak:.1f} | {peak - bare:.1f} |")
    if options.json:
        from mcomp.files import write_whole

        rows = [
            {"name": way.name, "file_bytes": way.file_bytes, "starts": [asdict(s) for s in found[way.name]]} for way in turns
        ]
        write_whole(options.json, json.dumps({**made, "sizes": options.sizes, "rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
