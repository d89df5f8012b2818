"""Memory: one pool whose places are shared only by what is not alive together, results that nobody writes to again."""

from __future__ import annotations

import threading

import torch

from mcomp.backends.triton.access import Buffer
from mcomp.backends.triton.frame import Frame
from mcomp.backends.triton.plan import ALIGN, buffers_of, plan_memory, size_of
from mcomp.ir.graph import Value
from tests.triton.harness import B, Made, close, compiled, inputs_of, made, needs_triton

pytestmark = needs_triton


def _deep(m: Made) -> list[Value]:
    x = m.input((B, 24))
    h = x
    for _ in range(6):
        h = m.op("layer_norm", m.op("linear", h, m.const((24, 24), scale=0.2)), m.const((24,)), axes_count=1, eps=1e-5)
    return [h, m.op("softmax", m.op("add", h, x), axis=1)]


def test_places_do_not_overlap_while_both_are_alive() -> None:
    executable = compiled(made(_deep))
    for batch in (1, 64):
        steps = executable.steps({"B": batch})
        plan = plan_memory(steps, {"B": batch})
        spans: dict[Buffer, tuple[int, int]] = {}
        for i, step in enumerate(steps):
            for buffer in buffers_of(step):
                if buffer in plan.offsets:
                    spans[buffer] = (spans.get(buffer, (i, i))[0], i)
        listed = list(spans)
        for i, a in enumerate(listed):
            assert plan.offsets[a] % ALIGN == 0
            for b in listed[i + 1 :]:
                together = spans[a][0] <= spans[b][1] and spans[b][0] <= spans[a][1]
                ends = [plan.offsets[v] + size_of(v.nbytes, {"B": batch}) for v in (a, b)]
                apart = ends[0] <= plan.offsets[b] or ends[1] <= plan.offsets[a]
                assert apart or not together
        total = sum(size_of(b.nbytes, {"B": batch}) for b in spans)
        assert plan.nbytes < total or len(spans) < 4, "nothing is shared"


def test_results_alias_neither_each_other_nor_later_calls() -> None:
    """Also from the third call on, when a recording with memory of its own is replayed."""
    graph = made(lambda m: [*_deep(m), m.input((B, 24))])
    executable = compiled(graph)
    assert executable.ready({"B": 3}).recordable
    kept = []
    for seed in range(5):
        given = inputs_of(graph, {"B": 3}, seed)
        before = [x.clone() for x in given]
        found = executable.run(given, {"B": 3})
        kept.append((found, [x.clone() for x in found]))
        assert all(torch.equal(a, b) for a, b in zip(given, before))
        places = [x.untyped_storage().data_ptr() for x in (*found, *given)]
        assert len(set(places)) == len(places)
    for found, copies in kept:
        assert all(torch.equal(a, b) for a, b in zip(found, copies))


def test_a_recording_reads_the_arguments_of_its_own_call() -> None:
    graph = made(_deep)
    recorded, plain = compiled(graph), compiled(graph)
    plain.records = False
    for seed in range(4):
        given = inputs_of(graph, {"B": 2}, seed)
        for a, b in zip(recorded.run(given, {"B": 2}), plain.run(given, {"B": 2})):
            assert torch.equal(a, b)


def test_every_size_has_its_own_plan_and_threads_their_own_frames() -> None:
    graph = made(_deep)
    executable = compiled(graph)
    expected = {b: executable.run(inputs_of(graph, {"B": b}, b), {"B": b}) for b in (1, 2, 5)}
    wrong: list[int] = []

    def call(batch: int) -> None:
        for _ in range(3):
            found = executable.run(inputs_of(graph, {"B": batch}, batch), {"B": batch})
            if not all(torch.equal(a, b) for a, b in zip(found, expected[batch])):
                wrong.append(batch)

    threads = [threading.Thread(target=call, args=(b,)) for b in (1, 2, 5, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_frames_of_a_stream_stay_with_it() -> None:
    """A frame that another stream may still be running in is not handed out."""
    executable = compiled(made(_deep))
    ready = executable.ready({"B": 2})
    stream = [1]
    executable.device.stream = lambda: stream[0]  # type: ignore[method-assign]
    first = ready.take()
    ready.give_back(first)
    stream[0] = 2
    second = ready.take()
    assert second is not first and isinstance(second, Frame)
    ready.give_back(second)
    stream[0] = 1
    assert ready.take() is first


def test_calls_inside_of_inference_mode_and_outside() -> None:
    graph = made(_deep)
    executable = compiled(graph)
    given = inputs_of(graph, {"B": 2})
    with torch.inference_mode():
        first = executable.run([x.clone() for x in given], {"B": 2})
        executable.run([x.clone() for x in given], {"B": 2})
    for a, b in zip(executable.run(given, {"B": 2}), first):
        close(a, b)


def test_a_tensor_too_large_to_count_is_refused() -> None:
    """Before anything is allocated."""
    import pytest

    from mcomp.errors import BackendError

    executable = compiled(made(lambda m: [m.op("neg", m.input((B, 1 << 20)))]))
    with pytest.raises(BackendError, match="32 bits"):
        executable.ready({"B": 4096})
