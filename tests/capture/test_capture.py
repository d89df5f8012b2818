"""Models as graphs: arguments, state, sizes, types, places; and the same numbers as eager torch."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.zoo_check import Interpreted, compare
from mcomp.capture import capture
from mcomp.capture.program import CapturedProgram
from mcomp.errors import CallError, CaptureError
from mcomp.ir import dims
from mcomp.ir.parser import parse_graph
from mcomp.ir.verifier import verify


def captured(model: nn.Module, *args: Any, dynamic: Any = None, others: Any = (), **kwargs: Any) -> CapturedProgram:
    found = capture(model.eval(), args, kwargs, dynamic=dynamic, others=others)
    assert found.program is not None, found.eager
    graph = found.program.graph
    verify(graph)
    assert str(parse_graph(str(graph), graph.store)) == str(graph)
    return found.program


def agrees(model: nn.Module, program: CapturedProgram, *args: Any, **kwargs: Any) -> None:
    assert compare(model, Interpreted(program), args, kwargs) <= 1e-5


class Scaled(nn.Module):
    def forward(self, x: torch.Tensor, **rest: torch.Tensor) -> torch.Tensor:
        return x * rest["scale"].sum(1, keepdim=True)


def test_sizes_of_keywords_that_are_taken_among_others() -> None:
    model = Scaled()
    program = captured(model, torch.randn(2, 3), scale=torch.randn(2, 5), dynamic={"scale": {1: "S"}})
    assert "S" in program.graph.symbols
    agrees(model, program, torch.randn(4, 3), scale=torch.randn(4, 9))


@dataclass
class Result:
    total: torch.Tensor
    parts: dict[str, tuple[torch.Tensor, ...]]
    note: str


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Any, *, extra: Any = None, scale: float = 1.0) -> Result:
        first, second = x["pair"]
        total = self.fc(first) * scale + second
        if extra is not None:
            total = total + extra[0]
        return Result(total, {"all": (first, total)}, "done")


def test_nested_arguments_and_results() -> None:
    model, make = Nested(), lambda n: {"pair": (torch.randn(n, 4), torch.randn(n, 4))}
    program = captured(model, make(2), extra=[torch.randn(4)], scale=0.5)
    agrees(model, program, make(5), extra=[torch.randn(4)], scale=0.5)
    with pytest.raises(CallError, match="scale"):
        Interpreted(program)(make(2), extra=[torch.randn(4)], scale=2.0)
    with pytest.raises(CallError, match="extra"):
        Interpreted(program)(make(2), scale=0.5)


def test_positional_and_keyword_calls_are_the_same_call() -> None:
    class Two(nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return a - 2 * b

    model, a, b = Two(), torch.randn(3, 2), torch.randn(3, 2)
    program = captured(model, a, b=b)
    agrees(model, program, a, b)
    agrees(model, program, b=a, a=b)


def test_training_mode_is_an_error_that_says_what_to_do() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).eval()
    model[1].train()
    with pytest.raises(CaptureError, match=r"(?s)training mode \(1\).*\.eval\(\)"):
        capture(model, (torch.randn(2, 2),))


def test_the_model_is_left_alone_and_later_changes_do_nothing() -> None:
    model = nn.Linear(3, 2).eval()
    before = copy.deepcopy(model.state_dict())
    x = torch.randn(2, 3)
    program = captured(model, x)
    expected = model(x).detach()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    with torch.no_grad():
        model.weight.zero_()
    assert torch.allclose(Interpreted(program)(x), expected)


def test_tied_weights_are_one() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(9, 4)
            self.head = nn.Linear(4, 9, bias=False)
            self.head.weight = self.table.weight

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.head(self.table(ids))

    model, ids = Tied(), torch.tensor([[1, 2], [3, 4]])
    program = captured(model, ids)
    assert len(program.graph.store) == 1
    agrees(model, program, ids)


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(2))
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count.add_(x.sum(0))
        return x * self.count * self.scale


def test_mutated_buffers_are_state() -> None:
    model = Counter()
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    program = captured(model, x)
    kinds = {(spec.kind, spec.target) for spec in program.graph.input_specs}
    assert kinds == {("arg", ""), ("state", "count")}
    assert torch.equal(model.count, torch.zeros(2))
    run = Interpreted(program)
    for _ in range(3):
        assert torch.allclose(run(x), model(x))


def test_mutated_arguments_are_written_back() -> None:
    class Fill(nn.Module):
        def forward(self, cache: torch.Tensor, at: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            cache.index_copy_(1, at, x)
            return cache.sum(1)

    model = Fill()
    args = torch.zeros(2, 4), torch.tensor([1, 3]), torch.randn(2, 2)
    program = captured(model, *(a.clone() for a in args))
    assert [spec.kind for spec in program.graph.output_specs] == ["result", "mutated"]
    agrees(model, program, *args)


def test_containers_of_the_caller_change_as_in_eager_mode() -> None:
    class Remember(nn.Module):
        def forward(self, x: torch.Tensor, memory: dict[str, Any]) -> dict[str, Any]:
            memory["last"] = x + memory["last"]
            memory["seen"].append(x * 2)
            return memory

    model = Remember()
    program = captured(model, torch.ones(2, 1), {"last": torch.ones(2, 1), "seen": []})
    memory: dict[str, Any] = {"last": torch.ones(3, 1), "seen": []}
    assert Interpreted(program)(torch.ones(3, 1), memory) is memory
    assert torch.equal(memory["last"], torch.full((3, 1), 2.0)) and len(memory["seen"]) == 1


def test_a_batch_of_one_does_not_fix_the_batch() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Flatten(0), nn.Softmax(0))
    program = captured(model, torch.randn(1, 4))
    assert program.graph.inputs[0].tensor.shape[0] == dims.sym("B")
    agrees(model, program, torch.randn(5, 4))
    agrees(model, program, torch.randn(1, 4))


def test_named_sizes_with_bounds() -> None:
    model = nn.Linear(4, 4)
    program = captured(model, torch.randn(2, 7, 4), dynamic={"input": {1: ("S", 1, 64)}})
    assert [str(d) for d in program.graph.inputs[0].tensor.shape] == ["B", "S", "4"]
    assert str(program.graph.symbols["S"]) == "1..64"
    agrees(model, program, torch.randn(3, 9, 4))


def test_sizes_seen_in_other_calls_become_symbolic() -> None:
    model = nn.Conv1d(2, 3, 3, stride=2)
    program = captured(model, torch.randn(2, 2, 9), others=[((torch.randn(2, 2, 14),), {})])
    agrees(model, program, torch.randn(4, 2, 21))


def test_a_size_that_the_code_depends_on_stays_fixed_with_a_remark() -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2 if x.shape[0] == 3 else x * 4

    model = Odd()
    program = captured(model, torch.randn(3, 2))
    assert program.graph.inputs[0].tensor.shape[0] == 3
    assert any("fixed" in remark for remark in program.remarks)
    agrees(model, program, torch.randn(3, 2))


@pytest.mark.parametrize(
    "dtype", ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]
)
def test_element_types(dtype: str) -> None:
    class Add(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            kind = getattr(torch, dtype)
            self.register_buffer("other", torch.tensor([[1, 0, 3]]).to(kind))

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return x + self.other, x * 2, x / 3, x == self.other, x.float() * 0.1

    model, x = Add(), torch.tensor([[1, 2, 0], [5, 0, 1]]).to(getattr(torch, dtype))
    agrees(model, captured(model, x), x)


def test_stored_types_that_torch_does_not_compute_in() -> None:
    class Stored(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("w", torch.randn(3, 3).to(torch.float8_e4m3fn))
            self.register_buffer("c", torch.randn(3, dtype=torch.complex64))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.w.float() + (self.c * x).abs()

    model, x = Stored(), torch.randn(2, 3)
    agrees(model, captured(model, x), x)


def test_promotion_is_explicit() -> None:
    class Mixed(nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return a + b, b * 2.5, torch.where(c, a, 0), a + c, b / b, (b > 1.5) & c, a.double() ** b

    model = Mixed()
    args = torch.rand(2, 3), torch.randint(1, 5, (2, 3)), torch.tensor([[True, False, True]] * 2)
    program = captured(model, *args)
    for node in program.graph.nodes:
        if node.op.name in ("add", "mul", "div", "pow", "gt"):
            assert len({value.tensor.dtype for value in node.operands if value is not None}) == 1
    agrees(model, program, *args)


def test_places_name_module_and_line() -> None:
    model = Nested()
    program = captured(model, {"pair": (torch.randn(2, 4), torch.randn(2, 4))})
    linear = next(node for node in program.graph.nodes if node.op.name == "linear")
    add = next(node for node in program.graph.nodes if node.op.name == "add")
    assert linear.loc.path == "fc" and linear.layer == "fc"
    assert add.loc.file == "test_capture.py" and add.loc.line > 0


def test_operators_without_a_class_become_opaque_nodes() -> None:
    class Rare(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            values, vectors = torch.linalg.eigh(x @ x.mT)
            return torch.relu(values), vectors.abs()

    model, x = Rare(), torch.randn(2, 3, 3)
    found = capture(model.eval(), (x,))
    assert found.program is not None
    assert [name for name, _ in found.program.opaque] == ["aten._linalg_eigh.default"]
    assert any("runs in torch" in reason for _, reason, _ in found.notes)
    agrees(model, found.program, torch.randn(4, 3, 3))


def test_sizes_that_values_decide() -> None:
    class Pick(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x[x > 0], torch.nonzero(x)

    model, x = Pick(), torch.randn(3, 4)
    agrees(model, captured(model, x), torch.randn(5, 4))


def test_numbers_and_sizes_as_results() -> None:
    class Sizes(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, int, float, int]:
            return x / x.shape[0] ** 0.5, x.shape[0] * 2, x.shape[1] / 2, 7

    model = Sizes()
    program = captured(model, torch.randn(2, 3))
    result = Interpreted(program)(torch.randn(5, 3))
    assert result[1:] == (10, 1.5, 7) and type(result[1]) is int


def test_branches_of_torch_cond() -> None:
    class Choose(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cond(x.sum() > 0, lambda y: y.cos() + 1, lambda y: y.sin() * 2, (x,))

    model = Choose()
    program = captured(model, torch.randn(2, 3))
    for sign in (1.0, -1.0):
        agrees(model, program, sign * torch.rand(4, 3))


def test_numpy_arrays_are_tensors() -> None:
    model = nn.Linear(3, 2)
    program = captured(model, np.ones((2, 3), np.float32))
    agrees(model, program, torch.randn(5, 3))


def test_arguments_that_the_model_does_not_take() -> None:
    with pytest.raises(CallError, match="missing"):
        capture(nn.Linear(2, 2).eval())


def test_a_batch_of_one_where_the_code_asks_for_it() -> None:
    class Asks(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 3 if x.shape[0] == 1 else x * 2

    model = Asks()
    program = captured(model, torch.randn(2, 3))
    assert program.graph.inputs[0].tensor.shape[0] == dims.sym("B")
    agrees(model, program, torch.randn(5, 3))
    alone = captured(model, torch.randn(1, 3))
    agrees(model, alone, torch.randn(1, 3))


def test_a_model_without_arguments_is_captured() -> None:
    class Table(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.arange(3.0))

        def forward(self) -> torch.Tensor:
            return self.weight * 2

    program = capture(Table().eval(), ()).program
    assert program is not None
    assert not program.graph.inputs


class Asserting(nn.Module):
    """Assertions about elements, about how many there are, and about a number that a tensor holds."""

    def forward(self, x: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
        torch._assert_async((x > 0).all(), "x is positive")
        places = (x > 0.5).nonzero()
        torch._check(places.shape[0] % 2 == 0)
        n = count.item()
        torch._check(n >= 0)
        torch._check(n <= 3)
        return x[:, :n].sum() + places.sum()


def test_assertions_that_are_not_checked_leave_a_warning() -> None:
    model, args = Asserting().eval(), (torch.tensor([[0.2, 0.7, 0.9]]), torch.tensor(2))
    found = capture(model, args, dynamic=False)
    assert found.program is not None
    agrees(model, found.program, *args)
    reasons = [reason for _, reason, _ in found.warnings]
    assert len(reasons) == 2 and all("the assertion is not checked" in r for r in reasons)
    assert "x is positive" in reasons[0] and "Mod" in reasons[1]
