"""The process that compiles kernels ahead of time: reads jobs as JSON, writes a line of JSON for each."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from mcomp.backends.triton.modules import load_source
from mcomp.ir.dtypes import DTYPES, to_torch


class AbsentDriver:
    """Stands for the driver of a chip that is not there: tells its target, and has nothing to launch on."""

    def __init__(self, arch: int) -> None:
        from triton.backends.compiler import GPUTarget

        self.target = GPUTarget("cuda", arch, 32)

    def get_current_target(self) -> Any:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int = 0) -> int:
        return 0

    def set_current_device(self, device: int) -> None:
        pass

    def map_python_to_cpp_type(self, kind: str) -> str:
        return kind


def compile_job(job: dict[str, Any]) -> dict[str, Any]:
    """Compile one job; see `aot.Job` and `aot.Compiled`."""
    import triton
    from triton.runtime.driver import driver
    from triton.runtime.jit import MockTensor

    started = time.perf_counter()
    found: dict[str, Any] = {"name": job["name"], "arch": job["arch"], "tensor": []}
    driver.set_active(AbsentDriver(job["arch"]))
    function = getattr(load_source(job["source"]), job["name"])
    function.device_caches.clear()
    pointers = [MockTensor(_dtype(kind)) for kind in job["pointers"]]
    stages: dict[str, int] = {}
    triton.knobs.compilation.listener = lambda **told: stages.update(told["times"].lowering_stages)
    try:
        kernel = function.warmup(
            *pointers, *job["numbers"], **dict(job["metas"]), num_warps=job["warps"], num_stages=job["stages"],
            enable_fp_fusion=False, grid=(1,),
        )
    except Exception as e:  # the compiler raises what it likes; the caller reports it
        return {**found, "error": f"{type(e).__name__}: {e}"[:1500]}
    found |= resources(kernel.asm["cubin"])
    found["shared"] = int(kernel.metadata.shared)
    ptx = kernel.asm["ptx"]
    found["tensor"] = [name for name in ("wgmma", "mma.sync") if name in ptx]
    found["tensor"] = ["mma" if name == "mma.sync" else name for name in found["tensor"]]
    assembling = round(stages.get("cubin", 0) / 1e6, 3)
    return {**found, "seconds": round(time.perf_counter() - started, 3), "assembling": assembling}


def _dtype(kind: str) -> Any:
    import torch

    return torch.uint8 if kind == "u8" else to_torch(DTYPES[kind])


def resources(cubin: bytes) -> dict[str, int]:
    """Registers, stack and local memory of a compiled kernel, as cuobjdump tells them."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([str(tool), "--dump-resource-usage", file.name], capture_output=True, text=True,
                              check=True).stdout
    values = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", text))
    return {"registers": int(values["REG"]), "stack": int(values["STACK"]), "local": int(values["LOCAL"])}


def main() -> None:
    """Read, compile, write."""
    for job in json.load(sys.stdin):
        print(json.dumps(compile_job(job)), flush=True)


if __name__ == "__main__":
    main()
