"""The reference backend: executables, kernels, memory of results, training."""

from __future__ import annotations

import sys
import threading

import numpy as np
import pytest
import torch

from mcomp.backend import CompileOptions, Executable, backend_named
from mcomp.backends.reference.module import ReferenceModule
from mcomp.errors import CallError
from mcomp.ir import Affine, Bounds, Graph, TensorType, dtypes, parse_graph, sym
from mcomp.ir.encoding import quantize_array

_TEXT = """graph @mlp[B in 1..](%x: f32[B, 8]) -> (f32[B, 4]) {
  %w = const @fc1.weight#seed=1 : f32[16, 8]
  %b = const @fc1.bias#seed=2 : f32[16]
  %h = linear %x, %w, %b : f32[B, 16] loc(fc1 "model.py":3)
  %a = relu %h : f32[B, 16] loc(act)
  %v = const @fc2.weight#seed=3 : f32[4, 16]
  %y = linear %a, %v, _ : f32[B, 4] loc(fc2)
  return %y
}"""


def _graph(text: str = _TEXT) -> Graph:
    return parse_graph(text, generate=True)


def _compile(graph: Graph) -> Executable:
    return backend_named("reference").compile(graph, CompileOptions())


def _eager(graph: Graph, x: torch.Tensor) -> torch.Tensor:
    w, b, v = (torch.from_numpy(np.array(graph.value(n).weight.decode())) for n in "wbv")  # type: ignore[union-attr]
    return torch.relu(x @ w.T + b) @ v.T


def test_results_for_tensors_and_arrays() -> None:
    graph = _graph()
    executable = _compile(graph)
    x = torch.randn(3, 8)
    (found,) = executable.run([x], {"B": 3})
    torch.testing.assert_close(found, _eager(graph, x))
    assert not found.requires_grad
    (array,) = executable.run([x.numpy()], {"B": 3}, numpy=True)
    assert isinstance(array, np.ndarray)
    np.testing.assert_array_equal(array, found.numpy())
    assert backend_named("reference").pipeline() == ""
    assert backend_named("reference").available() is None


def test_without_torch_the_backend_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert backend_named("reference").available() == "torch is not installed"


def test_the_backend_works_on_a_clone() -> None:
    graph = _graph()
    executable = _compile(graph)
    with graph.edit("break") as e:
        e.replace(graph.value("a"), graph.value("h"))
    x = torch.randn(2, 8)
    torch.testing.assert_close(executable.run([x], {"B": 2})[0], _eager(graph, x))


def test_bf16_arrays_are_bits() -> None:
    graph = _graph("graph @g(%x: bf16[4]) -> (bf16[4]) {\n %y = neg %x : bf16[4]\n return %y\n}")
    x = torch.randn(4).bfloat16()
    (found,) = _compile(graph).run([x.view(torch.int16).numpy().view(np.uint16)], {}, numpy=True)
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, (-x).view(torch.int16).numpy().view(np.uint16))


def test_results_share_memory_with_nothing() -> None:
    graph = _graph("""graph @g(%x: f32[2, 3]) -> (f32[2, 3], f32[3, 2], f32[2, 3], f32[6], f32[2, 2]) {
      %t = permute %x {order = [1, 0]} : f32[3, 2]
      %n = neg %x : f32[2, 3]
      %r = reshape %n {shape = [6]} : f32[6]
      %w = const @w#seed=1 : f32[2, 2]
      return %x, %t, %n, %r, %w
    }""")
    executable = _compile(graph)
    x = torch.randn(2, 3)
    kept = x.clone()
    outputs = executable.run([x], {})
    pointers = [o.untyped_storage().data_ptr() for o in outputs]
    assert len({*pointers, x.untyped_storage().data_ptr()}) == len(outputs) + 1
    first = [o.clone() for o in outputs]
    for o in outputs:
        o.zero_()
    assert torch.equal(x, kept)
    for a, b in zip(executable.run([x], {}), first):
        assert torch.equal(a, b)


def test_encoded_results_come_back_decoded() -> None:
    graph = _graph("""graph @g(%x: f32[2, 8]) -> (f32[2, 8] affine<i8, axis=0>) {
      %q = quantize %x : f32[2, 8] affine<i8, axis=0>
      return %q
    }""")
    x = torch.randn(2, 8)
    (found,) = _compile(graph).run([x], {})
    torch.testing.assert_close(found, x, atol=0.02, rtol=0)


