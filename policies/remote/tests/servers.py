"""Servers for the tests, each in a thread and on a port of its own."""

import asyncio
import contextlib
import http
import threading
import traceback

import websockets.asyncio.server
import websockets.exceptions

import wire

METADATA = {"name": "test", "action_horizon": 8}


@contextlib.contextmanager
def serve(infer, metadata=METADATA, health=http.HTTPStatus.OK, answer=None, tls=None, requested=None):
    """Runs a server of openpi's protocol and yields its port. ``infer`` returns the answer to an observation; an
    exception is sent as text before the connection is closed. ``answer``, if given, is sent instead, unchanged.
    The paths of all requests are appended to ``requested``.
    """

    async def handle(socket):
        await socket.send(wire.pack(metadata))
        while True:
            try:
                message = wire.unpack(await socket.recv())
                await socket.send(wire.pack(infer(message)) if answer is None else answer)
            except websockets.exceptions.ConnectionClosed:
                return
            except Exception:  # noqa: BLE001  as openpi does
                await socket.send(traceback.format_exc())
                await socket.close(code=1011, reason="Internal server error. Traceback included in previous frame.")
                return

    def process(connection, request):
        if requested is not None:
            requested.append(request.path)
        if request.path.endswith("/healthz"):
            return connection.respond(health() if callable(health) else health, "OK\n")
        return None

    async def run(stop, ready):
        options = {"compression": None, "max_size": None, "process_request": process, "ssl": tls}
        async with websockets.asyncio.server.serve(handle, "127.0.0.1", 0, **options) as server:
            ready.set_result(server.sockets[0].getsockname()[1])
            await stop.wait()

    with _looping(run) as port:
        yield port


@contextlib.contextmanager
def openpi_server(policy, metadata=METADATA):
    """Runs the server of the package openpi-server and yields its port."""
    import socket

    from openpi_server.websocket_policy_server import WebsocketPolicyServer

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = WebsocketPolicyServer(policy, host="127.0.0.1", port=port, metadata=metadata)

    async def run(stop, ready):
        serving = asyncio.create_task(server.run())
        ready.set_result(port)
        await stop.wait()
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)

    with _looping(run) as port:
        yield port


@contextlib.contextmanager
def _looping(run):
    import concurrent.futures

    ready: concurrent.futures.Future = concurrent.futures.Future()
    loop, stop = asyncio.new_event_loop(), None

    async def main():
        nonlocal stop
        stop = asyncio.Event()
        await run(stop, ready)

    def work():
        try:
            loop.run_until_complete(main())
        except BaseException as error:  # noqa: BLE001  the test raises it
            if not ready.done():
                ready.set_exception(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield ready.result(timeout=20)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(timeout=20)
