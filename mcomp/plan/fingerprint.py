"""Digests of Python objects by what they are made of, the same in another process."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any, Protocol

_PLAIN = (str, bytes, int, float, complex, type(None), type(Ellipsis))
_KNOWN = frozenset({"mcomp", "torch", "numpy", *sys.stdlib_module_names})
"""Packages whose code is not looked at: only names count."""
_DEEPEST = 100


def is_plain(value: Any) -> bool:
    """Whether a value is a number, a text, None, or a list of such."""
    return all(map(is_plain, value)) if isinstance(value, (tuple, list)) else isinstance(value, _PLAIN)


class Hash(Protocol):
    """What hashlib gives."""

    def update(self, data: Any, /) -> None: ...


class Fingerprint:
    """Adds objects to a hash: tensors by their numbers, modules by their state and code, functions by their code, defaults
    and what they close over, others by their class and attributes. What functions find in globals is left out."""

    def __init__(self, h: Hash) -> None:
        self._h = h
        self._seen: dict[int, Any] = {}
        """By id; held, so that ids stay theirs."""
        self._coded: set[type] = set()
        self._depth = 0

    def add(self, value: Any) -> None:
        """Add one object. Of those that were met before, only that they were."""
        if isinstance(value, _PLAIN):
            self._say(type(value).__name__, repr(value))
        elif id(value) in self._seen or self._depth > _DEEPEST:
            self._say("again")
        else:
            self._seen[id(value)] = value
            self._say(type(value).__module__, type(value).__qualname__)
            self._depth += 1
            self._add_parts(value)
            self._depth -= 1

    def add_code(self, cls: type) -> None:
        """Add the methods of a class, those of its bases included, as far as they are the user's."""
        for base in cls.__mro__:
            if _is_known(base) or base in self._coded:
                continue
            self._coded.add(base)
            self._say(base.__module__, base.__qualname__)
            for name, member in sorted(vars(base).items()):
                if isinstance(member, FunctionType):
                    self._say(name)
                    self.add(member)

    def _add_parts(self, value: Any) -> None:
        import numpy as np
        import torch

        if isinstance(value, torch.Tensor):
            self._say(str(value.dtype), str(tuple(value.shape)))
            self._h.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        elif isinstance(value, (np.ndarray, np.generic)):
            self._say(str(value.dtype), str(value.shape))
            self._h.update(value.tobytes())
        elif isinstance(value, torch.nn.Module):
            self._add_module(value)
        elif isinstance(value, Mapping):
            self._add_all(part for pair in value.items() for part in pair)
        elif isinstance(value, (tuple, list)):
            self._add_all(value)
        elif isinstance(value, (set, frozenset)):
            self._say(*sorted(map(repr, value)))
        elif isinstance(value, CodeType):
            self._say(repr(value.co_code), *value.co_names)
            self._add_all(value.co_consts)
        elif isinstance(value, FunctionType):
            self._add_function(value)
        elif isinstance(value, MethodType):
            self._add_all((value.__func__, value.__self__))
        elif isinstance(value, partial):
            self._add_all((value.func, value.args, value.keywords))
        elif isinstance(value, type):
            self._say(value.__module__, value.__qualname__)
            self.add_code(value)
        elif isinstance(value, ModuleType) or not hasattr(value, "__dict__"):
            self._say(str(getattr(value, "__qualname__", getattr(value, "__name__", ""))))
        else:
            self.add_code(type(value))
            self._add_all(part for pair in vars(value).items() for part in pair)

    def _add_module(self, module: Any) -> None:
        self._say(repr(module))
        for name, tensor in module.state_dict(keep_vars=True).items():
            self._say(name)
            self._add_parts(tensor)
        for path, one in module.named_modules():
            self.add_code(type(one))
            numbers = {k: v for k, v in vars(one).items() if k[0] != "_" and k != "training" and isinstance(v, _PLAIN)}
            self._say(path, repr(numbers))

    def _add_function(self, function: FunctionType) -> None:
        self._say(function.__qualname__)
        if _is_known(function):
            return
        self._add_all((function.__code__, function.__defaults__, function.__kwdefaults__))
        for cell in function.__closure__ or ():
            with suppress(ValueError):  # an empty one
                self.add(cell.cell_contents)

    def _add_all(self, values: Iterable[Any]) -> None:
        for value in values:
            self.add(value)
        self._say("end")

    def _say(self, *texts: str) -> None:
        for text in texts:
            self._h.update(text.encode(errors="replace") + b"\0")


def _is_known(thing: Any) -> bool:
    return str(thing.__module__).partition(".")[0] in _KNOWN
