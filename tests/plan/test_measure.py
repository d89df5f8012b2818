"""Timing in turns."""

import threading
import time

from mcomp.plan.measure import interleave


class Spinner:
    """A runner that leaves a thread behind, which takes its core for a while."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.spinning = False

    def __call__(self) -> None:
        self.spinning = True
        threading.Thread(target=self._spin).start()

    def _spin(self) -> None:
        end = time.perf_counter() + self.seconds
        while time.perf_counter() < end:
            pass
        self.spinning = False


def test_whoever_runs_after_a_runner_that_spins_waits_for_it() -> None:
    spinner, seen = Spinner(0.015), []

    def run() -> None:
        seen.append(spinner.spinning)
        time.sleep(0.003)

    timing = interleave([spinner, run], budget=0.2, spinning={0})
    warming = 2
    assert not any(seen[warming:])
    assert len(seen) > warming + 3 and timing.median(1) >= 0.003


def test_a_process_that_never_rests_is_timed_nevertheless() -> None:
    spinner = Spinner(0.4)
    spinner()
    timing = interleave([lambda: time.sleep(0.001)], budget=0.01)
    assert len(timing.seconds[0]) >= 3
