"""How a model is called: parameter names and defaults, so that positional and keyword arguments meet. Needs no torch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mcomp.capture import structure
from mcomp.errors import ArtifactError, CallError

KINDS = ("positional", "any", "args", "keyword", "kwargs")
_FROM_INSPECT = {
    inspect.Parameter.POSITIONAL_ONLY: "positional",
    inspect.Parameter.POSITIONAL_OR_KEYWORD: "any",
    inspect.Parameter.VAR_POSITIONAL: "args",
    inspect.Parameter.KEYWORD_ONLY: "keyword",
    inspect.Parameter.VAR_KEYWORD: "kwargs",
}


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter. `kind` is one of positional, any (positional or keyword), args, keyword, kwargs."""

    name: str
    kind: str
    optional: bool = False
    default: Any = None


@dataclass(frozen=True, slots=True)
class Signature:
    """The parameters of a model's forward."""

    parameters: tuple[Parameter, ...]

    @staticmethod
    def of(forward: Callable[..., Any]) -> Signature:
        """The signature of a callable; `(*args, **kwargs)` where Python cannot tell."""
        try:
            found = inspect.signature(forward)
        except (TypeError, ValueError):
            return Signature((Parameter("args", "args"), Parameter("kwargs", "kwargs")))
        parameters = []
        for one in found.parameters.values():
            optional = one.default is not inspect.Parameter.empty
            parameters.append(Parameter(one.name, _FROM_INSPECT[one.kind], optional, one.default if optional else None))
        return Signature(tuple(parameters))

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments by parameter name, defaults filled in: equal calls give equal dicts.

        Raises CallError for a missing, repeated or unknown argument.
        """
        bound: dict[str, Any] = {}
        rest, named = list(args), dict(kwargs)
        for one in self.parameters:
            if one.kind == "args":
                bound[one.name], rest = tuple(rest), []
            elif one.kind == "kwargs":
                bound[one.name], named = named, {}
            elif one.kind != "keyword" and rest:
                if one.kind == "any" and one.name in named:
                    raise CallError(f"argument `{one.name}` was given twice",
                                    help=f"pass it by position or by name; the model takes {self}")
                bound[one.name] = rest.pop(0)
            elif one.kind != "positional" and one.name in named:
                bound[one.name] = named.pop(one.name)
            elif one.optional:
                bound[one.name] = one.default
            else:
                raise CallError(f"argument `{one.name}` is missing", help=f"the model takes {self}")
        if rest or named:
            unknown = f"the model does not take argument `{next(iter(named), '')}`"
            too_many = f"{len(rest)} positional arguments too many"
            raise CallError(unknown if named else too_many, help=f"the model takes {self}")
        return bound

    def unbind(self, bound: Mapping[str, Any], given: frozenset[str]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments for a call; of the optional ones only those named in `given`."""
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        positional = True
        for one in self.parameters:
            value = bound[one.name]
            if one.kind == "args":
                args.extend(value)
            elif one.kind == "kwargs":
                kwargs.update(value)
            elif one.optional and one.name not in given:
                positional = False
            elif one.kind == "positional" or (one.kind == "any" and positional):
                args.append(value)
            else:
                kwargs[one.name] = value
        return tuple(args), kwargs

    def given(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> frozenset[str]:
        """The names of the parameters that this call passes."""
        names = [one.name for one in self.parameters if one.kind in ("positional", "any")]
        return frozenset(names[: len(args)]) | frozenset(kwargs)

    def __str__(self) -> str:
        marks = {"args": "*", "kwargs": "**"}
        texts = [marks.get(p.kind, "") + p.name + ("=..." if p.optional else "") for p in self.parameters]
        return f"({', '.join(texts)})"

    def to_json(self) -> Any:
        """JSON data; defaults that are not plain constants are described in words."""
        out = []
        for one in self.parameters:
            row: dict[str, Any] = {"name": one.name, "kind": one.kind}
            if one.optional:
                row["default"] = structure.to_json(structure.describe(one.default, []))
            out.append(row)
        return out

    @staticmethod
    def from_json(data: Any) -> Signature:
        """Read what `to_json` wrote. Raises ArtifactError for anything else."""
        if not isinstance(data, list):
            raise ArtifactError("a signature is a list of parameters")
        parameters = []
        for row in data:
            if not isinstance(row, dict) or not isinstance(row.get("name"), str) or row.get("kind") not in KINDS:
                raise ArtifactError(f"{str(row)[:80]} is no parameter")
            default = structure.build(structure.from_json(row["default"]), []) if "default" in row else None
            parameters.append(Parameter(row["name"], row["kind"], "default" in row, default))
        return Signature(tuple(parameters))
