"""Who a plugin says it is, and the settings that it takes."""

import math
import platform
from dataclasses import dataclass, field
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Union

from ._proto import base_pb2 as pb
from .errors import Error

__version__ = "0.1.0"


@dataclass(frozen=True)
class Setting:
    """One value that srpo.toml or --set may give to a plugin.

    Its type is the type of `default`: bool, int, float, str or a list of str.

    Args:
        name: lower_case, as it is written in srpo.toml.
        default: the value when nothing is set.
        doc: one line: meaning, unit, source.
        choices: the allowed strings; empty: any.
        min, max: inclusive bounds of a number.
    """

    name: str
    default: Any
    doc: str
    choices: Sequence[str] = ()
    min: Optional[float] = None
    max: Optional[float] = None

    def check(self, value: Any) -> Any:
        """Returns value as the setting's type (an int is accepted for a float), or raises `Error` ("invalid") that
        says what was expected.
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
                f"setting {self.name!r} wants {_NAMES[kind]}, got {value!r}",
                hint=f"the default is {self.default!r}; {self.doc}",
            )
        if self.choices and value not in self.choices:
            raise Error(
                "invalid", f"setting {self.name!r} cannot be {value!r}", hint=f"one of {', '.join(self.choices)}"
            )
        if (self.min is not None and value < self.min) or (self.max is not None and value > self.max):
            bounds = " and ".join(
                [f"at least {self.min}"] * (self.min is not None) + [f"at most {self.max}"] * (self.max is not None)
            )
            raise Error("invalid", f"setting {self.name!r} cannot be {value}", hint=bounds)
        return value


_NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a string",
    list: "a list of strings",
    tuple: "a list of strings",
}


@dataclass(frozen=True)
class Info:
    """Who a plugin says it is.

    Args:
        name: as in plugin.toml.
        version: as in plugin.toml.
        settings: what it takes from srpo.toml.
        doc: one sentence for `srpo plugin list`.
        versions: versions worth a line in a run's manifest: a dictionary, or names of installed distributions to look
            up (["mujoco"]).
        distributed: several processes can serve the role together, see `PolicyConfig` (policies).
    """

    name: str
    version: str = "0.1.0"
    settings: List[Setting] = field(default_factory=list)
    doc: str = ""
    versions: Union[Mapping[str, str], Iterable[str]] = ()
    distributed: bool = False

    def resolve(self, given: Optional[Mapping[str, Any]] = None) -> Dict[str, Any]:
        """Returns every declared setting by name: the given values, checked, and the defaults for the rest. Unknown
        names raise `Error` ("invalid").
        """
        declared = {s.name: s for s in self.settings}
        for name in given or {}:
            if name not in declared:
                raise Error("invalid", f"unknown setting {name!r}", hint=f"known: {', '.join(declared) or 'none'}")
        values = {
            name: list(s.default) if isinstance(s.default, (list, tuple)) else s.default for name, s in declared.items()
        }
        values.update({name: declared[name].check(value) for name, value in (given or {}).items()})
        return values

    def library_versions(self) -> Dict[str, str]:
        """Returns the versions by name, with those of Python and this package."""
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
        """Raises ValueError for a declaration that no host could use."""
        if not self.name:
            raise ValueError("Info needs a name")
        for s in self.settings:
            if type(s.default) not in _NAMES:
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
    """Returns the Python form of a setting's value."""
    which = value.WhichOneof("value")
    if which is None:
        raise Error("invalid", "a setting came without a value")
    return list(value.list_value.values) if which == "list_value" else getattr(value, which)
