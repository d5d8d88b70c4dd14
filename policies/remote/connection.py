"""A connection to a policy server: a health check, its metadata, then one chunk of actions per observation."""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import string
import time
from typing import Any

import srpo_sdk as srpo
import websockets.exceptions
from websockets.sync.client import connect

import wire

MAX_MESSAGE_BYTES = 256 << 20
_PATH = set(string.ascii_letters + string.digits + "/-._~!$&'()*+,;=:@%")  # characters of a path in a URL
_RETRY_S = 0.5  # between two attempts to reach a server that is starting


class Connection:
    """A connection whose ``metadata`` is the server's first message. Every failure is an `srpo.Error` that names the
    server: "unavailable", "deadline", "corrupt" or "internal".
    """

    def __init__(self, host: str, port: int, api_key: str, start_s: float, reply_s: float):
        self.host, self.port, self._path = _address(host, port)
        self._secure = host.startswith("wss://")
        self._api_key, self._reply_s = api_key, reply_s
        self._wait_until_healthy(start_s)
        self._socket = None
        self._resources = contextlib.ExitStack()  # closes the connection
        self.metadata: dict = {}
        self._open()

    @property
    def place(self) -> str:
        return f"policy server {self.host}:{self.port}{self._path}"

    def _unreachable(self, why: Any) -> srpo.Error:
        return srpo.Error(
            "unavailable",
            f"no policy server answers: {why}",
            place=self.place,
            hint="start it, or set host and port in [policy.remote]",
        )

    def _wait_until_healthy(self, seconds: float) -> None:
        """Requests /healthz, below the server's path, until it answers: a server that still loads does not listen.

        Any status below 500 will do, because some servers have no /healthz.
        """
        began, health = time.monotonic(), self._path.rstrip("/") + "/healthz"
        while True:
            srpo.report_progress()
            kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
            connection = kind(self.host, self.port, timeout=10)
            try:
                connection.request("GET", health)
                status = connection.getresponse().status
            except (OSError, http.client.HTTPException) as error:
                why: Any = error
            else:
                if status < 500:
                    return
                why = f"{health} returns {status}"
            finally:
                connection.close()
            if time.monotonic() - began + _RETRY_S > seconds:
                raise self._unreachable(why)
            time.sleep(_RETRY_S)

    def _open(self) -> None:
        headers = {"Authorization": f"Api-Key {self._api_key}"} if self._api_key else None
        try:
            opening = connect(
                f"{'wss' if self._secure else 'ws'}://{_bracketed(self.host)}:{self.port}{self._path}",
                compression=None,
                max_size=MAX_MESSAGE_BYTES,
                additional_headers=headers,
                proxy=None,
                open_timeout=30,
                ping_interval=None,  # a server that computes does not answer pings
            )
            self._socket = self._resources.enter_context(opening)
            metadata = self._receive()
        except (OSError, TimeoutError, socket.gaierror, websockets.exceptions.WebSocketException) as error:
            raise self._unreachable(error) from error
        if not isinstance(metadata, dict):
            raise self._broken(f"its first message is {type(metadata).__name__}, not its metadata")
        self.metadata = metadata

    def infer(self, observation: dict) -> dict:
        """Returns the server's answer to an observation. A lost connection is opened again once."""
        message = wire.pack(observation)
        for last in (False, True):
            try:
                if self._socket is None:
                    self._open()
                self._socket.send(message)
                answer = self._receive()
                break
            except TimeoutError as error:
                self.close()
                raise srpo.Error(
                    "deadline",
                    f"the policy server did not answer within {self._reply_s:g} s",
                    place=self.place,
                    hint="raise reply_s in [policy.remote], or read the server's log",
                ) from error
            except (OSError, websockets.exceptions.WebSocketException) as error:
                self.close()
                if last:
                    raise self._unreachable(error) from error
        if not isinstance(answer, dict):
            raise self._broken(f"its answer is {type(answer).__name__}, not a map")
        return answer

    def _receive(self) -> Any:
        data = self._socket.recv(timeout=self._reply_s)
        if isinstance(data, str):  # the policy on the server failed, and this is the traceback
            self.close()
            lines = data.strip().splitlines() or ["without a message"]
            raise srpo.Error(
                "internal",
                f"the policy server failed: {lines[-1]}",
                place=self.place,
                hint="set the keys of the observation in [policy.remote] to those that the server expects",
                detail=data,
            )
        try:
            return wire.unpack(data)
        except wire.Refused as error:
            raise self._broken(str(error)) from error

    def _broken(self, what: str) -> srpo.Error:
        return srpo.Error(
            "corrupt", f"the policy server sent an unusable message: {what}", place=self.place,
            hint="use a server of openpi's websocket protocol",
        )  # fmt: skip

    def close(self) -> None:
        self._socket = None
        try:
            self._resources.close()
        except (OSError, websockets.exceptions.WebSocketException):
            pass  # it is closed already


def _address(host: str, port: int) -> tuple[str, int, str]:
    """Returns name, port and path ("" or "/PATH"). The setting host may contain a scheme, as in openpi's clients, a
    port, and with a scheme the path at which a proxy serves the policy.
    """
    scheme, _, rest = host.rpartition("://")
    rest, slash, path = rest.partition("/")
    name, _, own = rest.rpartition(":") if rest.count(":") == 1 or "]:" in rest else (rest, "", "")
    name = name[1:-1] if name.startswith("[") and name.endswith("]") else name
    path = slash + path if path else ""
    if (
        scheme not in ("", "ws", "wss")
        or not name
        or set(name) & set("?#@ []")
        or (own and not (own.isdecimal() and own.isascii() and 0 < int(own) < 65536))
        or not set(path) <= _PATH
        or (path and not scheme)
    ):
        raise srpo.Error(
            "invalid", f"{host!r} is not the address of a policy server", place="policy.remote.host",
            hint="give a name such as localhost, ws://NAME/PATH, or wss://NAME for TLS; the port is another setting",
        )  # fmt: skip
    return name, int(own or port), path


def _bracketed(name: str) -> str:
    """Returns the name as in a URL: an IPv6 address in brackets."""
    try:
        return f"[{name}]" if ipaddress.ip_address(name).version == 6 else name
    except ValueError:
        return name
