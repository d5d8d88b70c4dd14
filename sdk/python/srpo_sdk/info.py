"""A plugin's name, version and settings."""

from __future__ import annotations

import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ._proto import base_pb2 as pb
from .errors import Error

__version__ = "0.1.0"

_TYPE_NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a string",
    list: "a list of strings",
    tuple: "a list of strings",
}


@dataclass(frozen=True)
class Setting:
    """A value that srpo.toml or --set can give to a plugin. Its type is the type of `default`.

    Args:
        name: in lower_case, as it is written in srpo.toml.
        default: bool, int, float, str or a list of str: the value when the user gives none.
        doc: one line: meaning, unit, source.
        choices: the allowed strings; empty: any string.
        min: the smallest allowed number, inclusive; None: no lower bound.
        max: the largest allowed number, inclusive; None: no upper bound.
    """

    name: str
    default: Any
    doc: str
    choices: Sequence[str] = ()
    min: float | None = None
    max: float | None = None

    def check(self, value: Any) -> Any:
        """Returns value with the setting's type (an int is accepted for a float).

        Raises:
            Error: "invalid" when the type is wrong, the number is out of bounds, or the string is not a choice.
        """
        kind = type(self.default)
        if kind is float and type(value) is int:
            value = float(value)
        if kind in (list, tuple):
            fits = isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value)
            value = list(value) if fits else value
        else:
            fits = type(value) is kind
        if not fits or (kind is float and not math.isfinite(value)):
            raise Error(
                "invalid",
                f"setting {self.name!r} wants {_TYPE_NAMES[kind]}, got {value!r}",
                hint=f"the default is {self.default!r}; {self.doc}",
            )
        if self.choices and value not in self.choices:
            raise Error(
                "invalid", f"setting {self.name!r} cannot be {value!r}", hint=f"one of {', '.join(self.choices)}"
            )
        if (self.min is not None and value < self.min) or (self.max is not None and value > self.max):
            bounds = [f"at least {self.min}"] * (self.min is not None) + [f"at most {self.max}"] * (
                self.max is not None
            )
            raise Error("invalid", f"setting {self.name!r} cannot be {value}", hint=" and ".join(bounds))
        return value


@dataclass(frozen=True)
class Info:
    """A plugin's name, version and settings.

    Args:
        name: as in plugin.toml.
        version: as in plugin.toml.
        settings: the values that srpo.toml can give to it.
        doc: one sentence for `srpo plugin list`.
        versions: library versions to record in a run's manifest: a dictionary, or names of installed distributions
            to look up (["mujoco"]).
        distributed: of a policy: whether several processes can serve it together, see `PolicyConfig`.
    """

    name: str
    version: str = "0.1.0"
    settings: Sequence[Setting] = field(default_factory=list)
    doc: str = ""
    versions: Mapping[str, str] | Iterable[str] = ()
    distributed: bool = False

    def resolve(self, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Returns every declared setting by name: the given values where there are some, else the defaults.

        Raises:
            Error: "invalid" for an unknown name or a wrong value.
        """
        declared = {s.name: s for s in self.settings}
        given = given or {}
        for name in given:
            if name not in declared:
                raise Error("invalid", f"unknown setting {name!r}", hint=f"known: {', '.join(declared) or 'none'}")
        values = {
            name: list(s.default) if isinstance(s.default, (list, tuple)) else s.default for name, s in declared.items()
        }
        values.update({name: declared[name].check(value) for name, value in given.items()})
        return values

    def library_versions(self) -> dict[str, str]:
        """Returns the versions by name, with those of Python and of this package added."""
        from importlib import metadata

        found = {"python": platform.python_version(), "srpo_sdk": __version__}
        if isinstance(self.versions, Mapping):
            found.update({k: str(v) for k, v in self.versions.items()})
            return found
        for name in self.versions:
            try:
                found[name] = metadata.version(name)
            except metadata.PackageNotFoundError:
                found[name] = "not installed"
        return found

    def check(self) -> None:
        """Raises ValueError when the name is missing or a setting has an unsupported default, and `Error` ("invalid")
        when a default breaks its own setting's rules.
        """
        if not self.name:
            raise ValueError("Info needs a name")
        for s in self.settings:
            if type(s.default) not in _TYPE_NAMES:
                raise ValueError(
                    f"setting {s.name!r} has a default of type {type(s.default).__name__}; "
                    "use bool, int, float, str or a list of str"
                )
            s.check(s.default)


def to_value(value: Any) -> pb.Value:
    """Returns the wire form of a setting's value."""
    if isinstance(value, bool):
        return pb.Value(bool_value=value)
    if isinstance(value, int):
        return pb.Value(int_value=value)
    if isinstance(value, float):
        return pb.Value(float_value=value)
    if isinstance(value, str):
        return pb.Value(string_value=value)
    return pb.Value(list_value=pb.StringList(values=value))


def from_value(value: pb.Value) -> Any:
    """Returns the Python form of a setting's value. Raises `Error` ("invalid") when the message is empty."""
    which = value.WhichOneof("value")
    if which is None:
        raise Error("invalid", "a setting was sent without a value")
    return list(value.list_value.values) if which == "list_value" else getattr(value, which)
