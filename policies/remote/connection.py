"""A connection to a policy server: health check, metadata, then a chunk of actions for each observation."""

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

MAX_MESSAGE_BYTES = 256 << 20
_RETRY_S = 0.5  # between health checks of a server that is starting


class Connection:
    """A connection, opened on construction. All failures are `srpo.Error` with the server as place.

    Args:
        host, port: address of the server; host may begin with ws:// or wss://.
        api_key: sent when connecting; empty: none.
        start_s: how long to wait for a server that is starting.
        reply_s: how long to wait for a reply.

    Attributes:
        metadata: the server's first message.
    """

    def __init__(self, host: str, port: int, api_key: str, start_s: float, reply_s: float):
        self.host, self.port, self._secure = *_address(host, port), host.startswith("wss://")
        self._api_key, self._reply_s = api_key, reply_s
        self._wait_until_healthy(start_s)
        self._socket = None
        self._stack = contextlib.ExitStack()  # closes the connection
        self.metadata: dict = {}
        self._open()

    @property
    def place(self) -> str:
        return f"policy server {self.host}:{self.port}"

    def _unreachable(self, reason: Any) -> srpo.Error:
        return srpo.Error(
            "unavailable",
            f"cannot reach the policy server: {reason}",
            place=self.place,
            hint="start the server, or set host and port in [policy.remote]",
        )

    def _wait_until_healthy(self, seconds: float) -> None:
        """Requests /healthz until the server replies with a status below 500. Servers listen only after they have
        loaded weights, and some have no /healthz.
        """
        started = time.monotonic()
        while True:
            srpo.report_progress()
            connection_class = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
            client = connection_class(self.host, self.port, timeout=10)
            try:
                client.request("GET", "/healthz")
                status = client.getresponse().status
            except (OSError, http.client.HTTPException) as error:
                reason: Any = error
            else:
                if status < 500:
                    return
                reason = f"/healthz returns status {status}"
            finally:
                client.close()
            if time.monotonic() - started + _RETRY_S > seconds:
                raise self._unreachable(reason)
            time.sleep(_RETRY_S)

    def _open(self) -> None:
        headers = {"Authorization": f"Api-Key {self._api_key}"} if self._api_key else None
        try:
            opened = connect(
                f"{'wss' if self._secure else 'ws'}://{_url_host(self.host)}:{self.port}",
                compression=None,
                max_size=MAX_MESSAGE_BYTES,
                additional_headers=headers,
                proxy=None,
                open_timeout=30,
                ping_interval=None,  # a server does not answer pings while it computes
            )
            self._socket = self._stack.enter_context(opened)
            metadata = self._receive()
        except (OSError, TimeoutError, socket.gaierror, websockets.exceptions.WebSocketException) as error:
            raise self._unreachable(error) from error
        if not isinstance(metadata, dict):
            raise self._bad_message(f"the first message is a {type(metadata).__name__}, want a map of metadata")
        self.metadata = metadata

    def infer(self, observation: dict) -> dict:
        """Returns the server's reply to an observation. If the connection is lost, it reconnects once."""
        message = wire.pack(observation)
        for last in (False, True):
            try:
                if self._socket is None:
                    self._open()
                self._socket.send(message)
                reply = self._receive()
                break
            except TimeoutError as error:
                self.close()
                raise srpo.Error(
                    "deadline",
                    f"the policy server did not reply within {self._reply_s:g} s",
                    place=self.place,
                    hint="raise reply_s in [policy.remote], or check the server's log",
                ) from error
            except (OSError, websockets.exceptions.WebSocketException) as error:
                self.close()
                if last:
                    raise self._unreachable(error) from error
        if not isinstance(reply, dict):
            raise self._bad_message(f"the reply is a {type(reply).__name__}, want a map")
        return reply

    def _receive(self) -> Any:
        data = self._socket.recv(timeout=self._reply_s)
        if isinstance(data, str):  # the traceback of a policy that failed
            self.close()
            lines = data.strip().splitlines() or ["it sent an empty message"]
            raise srpo.Error(
                "internal",
                f"the policy server failed: {lines[-1]}",
                place=self.place,
                hint="set the keys of the observation in [policy.remote] to those that the server expects",
                detail=data,
            )
        try:
            return wire.unpack(data)
        except wire.MessageError as error:
            raise self._bad_message(str(error)) from error

    def _bad_message(self, what: str) -> srpo.Error:
        return srpo.Error(
            "corrupt", f"the policy server sent a bad message: {what}", place=self.place,
            hint="it must use openpi's websocket protocol",
        )  # fmt: skip

    def close(self) -> None:
        self._socket = None
        try:
            self._stack.close()
        except (OSError, websockets.exceptions.WebSocketException):
            pass  # closed already


def _address(host: str, port: int) -> tuple[str, int]:
    """Name and port of the setting host, which may include a scheme, as in openpi's clients, and a port."""
    scheme, _, rest = host.rpartition("://")
    name, _, own_port = rest.rpartition(":") if rest.count(":") == 1 else (rest, "", "")
    name = name[1:-1] if name.startswith("[") and name.endswith("]") else name
    valid = scheme in ("", "ws", "wss") and name and not set(name) & set("/?#@ []")
    if not valid or (own_port and not own_port.isdecimal()):
        raise srpo.Error(
            "invalid", f"{host!r} is not the address of a policy server", place="policy.remote.host",
            hint="give a name such as localhost, or wss://NAME for a server behind TLS; set the port with port",
        )  # fmt: skip
    return name, int(own_port or port)


def _url_host(name: str) -> str:
    """The name as in a URL, with IPv6 addresses in brackets."""
    try:
        return f"[{name}]" if ipaddress.ip_address(name).version == 6 else name
    except ValueError:
        return name
