"""serve: from an author's class to a running plugin."""

import multiprocessing
import sys
from typing import Type, Union

from .encoder import Encoder
from .env import Env
from .info import Info
from .policy import Policy


def serve(cls: Type[Union[Env, Policy, Encoder]]) -> None:
    """Serves an `Env`, `Policy` or `Encoder` subclass until the host asks for the end; the last line of plugin.py.

    Started by hand, it says what the file is and exits with status 1.

    Raises:
        TypeError: cls is not such a subclass, or has no `info`.
        ValueError: `info` declares what no host could use.
        ImportError: a package that the kit itself needs is not in the plugin's requirements.txt.
    """
    if not (isinstance(cls, type) and issubclass(cls, (Env, Policy, Encoder))):
        raise TypeError(f"serve wants a subclass of Env, Policy or Encoder, got {cls!r}")
    if multiprocessing.parent_process() is not None or sys._getframe(1).f_globals.get("__name__") == "__mp_main__":
        return  # a worker of the plugin's own, which multiprocessing lets import the plugin's file again
    info = getattr(cls, "info", None)
    if not isinstance(info, Info):
        raise TypeError(f"{cls.__name__} needs a class attribute info = srpo_sdk.Info(name=..., version=...)")
    info.check()
    try:
        import cryptography  # noqa: F401
        import grpc  # noqa: F401
    except ImportError as e:
        raise ImportError(
            f"{e}; a plugin's requirements.txt must lock grpcio, protobuf, numpy and cryptography for srpo_sdk"
        ) from e
    from . import _encoder_service, _env_service, _policy_service, _server

    if issubclass(cls, Env):
        service = _env_service.EnvService(cls, info)
    elif issubclass(cls, Policy):
        service = _policy_service.PolicyService(cls, info)
    else:
        service = _encoder_service.EncoderService(cls, info)
    _server.serve(service)
