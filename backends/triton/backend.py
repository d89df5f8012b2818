"""The backend for NVIDIA GPUs: lowers graphs to generated Triton kernels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from mcomp.backend import Ahead, Backend, CompileOptions, Executable, code_digest, register_backend
from mcomp.backends.triton.builder import FUSION, TARGET, Builder
from mcomp.backends.triton.device import FP8_ARCH, current_device, missing
from mcomp.backends.triton.program import Chip, Program, chip_of
from mcomp.errors import BackendError
from mcomp.ir.graph import Graph
from mcomp.manager.context import Context

if TYPE_CHECKING:
    from mcomp.backends.triton.executor import TritonExecutable
    from mcomp.plan.profile import DeviceProfile


class TritonBackend(Backend):
    """Generated Triton kernels. With TRITON_INTERPRET=1 they run in Triton's interpreter, on tensors in main memory."""

    name = TARGET
    replaceable = False

    def pipeline(self) -> str:
        return f"{FUSION},legalize{{target=cuda}}"

    def available(self) -> str | None:
        return missing()

    def revision(self) -> str:
        from importlib.metadata import PackageNotFoundError, version

        try:
            known = version("triton")
        except PackageNotFoundError:
            known = ""
        return f"{code_digest(Path(__file__).resolve().parent)} {known}"

    def describe(self) -> dict[str, str]:
        if find_spec("triton") is None:
            return {"triton": "not installed"}
        from importlib.metadata import version

        found = {"triton": version("triton")}
        if missing() is None:
            device = current_device()
            found["device"] = f"{device.name} (sm_{device.chip.arch})" if device.chip.arch else device.name
        return found

    def legalize(self, graph: Graph, context: Context) -> int:
        """Leave remarks about what will run in torch; see the pass `legalize`."""
        lower_graph(graph, context)
        return 0

    def compile(self, graph: Graph, options: CompileOptions, context: Context | None = None) -> Executable:
        return self._executable(graph, options, context, None)

    def restore(self, graph: Graph, binaries: Mapping[str, bytes], options: CompileOptions) -> Executable | None:
        """An executable that finds its kernels compiled for the device that is here; None when none of `binaries` is.
        What of them is from other versions of triton or for other sizes is compiled again."""
        from mcomp.backends.triton.ship import default_folder, unpack

        content = binaries.get(f"sm_{current_device().chip.arch}")
        return None if content is None else self._executable(graph, options, None, unpack(content, default_folder()))

    def tune(self, graph: Graph, options: CompileOptions, progress: Callable[[str], None]) -> int:
        """Measure configurations for the graph's kernels at the sizes `hints`, on a GPU; what was measured is kept."""
        if missing() is not None or current_device().chip.interpreted:
            return 0
        from mcomp.backends.triton.frame import Frame
        from mcomp.manager.run import PassManager

        ready = graph.clone()
        PassManager(self.pipeline()).run(ready)
        progress("measuring kernels")
        executable = self._executable(ready, options, None, None)
        known = {s: options.hints.get(s, max(1, b.low)) for s, b in graph.symbols.items()}
        Frame(executable.ready(known)).only_steps(known)
        return 0 if executable.tuner is None else executable.tuner.measured

    def source(self, graph: Graph, options: CompileOptions) -> str:
        from mcomp.backends.triton.modules import source_of

        return source_of(lower_graph(graph, None).launches(), layers=True)

    def compile_ahead(self, graph: Graph, options: CompileOptions) -> list[Ahead]:
        from mcomp.backends.triton.aot import compile_jobs, jobs_of, launches_of

        arch = arch_of(options.isa) or 90
        program = lower_graph(graph, None)
        symbols = dict(options.hints)
        listed = jobs_of(launches_of(program, symbols, arch), symbols, arch)
        found = []
        for (launch, config, _), compiled in zip(listed, compile_jobs([job for _, _, job in listed])):
            facts = {
                "registers": str(compiled.registers), "bytes of shared memory": str(compiled.shared),
                "bytes of stack": str(compiled.stack), "tensor-core instructions": "+".join(compiled.tensor) or "no",
                "configuration": str(config),
            }
            layers = () if launch.node is None else launch.node.loc.paths
            faults = tuple(compiled.faults(chip_of(arch), dot=False))
            found.append(Ahead(launch.name, launch.ops, layers, facts, faults))
        return found

    def multiplies_bytes(self, op: str) -> bool:
        return op in ("linear", "conv")

    def machine(self) -> str:
        return "" if missing() is not None else current_device().name

    def home(self) -> str:
        return "cpu" if missing() is not None else str(current_device().torch_device)

    def measure_profile(self, threads: int) -> DeviceProfile | None:
        if missing() is not None or current_device().chip.interpreted:
            return None
        from mcomp.backends.triton.profile import measure

        return measure(current_device(), threads)

    def _executable(
        self, graph: Graph, options: CompileOptions, context: Context | None, shipped: Path | None
    ) -> TritonExecutable:
        from mcomp.backends.triton.executor import TritonExecutable
        from mcomp.backends.triton.tune import Tuner

        device = current_device()
        tuner = None if device.chip.interpreted else Tuner(device)
        program = lower_graph(graph, context)
        check_types(program, device.chip)
        return TritonExecutable(
            program, device, tuner, arch=arch_of(options.isa), shipped=shipped, hints=options.hints,
        )


def check_types(program: Program, chip: Chip) -> None:
    """Raise BackendError when a chip lacks an element type that kernels need."""
    if chip.interpreted or chip.arch >= FP8_ARCH:
        return
    for launch in program.launches():
        if any("f8e4m3" in kind for kind in (*launch.dtypes, *(k for _, _, k in launch.pointers))):
            raise BackendError(
                f"fp8 (e4m3) needs sm_{FP8_ARCH}; this is sm_{chip.arch}", code="MC0613",
                where=None if launch.node is None else launch.node.layer, help="use f16, bf16 or int8",
            )


def arch_of(isa: str | None) -> int | None:
    """The compute capability of a name such as `sm_90`, times ten; None for none. Raises BackendError for other names."""
    if isa is None:
        return None
    number = isa.removeprefix("sm_").rstrip("a")
    if not isa.startswith("sm_") or not number.isdigit() or not 80 <= int(number) < 200:
        raise BackendError(f"{isa} names no architecture that Triton kernels are made for", code="MC0601",
                           help="write the compute capability, such as cuda:sm_80 or cuda:sm_90")
    return int(number)


def lower_graph(graph: Graph, context: Context | None) -> Program:
    """A program of kernels for a graph, which is not changed. The same graph always gives the same program. Needs neither
    triton nor a GPU."""
    return Builder(graph.clone(), context).build()


BACKEND = register_backend(TritonBackend())
