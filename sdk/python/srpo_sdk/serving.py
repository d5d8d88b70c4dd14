"""serve: from an author's class to a running plugin."""

from __future__ import annotations

import importlib
import multiprocessing
import sys
from typing import Literal, cast

from .encoder import Encoder
from .env import Env
from .errors import Error
from .info import Info
from .policy import Policy

Kind = Literal["env", "policy", "encoder"]
_BASES: dict[str, type] = {"env": Env, "policy": Policy, "encoder": Encoder}


def serve(
    plugin: type[Env] | type[Policy] | type[Encoder] | str,
    *,
    info: Info | None = None,
    kind: Kind = "policy",
    max_lanes: int = 1,
) -> None:
    """Serves a plugin until the host asks it to end. It is the last line of plugin.py and does not return.

        srpo_sdk.serve(MyEnv)
        srpo_sdk.serve("policy:MyPolicy", info=srpo_sdk.Info("my-policy", settings=[...]))

    The second form is for plugins whose imports take long (torch, a simulator). The process completes the handshake
    and answers Info first. It imports the module in Configure, for which the host allows five times as long.

    Args:
        plugin: a subclass of `Env`, `Policy` or `Encoder`, or where to import one from: "module:Class". The module is
            imported on the main thread in Configure; it may lie next to plugin.py.
        info: name, version and settings. Required with "module:Class"; default: the class attribute `info`.
        kind: of a "module:Class": "env", "policy" or "encoder". Ignored for a class.
        max_lanes: of a "module:Class" of kind "env": lanes that one process can serve. Ignored for a class, which has
            the attribute `max_lanes`.

    Started by hand, the program prints what it is and exits with status 1.

    Raises:
        TypeError: plugin is not such a subclass, or there is no info.
        ValueError: plugin is a string without a colon, kind is unknown, or `info` declares settings that no host
            accepts.
        ImportError: a package that the kit itself needs is not in the plugin's requirements.txt.
    """
    if multiprocessing.parent_process() is not None or sys._getframe(1).f_globals.get("__name__") == "__mp_main__":
        return  # a worker process of the plugin: multiprocessing makes it import the plugin's file again
    if isinstance(plugin, str):
        module, _, name = plugin.partition(":")
        if not module or not name:
            raise ValueError(f'serve wants a class or "module:Class", got {plugin!r}')
        if kind not in _BASES:
            raise ValueError(f"unknown kind {kind!r}; one of {', '.join(_BASES)}")
        if info is None:
            raise TypeError(f'serve("{plugin}") needs info=srpo_sdk.Info(name=..., version=...)')

        def load() -> type:
            return _load(module, name, kind)
    else:
        found = [k for k, base in _BASES.items() if isinstance(plugin, type) and issubclass(plugin, base)]
        if not found:
            raise TypeError(f"serve wants a subclass of Env, Policy or Encoder, got {plugin!r}")
        kind, cls = cast(Kind, found[0]), plugin
        info = info or getattr(cls, "info", None)
        if not isinstance(info, Info):
            raise TypeError(f"{cls.__name__} needs a class attribute info = srpo_sdk.Info(name=..., version=...)")
        max_lanes = getattr(cls, "max_lanes", 1)

        def load() -> type:
            return cls

    info.check()
    try:
        import cryptography  # noqa: F401
        import grpc  # noqa: F401
    except ImportError as e:
        raise ImportError(
            f"{e}; a plugin's requirements.txt must lock grpcio, protobuf, numpy and cryptography for srpo_sdk"
        ) from e
    from . import _encoder_service, _env_service, _policy_service, _server

    if kind == "env":
        _server.serve(_env_service.EnvService(load, info, max(1, int(max_lanes))))
    elif kind == "policy":
        _server.serve(_policy_service.PolicyService(load, info))
    else:
        _server.serve(_encoder_service.EncoderService(load, info))


def _load(module: str, name: str, kind: str) -> type:
    """Imports a plugin's class. Raises `Error` ("invalid") when the module has no such class of that kind."""
    cls = getattr(importlib.import_module(module), name, None)
    if not (isinstance(cls, type) and issubclass(cls, _BASES[kind])):
        raise Error(
            "invalid",
            f"{module}:{name} is not a subclass of srpo_sdk.{_BASES[kind].__name__}",
            hint=f'check the arguments of srpo_sdk.serve("{module}:{name}", kind="{kind}")',
        )
    return cls
