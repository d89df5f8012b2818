"""Compiled models: calls, checks, state, binding, threads."""

import threading

import numpy as np
import pytest
import torch

from mcomp.errors import CallError
from tests.runtime.build import COUNTER, model


def test_tensors_in_tensors_out_arrays_in_arrays_out() -> None:
    fast, x = model(), torch.randn(3, 8)
    y = fast(x)
    assert isinstance(y, torch.Tensor)
    array = fast(x.numpy())
    assert isinstance(array, np.ndarray)
    np.testing.assert_array_equal(array, y.numpy())
    np.testing.assert_array_equal(fast(x=x).numpy(), y.numpy())


def test_strided_inputs_and_inference_mode() -> None:
    fast, x = model(), torch.randn(8, 6)
    expected = fast(x.t().contiguous())
    torch.testing.assert_close(fast(x.t()), expected)
    with torch.inference_mode():
        torch.testing.assert_close(fast(x.t()), expected)
    np.testing.assert_allclose(fast(x.numpy().T), fast(x.t()).numpy(), rtol=1e-6)  # the same strides, the same sums


@pytest.mark.parametrize(("bad", "words"), [
    (torch.randn(3, 7), ["x", "7", "8"]),
    (torch.randn(3, 8, 1), ["x"]),
    (torch.randn(3, 8).double(), ["x", "f64", "f32"]),
    (np.zeros((3, 8), np.int64), ["x", "i64", "f32"]),
    ([1.0, 2.0], ["x", "tensor"]),
])
def test_arguments_that_do_not_fit_are_named(bad: object, words: list[str]) -> None:
    fast = model()
    with pytest.raises(CallError) as caught:
        fast(bad)
    for word in words:
        assert word in str(caught.value)
    fast(torch.randn(3, 8))


def test_missing_and_surplus_arguments() -> None:
    fast, x = model(), torch.randn(3, 8)
    with pytest.raises(CallError, match="`x` is missing"):
        fast()
    with pytest.raises(CallError, match="too many"):
        fast(x, x)
    with pytest.raises(CallError, match="`z`"):
        fast(x, z=x)


def test_state_is_kept_reset_and_separate_per_session() -> None:
    fast, x = model(COUNTER), torch.ones(2)
    assert [float(fast(x)[0]) for _ in range(3)] == [1.0, 2.0, 3.0]
    other = fast.session()
    assert float(other(x)[0]) == 1.0
    fast.reset_state()
    assert float(fast(x)[0]) == 1.0
    assert float(other(x)[0]) == 2.0


def test_bind_reads_the_input_anew() -> None:
    fast, x = model(), torch.randn(3, 8)
    run = fast.bind(x)
    first = run().clone()
    torch.testing.assert_close(first, fast(x))
    x.copy_(torch.randn(3, 8))
    torch.testing.assert_close(run(), fast(x))
    with pytest.raises(CallError, match="keeps state"):
        model(COUNTER).bind(torch.ones(2))


def test_results_do_not_change_with_later_calls() -> None:
    fast = model()
    first = fast(torch.ones(2, 8))
    kept = first.clone()
    fast(torch.zeros(2, 8))
    torch.testing.assert_close(first, kept)


def test_calls_from_several_threads_agree() -> None:
    fast = model()
    inputs = [torch.randn(n, 8) for n in (1, 2, 3, 5)]
    expected = [fast(x) for x in inputs]
    wrong: list[int] = []

    def work(index: int) -> None:
        for _ in range(20):
            wrong.extend([index] * (not torch.equal(fast(inputs[index]), expected[index])))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_module_view_behaves_and_refuses_training() -> None:
    module = model().module()
    assert module.eval() is module
    assert not module.training
    assert module(torch.zeros(1, 8)).shape == (1, 4)
    with pytest.raises(CallError, match="cannot be trained"):
        module.train()
    assert module.to("cpu") is module
    with pytest.raises(CallError, match="compiled for reference"):
        module.to("cuda")


@pytest.mark.parametrize("dtype", ["bf16", "f8e4m3"])
def test_state_of_types_that_numpy_lacks(dtype: str) -> None:
    fast = model(f"""graph @counter(%x: f32[2], state @count %n: {dtype}[]) -> (f32[2], {dtype}[]) {{
  %one = full {{value = 1.0, shape = [], dtype = !f32}} : f32[]
  %wide = cast %n {{dtype = !f32}} : f32[]
  %more = add %wide, %one : f32[]
  %y = mul %x, %more : f32[2]
  %next = cast %more {{dtype = !{dtype}}} : {dtype}[]
  return %y, state @count = %next
}}""")
    x = torch.ones(2)
    assert [float(fast(given)[0]) for given in (x, x, x.numpy(), x.numpy(), x)] == [1, 2, 3, 4, 5]
