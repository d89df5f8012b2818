"""``python -m benchmarks.cold model.mcomp [model.onnx model.xml ...]``: from process start to the first answer.

Every start is a fresh process, files in turn: Python, the runtime and numpy are imported, the file is loaded, and one call
is made. Times are of the wall clock from before the process was started until it says that it has answered; processor time
is of the whole process; memory is its peak resident set (files that are mapped and touched included). `.mcomp` files are
loaded with `trust_code=True`, `.onnx` files by ONNX Runtime, `.xml` files by OpenVINO. The first row is Python with numpy.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

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
model = mcomp.load(sys.argv[1], trust_code=True, threads=int(sys.argv[2]))
face = model.built.program.face
given = []
for value in model.built.program.input_values():
    shape = [d if isinstance(d, int) else max(1, face.symbols[str(d)].low) for d in value.tensor.shape]
    given.append(np.ones(shape, value.tensor.dtype.numpy))
model(*given)
"""

_ONNX = """
import sys
import numpy as np
import onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = int(sys.argv[2])
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
kinds = {"tensor(int64)": np.int64, "tensor(float)": np.float32, "tensor(bool)": np.bool_}
session.run(None, {
    i.name: np.ones([d if isinstance(d, int) else 1 for d in i.shape], kinds[i.type]) for i in session.get_inputs()
})
"""

_OPENVINO = """
import sys
import numpy as np
import openvino
core = openvino.Core()
model = core.compile_model(sys.argv[1], "CPU", {"INFERENCE_NUM_THREADS": int(sys.argv[2]), "PERFORMANCE_HINT": "LATENCY"})
model([np.ones([1 if d.is_dynamic else d.get_length() for d in i.partial_shape], i.element_type.to_dtype())
       for i in model.inputs])
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


def main() -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cold", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--starts", type=int, default=10, metavar="N", help="of each, in turn; the first one is not counted")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    unknown = [f for f in options.files if f.suffix not in _PROGRAMS]
    if unknown:
        parser.error(f"{unknown[0]}: what ends in {', '.join(_PROGRAMS)} can be started")
    turns = {"Python with numpy": (_NUMPY, [])}
    turns |= {f.name: (_PROGRAMS[f.suffix], [str(f), str(options.threads)]) for f in options.files}
    found: dict[str, list[Start]] = {name: [] for name in turns}
    for _ in range(options.starts + 1):
        for name, (program, arguments) in turns.items():
            found[name].append(start(program, arguments))
    print("| | file MiB | wall ms, least | median | processor ms, least | peak MiB | over numpy |")
    print("|---|---|---|---|---|---|---|")
    bare = min(s.peak for s in found["Python with numpy"][1:])
    sizes = {f.name: f"{f.stat().st_size / 2**20:.1f}" for f in options.files}
    for name, starts in found.items():
        counted = starts[1:]
        walls, peak = [s.wall * 1e3 for s in counted], max(s.peak for s in counted)
        print(f"| {name} | {sizes.get(name, '')} | {min(walls):.0f} | {statistics.median(walls):.0f} "
              f"| {min(s.cpu for s in counted) * 1e3:.0f} | {peak:.1f} | {peak - bare:.1f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
