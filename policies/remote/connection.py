"""One connection to a policy server: a look at its health, its metadata, then an observation for a chunk of actions."""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import time
from typing import Any

import srpo_sdk as srpo
import websockets.exceptions
from websockets.sync.client import connect

import wire

MOST_BYTES = 256 << 20  # of one message
_WAIT_S = 0.5  # between two tries to reach a server that is starting


class Connection:
    """``metadata`` is what the server said of itself. Every failure is an `srpo.Error` that names the server."""

    def __init__(self, host: str, port: int, api_key: str, start_s: float, reply_s: float):
        self.host, self.port, self._secure = *_address(host, port), host.startswith("wss://")
        self._api_key, self._reply_s = api_key, reply_s
        self._wait_until_healthy(start_s)
        self._socket = None
        self._held = contextlib.ExitStack()  # the connection, to be closed
        self.metadata: dict = {}
        self._open()

    @property
    def place(self) -> str:
        return f"policy server {self.host}:{self.port}"

    def _unreachable(self, why: Any) -> srpo.Error:
        return srpo.Error(
            "unavailable",
            f"no policy server answers: {why}",
            place=self.place,
            hint="start it, or set host and port in [policy.remote]",
        )

    def _wait_until_healthy(self, seconds: float) -> None:
        """GET /healthz, again until it is answered: a server that loads its weights first does not listen yet.

        Any answer but a failure of the server's own will do: some servers have no /healthz.
        """
        began = time.monotonic()
        while True:
            srpo.heartbeat()
            kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
            asking = kind(self.host, self.port, timeout=10)
            try:
                asking.request("GET", "/healthz")
                status = asking.getresponse().status
            except (OSError, http.client.HTTPException) as error:
                why: Any = error
            else:
                if status < 500:
                    return
                why = f"/healthz says {status}"
            finally:
                asking.close()
            if time.monotonic() - began + _WAIT_S > seconds:
                raise self._unreachable(why)
            time.sleep(_WAIT_S)

    def _open(self) -> None:
        headers = {"Authorization": f"Api-Key {self._api_key}"} if self._api_key else None
        try:
            opening = connect(
                f"{'wss' if self._secure else 'ws'}://{_bracketed(self.host)}:{self.port}",
                compression=None,
                max_size=MOST_BYTES,
                additional_headers=headers,
                proxy=None,
                open_timeout=30,
                ping_interval=None,  # a server that computes does not answer pings
            )
            self._socket = self._held.enter_context(opening)
            metadata = self._receive()
        except (OSError, TimeoutError, socket.gaierror, websockets.exceptions.WebSocketException) as error:
            raise self._unreachable(error) from error
        if not isinstance(metadata, dict):
            raise self._broken(f"it begins with {type(metadata).__name__}, not with its metadata")
        self.metadata = metadata

    def infer(self, observation: dict) -> dict:
        """The server's answer to an observation. A connection that was lost is made anew, once."""
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
                    hint="raise reply_s in [policy.remote], or look at the server's log",
                ) from error
            except (OSError, websockets.exceptions.WebSocketException) as error:
                self.close()
                if last:
                    raise self._unreachable(error) from error
        if not isinstance(answer, dict):
            raise self._broken(f"it answers with {type(answer).__name__}, not with a map")
        return answer

    def _receive(self) -> Any:
        data = self._socket.recv(timeout=self._reply_s)
        if isinstance(data, str):  # the protocol's way to say that the policy failed: its traceback
            self.close()
            lines = data.strip().splitlines() or ["without a word"]
            raise srpo.Error(
                "internal",
                f"the policy server failed: {lines[-1]}",
                place=self.place,
                hint="the names of the observation's keys are settings of [policy.remote]; they must be the server's",
                detail=data,
            )
        try:
            return wire.unpack(data)
        except wire.Refused as error:
            raise self._broken(str(error)) from error

    def _broken(self, what: str) -> srpo.Error:
        return srpo.Error(
            "corrupt", f"the policy server sends what cannot be taken: {what}", place=self.place,
            hint="it must speak openpi's websocket protocol",
        )  # fmt: skip

    def close(self) -> None:
        self._socket = None
        try:
            self._held.close()
        except (OSError, websockets.exceptions.WebSocketException):
            pass  # it is gone already


def _address(host: str, port: int) -> tuple[str, int]:
    """Name and port of the setting host, which may have a scheme, as openpi's clients allow, and even a port."""
    scheme, _, rest = host.rpartition("://")
    name, _, own = rest.rpartition(":") if rest.count(":") == 1 else (rest, "", "")
    name = name[1:-1] if name.startswith("[") and name.endswith("]") else name
    if scheme not in ("", "ws", "wss") or not name or set(name) & set("/?#@ []") or (own and not own.isdecimal()):
        raise srpo.Error(
            "invalid", f"{host!r} is no address of a policy server", place="policy.remote.host",
            hint="a name such as localhost, or wss://NAME for one behind TLS; the port is a setting of its own",
        )  # fmt: skip
    return name, int(own or port)


def _bracketed(name: str) -> str:
    """The name as it stands in a URL: IPv6 addresses in brackets."""
    try:
        return f"[{name}]" if ipaddress.ip_address(name).version == 6 else name
    except ValueError:
        return name
