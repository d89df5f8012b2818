"""What launches run on: Triton's interpreter on tensors in main memory, or a CUDA device."""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from mcomp.backends.triton.program import INTERPRETER, Chip, Config, chip_of
from mcomp.errors import BackendError, install

if TYPE_CHECKING:
    from torch import Tensor

_RECORDING = threading.Lock()
FP8_ARCH = 89
"""From this compute capability on, chips multiply fp8."""

NO_TRITON = f"triton is not installed ({install('cuda')})"
NO_GPU = 'this machine has no CUDA device; optimize for target="cpu", or look at the code with mcomp opt --target cuda:sm_90'


class Device(ABC):
    """Memory, launches and recordings of one device."""

    chip: Chip
    name: str
    torch_device: Any
    turns: int = 1
    """How many times `milliseconds` gives the median of."""

    @abstractmethod
    def launch(self, function: Any, grid: tuple[int, ...], args: Sequence[Any], config: Config) -> None:
        """Start a kernel."""

    @abstractmethod
    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record what `work` starts, and return what starts all of it again. `work` has run before at the same addresses."""

    @abstractmethod
    def milliseconds(self, work: Callable[[], None]) -> float:
        """Time of one run on the device, the median of several. What it computes must be the same every time."""

    def stream(self) -> int:
        """Which queue calls go to now."""
        return 0

    def watch(self, word: Tensor) -> Callable[[], int | None]:
        """What tells the value that a word has after what is queued now, or None while that is not known."""
        value = int(word.item())
        return lambda: value

    def empty(self, count: int, dtype: Any) -> Tensor:
        """Uninitialized memory."""
        import torch

        return torch.empty(count, dtype=dtype, device=self.torch_device)

    def key(self) -> str:
        """What measurements on this device are valid for: its name, and versions."""
        import torch
        import triton

        return f"{self.name}|sm_{self.chip.arch}|torch {torch.__version__}|triton {triton.__version__}"


class Interpreter(Device):
    """Runs kernels one program after another with numpy. Its patches of the language are global: one launch at a time."""

    _lock = threading.RLock()

    def __init__(self) -> None:
        import torch

        self.chip = INTERPRETER
        self.name = "interpreter"
        self.torch_device = torch.device("cpu")

    def launch(self, function: Any, grid: tuple[int, ...], args: Sequence[Any], config: Config) -> None:
        import numpy as np

        with self._lock, np.errstate(all="ignore"):
            function[grid](*args, **dict(config.metas))

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """What stands for a recording here: it starts the same work again."""
        return work

    def milliseconds(self, work: Callable[[], None]) -> float:
        import time

        start = time.perf_counter()
        work()
        return (time.perf_counter() - start) * 1e3


class Cuda(Device):
    """A CUDA device by torch's runtime: launches go to the caller's current stream."""

    turns = 7

    def __init__(self, index: int | None = None) -> None:
        import torch

        self.index = torch.cuda.current_device() if index is None else index
        self.torch_device = torch.device("cuda", self.index)
        found = torch.cuda.get_device_properties(self.index)
        known = chip_of(found.major * 10 + found.minor)
        shared = getattr(found, "shared_memory_per_block_optin", known.shared)
        self.chip = Chip(known.arch, int(shared), int(found.multi_processor_count))
        self.name = found.name

    def launch(self, function: Any, grid: tuple[int, ...], args: Sequence[Any], config: Config) -> None:
        function[grid](
            *args, **dict(config.metas), num_warps=config.warps, num_stages=config.stages, enable_fp_fusion=False
        )

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        import torch

        graph = torch.cuda.CUDAGraph()
        side = torch.cuda.Stream(self.torch_device)
        with _RECORDING:  # one at a time in a process; what other threads do meanwhile does not break it
            side.wait_stream(torch.cuda.current_stream(self.torch_device))
            with torch.cuda.stream(side):
                work()
            torch.cuda.current_stream(self.torch_device).wait_stream(side)
            with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
                work()
        return graph.replay  # type: ignore[no-any-return]

    def stream(self) -> int:
        import torch

        return int(torch.cuda.current_stream(self.torch_device).cuda_stream)

    def watch(self, word: Tensor) -> Callable[[], int | None]:
        import torch

        held = torch.empty(1, dtype=word.dtype, pin_memory=True)
        held.copy_(word, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        return lambda: int(held.item()) if event.query() else None

    def milliseconds(self, work: Callable[[], None]) -> float:
        import torch

        work()
        torch.cuda.synchronize(self.torch_device)
        times = []
        for _ in range(self.turns):
            start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            for _ in range(5):
                work()
            stop.record()
            stop.synchronize()
            times.append(start.elapsed_time(stop) / 5)
        return sorted(times)[len(times) // 2]


def interpreting() -> bool:
    """Whether Triton's interpreter is asked for."""
    return os.environ.get("TRITON_INTERPRET", "0") not in ("", "0")


def missing() -> str | None:
    """Why nothing can run here; None when something can."""
    if find_spec("triton") is None:
        return NO_TRITON
    if interpreting():
        return None
    import torch

    return None if torch.cuda.is_available() else NO_GPU


def current_device() -> Device:
    """The interpreter where it is asked for, else torch's current CUDA device. Raises BackendError when there is neither."""
    reason = missing()
    if reason is not None:
        raise BackendError(f"target cuda cannot run here: {reason}", code="MC0602", help='use target="cpu"')
    return Interpreter() if interpreting() else Cuda()