def test_kernels_tell_layers_and_costs() -> None:
    kernels = _compile(_graph()).kernels({"B": 3})
    assert [(k.name, k.ops, k.layers, k.native) for k in kernels] == [
        ("h", ("linear",), ("fc1",), False), ("a", ("relu",), ("act",), False), ("y", ("linear",), ("fc2",), False),
    ]
    assert [k.flops for k in kernels] == [2 * 3 * 16 * 8 + 48, 48, 2 * 3 * 4 * 16]
    assert [k.weights for k in kernels] == [4 * (128 + 16), 0, 4 * 64]
    assert kernels[0].read == 4 * (24 + 128 + 16)
    assert kernels[0].write == 4 * 48


def test_profile_has_a_time_for_every_kernel() -> None:
    executable = _compile(_graph())
    times = executable.profile([torch.randn(3, 8)], {"B": 3}, repeats=3)
    assert len(times) == 3
    assert all(t > 0 for t in times)


def test_binding_runs_into_the_same_outputs() -> None:
    graph = _graph()
    executable = _compile(graph)
    x = torch.randn(3, 8)
    bound = executable.bind([x], {"B": 3})
    target = bound.outputs[0]
    x.copy_(torch.randn(3, 8))
    bound()
    torch.testing.assert_close(target, _eager(graph, x))


def test_several_threads_at_once() -> None:
    graph = _graph()
    executable = _compile(graph)
    wrong: list[int] = []

    def work(size: int) -> None:
        for _ in range(20):
            x = torch.randn(size, 8)
            if not torch.allclose(executable.run([x], {"B": size})[0], _eager(graph, x), atol=1e-5):
                wrong.append(size)

    threads = [threading.Thread(target=work, args=(n,)) for n in (1, 3, 17)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


# training

def test_gradients_are_those_of_eager() -> None:
    graph = _graph()
    module = ReferenceModule(graph)
    assert module.layer_of == ["fc1.weight", "fc1.bias", "fc2.weight"]
    x = torch.randn(5, 8)
    module(x)[0].square().sum().backward()
    w, b, v = (p.detach().clone().requires_grad_() for p in module.parameters())
    (torch.relu(x @ w.T + b) @ v.T).square().sum().backward()
    for found, expected in zip(module.parameters(), (w, b, v)):
        torch.testing.assert_close(found.grad, expected.grad)


def test_training_lowers_the_loss_and_gives_a_new_graph() -> None:
    graph = _graph()
    module = ReferenceModule(graph, trainable=lambda node: node.attrs["name"] != "fc1.bias")
    assert len(list(module.parameters())) == 2
    text = str(graph)
    torch.manual_seed(0)
    x, target = torch.randn(64, 8), torch.randn(64, 4)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        loss = (module(x)[0] - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    trained = module.trained()
    assert str(graph) == text
    torch.testing.assert_close(_compile(trained).run([x], {"B": 64})[0], module(x)[0].detach())
    assert trained.value("b").weight is graph.value("b").weight
    assert trained.value("w").weight is not graph.value("w").weight


def test_tied_constants_are_one_parameter() -> None:
    graph = Graph("g")
    x = graph.add_input("x", TensorType((2, 2), dtypes.f32))
    with graph.edit("test") as e:
        a = e.const(np.eye(2, dtype=np.float32), name="a")
        b = e.const(np.eye(2, dtype=np.float32), name="b")
        y = e.add("matmul", [e.add("matmul", [x, a]).result, b]).result
    graph.set_outputs([y])
    assert len(list(ReferenceModule(graph).parameters())) == 1


def test_encoded_constants_stay_and_gradients_pass_quantize() -> None:
    graph = Graph("g")
    graph.symbols["B"] = Bounds(1)
    data = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)
    kind = TensorType((4, 8), dtypes.f32, Affine(axis=(0,)))
    x = graph.add_input("x", TensorType((sym("B"), 8), dtypes.f32))
    with graph.edit("test") as e:
        v = e.const(np.ones((8, 8), np.float32), name="v")
        w = e.const(data, name="w", type=kind, parts=quantize_array(data, kind.encoding))
        h = e.add("linear", [x, v]).result
        y = e.add("linear", [e.add("quantize", [h]).result, w]).result
    graph.set_outputs([y])
    module = ReferenceModule(graph)
    assert module.layer_of == ["v"]
    given = torch.randn(3, 8)
    module(given)[0].sum().backward()
    (parameter,) = module.parameters()
    weight = torch.from_numpy(w.weight.decode())  # type: ignore[union-attr]
    expected = (torch.ones(3, 4) @ weight).T @ given
    torch.testing.assert_close(parameter.grad, expected)


def test_inputs_are_checked() -> None:
    with pytest.raises(CallError, match="input x: dim 1 is 7, expected 8"):
        ReferenceModule(_graph())(torch.randn(3, 7))
