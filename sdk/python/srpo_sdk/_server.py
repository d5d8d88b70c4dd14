"""The gRPC server of a plugin's process: handshake, mutual TLS, the services that all kinds share, errors on the
wire, and the end of the process.
"""

from __future__ import annotations

import base64
import datetime
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
from google.protobuf.message import Message

from . import _process
from ._calls import Call, Calls, Thread
from ._proto import base_pb2 as pb
from .errors import KINDS, Error, ErrorKind, as_error
from .info import Info, from_value, to_value
from .tensors import Arena

PROTOCOL = 1
MAX_MESSAGE = 256 << 20
# Seconds for the author's close() after the host asked for the end; go-plugin kills the process after 2 s.
CLOSE_SECONDS = 1.0

if TYPE_CHECKING:
    Handler = grpc.RpcMethodHandler[Any, Any]
else:  # grpcio has no generic classes at run time
    Handler = grpc.RpcMethodHandler

_CODES: dict[ErrorKind, grpc.StatusCode] = {
    "invalid": grpc.StatusCode.INVALID_ARGUMENT,
    "not found": grpc.StatusCode.NOT_FOUND,
    "unsupported": grpc.StatusCode.UNIMPLEMENTED,
    "mismatch": grpc.StatusCode.FAILED_PRECONDITION,
    "exhausted": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "deadline": grpc.StatusCode.DEADLINE_EXCEEDED,
    "canceled": grpc.StatusCode.CANCELLED,
    "unavailable": grpc.StatusCode.UNAVAILABLE,
    "corrupt": grpc.StatusCode.DATA_LOSS,
    "internal": grpc.StatusCode.INTERNAL,
    "diverged": grpc.StatusCode.OUT_OF_RANGE,
}


def _truncate(text: str, limit: int) -> str:
    """Shortens text to limit UTF-8 bytes: all trailers of a reply together must stay below gRPC's 8 KiB."""
    data = text.encode("utf-8", "replace")
    return text if len(data) <= limit else data[: limit - 3].decode("utf-8", "ignore") + "..."


def _fail(context: grpc.ServicerContext, exc: BaseException) -> NoReturn:
    """Ends a call with an error that keeps its kind, place and hint."""
    e = as_error(exc)
    detail = e.detail.encode("utf-8", "replace")[-2500:].decode("utf-8", "ignore")  # the end of a traceback says most
    message = pb.Error(
        kind=pb.ErrorKind.Name(KINDS.index(e.kind) + 1),
        message=_truncate(e.message, 1000),
        place=_truncate(e.place, 500),
        hint=_truncate(e.hint, 500),
        detail=detail,
    )
    context.set_trailing_metadata((("srpo-error-bin", message.SerializeToString()),))
    context.abort(_CODES[e.kind], _truncate(e.message, 500) or e.kind)


def unary(
    calls: Calls, request_class: Any, name: Callable[[Any], str], work: Callable[[Any, Call], Message]
) -> Handler:
    """Returns a handler that replies with work(request, call). Health shows the call as name(request)."""

    def handle(request: Any, context: grpc.ServicerContext) -> Message:
        call = calls.enter(name(request))
        try:
            _watch(call, context)
            return work(request, call)
        except BaseException as e:
            _fail(context, e)
        finally:
            calls.leave(call)

    return grpc.unary_unary_rpc_method_handler(handle, request_class.FromString, _serialize)


def streaming(
    calls: Calls,
    request_class: Any,
    name: Callable[[Any], str],
    work: Callable[[Any, Call], Iterator[Message]],
    client_streams: bool = False,
) -> Handler:
    """Returns a handler that replies with what work(request, call) yields. With client_streams the request is an
    iterator of messages.
    """

    def handle(request: Any, context: grpc.ServicerContext) -> Iterator[Message]:
        call = calls.enter(name(request))
        try:
            _watch(call, context)
            yield from work(request, call)
        except GeneratorExit:
            call.cancelled = True
            raise
        except BaseException as e:
            _fail(context, e)
        finally:
            calls.leave(call)

    if client_streams:
        return grpc.stream_stream_rpc_method_handler(handle, request_class.FromString, _serialize)
    return grpc.unary_stream_rpc_method_handler(handle, request_class.FromString, _serialize)


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()


def _watch(call: Call, context: grpc.ServicerContext) -> None:
    def ended() -> None:
        call.cancelled = True

    if not context.add_callback(ended):
        call.cancelled = True


class Service:
    """The part of the server that depends on the plugin's kind. Subclasses add the kind, its handlers and what
    Configure does.
    """

    kind: pb.Kind
    name: str  # full name of the kind's gRPC service
    cls: Any  # the author's class; set in Configure, before configure() is called

    def __init__(self, load_class: Callable[[], type], info: Info, max_lanes: int = 0):
        self._load_class = load_class
        self.info = info
        self.max_lanes = max_lanes  # of an env, 1 or more; 0 for policies and encoders
        self.calls = Calls()
        self.author = Thread()  # runs the author's code on the process's main thread, see serve
        self.arena: Arena | None = None
        self.settings: dict[str, Any] = {}
        self._configured = False
        self._configuring = threading.Lock()

    def configure(self, request: pb.ConfigureRequest) -> None:
        """Does the kind's part of Configure. It runs on the author's thread, after `cls` and `settings` are set."""
        raise NotImplementedError

    def handlers(self) -> dict[str, Handler]:
        """Returns the handlers of the kind's gRPC service by method name."""
        raise NotImplementedError

    def close(self) -> None:
        """Closes the author's objects. It runs on the author's thread."""

    def require_configured(self) -> None:
        if not self._configured:
            raise Error("invalid", "called before Configure")

    def unary(
        self,
        request_class: Any,
        name: str,
        work: Callable[[Any, Call], Message],
        label: Callable[[Any], str] | None = None,
    ) -> Handler:
        """Returns a unary handler that fails before Configure. Health shows label(request), or else the name."""

        def checked(request: Any, call: Call) -> Message:
            self.require_configured()
            return work(request, call)

        return unary(self.calls, request_class, label or (lambda _: name), checked)

    def plugin_handlers(self) -> dict[str, Handler]:
        """Returns the handlers of the Plugin service, which is the same for every kind."""
        handlers = {
            "Info": unary(self.calls, pb.InfoRequest, lambda _: "Info", self._info),
            "Configure": unary(self.calls, pb.ConfigureRequest, lambda _: "Configure", self._configure),
        }
        # Not one of the calls that it reports: a health check must not make the plugin look busy.
        handlers["Health"] = grpc.unary_unary_rpc_method_handler(self._health, pb.HealthRequest.FromString, _serialize)
        return handlers

    def _info(self, request: pb.InfoRequest, call: Call) -> pb.InfoReply:
        settings = []
        for s in self.info.settings:
            m = pb.Setting(name=s.name, default=to_value(s.default), doc=s.doc, choices=s.choices)
            if s.min is not None:
                m.min = s.min
            if s.max is not None:
                m.max = s.max
            settings.append(m)
        return pb.InfoReply(
            name=self.info.name,
            kind=self.kind,
            version=self.info.version,
            protocol=PROTOCOL,
            settings=settings,
            doc=self.info.doc,
            max_lanes=self.max_lanes,
            versions=self.info.library_versions(),
            distributed=self.info.distributed,
        )

    def _configure(self, request: pb.ConfigureRequest, call: Call) -> pb.ConfigureReply:
        with self._configuring:
            if self._configured:
                raise Error(
                    "invalid",
                    "Configure was called a second time",
                    hint="start a new process of the plugin for other settings",
                )
            self.settings = self.info.resolve({name: from_value(v) for name, v in request.settings.items()})
            if request.HasField("arena") and self.arena is None:
                self.arena = Arena(request.arena.fd, request.arena.size)

            def work() -> None:
                self.cls = self._load_class()
                self.configure(request)

            self.author.run(call, work)
            self._configured = True
        return pb.ConfigureReply()

    def _health(self, request: pb.HealthRequest, context: grpc.ServicerContext) -> pb.HealthReply:
        busy, since = self.calls.busy()
        return pb.HealthReply(ready=self._configured, busy=busy, since_progress_ms=since)


def _certificate() -> tuple[bytes, bytes, bytes]:
    """Makes a self-signed certificate for "localhost", like go-plugin's but on P-256, a curve that grpcio accepts.

    Returns:
        (private key PEM, certificate PEM, certificate DER)
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, "localhost"), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "srpo")]
    )
    now = datetime.datetime.now(datetime.timezone.utc)
    usage = x509.KeyUsage(
        digital_signature=True,
        key_encipherment=True,
        key_agreement=True,
        key_cert_sign=True,
        content_commitment=False,
        data_encipherment=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    cert = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=3650))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private, cert.public_bytes(serialization.Encoding.PEM), cert.public_bytes(serialization.Encoding.DER)


def _socket_path() -> str:
    folder = os.environ.get("PLUGIN_UNIX_SOCKET_DIR") or tempfile.mkdtemp(prefix="srpo-plugin-")
    path = os.path.join(os.path.abspath(folder), f"plugin-{os.getpid()}")
    if len(path.encode()) > 100:  # sun_path holds 108 bytes
        raise SystemExit(f"srpo plugin: the socket's path is too long ({path}); set TMPDIR to a shorter folder")
    return path


class _Lifecycle:
    """Ends the process when the host asks (Shutdown, SIGTERM), after the author's close() had `CLOSE_SECONDS`."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.closed = threading.Event()

    def finish(self, server: grpc.Server, service: Service, path: str) -> None:
        self.asked.wait()
        deadline = time.monotonic() + CLOSE_SECONDS
        service.author.stop()
        server.stop(0.1).wait(0.3)  # cancels running calls, but lets the reply to Shutdown through
        self.closed.wait(max(0.0, deadline - time.monotonic()))
        try:
            os.unlink(path)
        except OSError:
            pass
        for child in multiprocessing.active_children():
            child.kill()
        if os.getpgid(0) == os.getpid():  # other children are in the same process group
            os.killpg(os.getpid(), signal.SIGTERM)
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError, AttributeError):
                pass
        # Neither atexit handlers nor daemon threads of a simulator may delay the end.
        os._exit(0)


def _restore_sigterm_in_forked_workers() -> None:
    """Makes SIGTERM end a worker that the author forks, as multiprocessing's Pool expects; `serve`'s handler would not.

    SIGTERM is blocked during the fork, because Python drops a signal that arrives in the child before it is ready.
    """
    term = {signal.SIGTERM}

    def in_child() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, term)

    os.register_at_fork(
        before=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, term),
        after_in_parent=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, term),
        after_in_child=in_child,
    )


def serve(service: Service) -> None:
    """Serves until the host asks for the end. It never returns: the calling (main) thread runs the author's code.

    The host sets the variables PLUGIN_CLIENT_CERT (PEM of its certificate, required) and PLUGIN_UNIX_SOCKET_DIR.
    """
    if _process.handshake_fd is None:
        print(
            "This is an srpo plugin; the program `srpo` starts it. To test it: srpo plugin test "
            f"{os.path.dirname(os.path.abspath(sys.argv[0])) or 'PATH'}",
            file=sys.stderr,
        )
        raise SystemExit(1)
    client = os.environ.pop("PLUGIN_CLIENT_CERT", "")
    if not client:
        print("srpo plugin: PLUGIN_CLIENT_CERT is not set; a plugin serves only with mutual TLS", file=sys.stderr)
        raise SystemExit(1)

    life = _Lifecycle()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the host handles Ctrl-C
    signal.signal(signal.SIGTERM, lambda *_: life.asked.set())
    _restore_sigterm_in_forked_workers()

    server = grpc.server(
        futures.ThreadPoolExecutor(max_workers=32 + service.max_lanes, thread_name_prefix="srpo-grpc"),
        options=[
            ("grpc.max_receive_message_length", MAX_MESSAGE),
            ("grpc.max_send_message_length", MAX_MESSAGE),
            ("grpc.so_reuseport", 0),
            # A host may ping an idle connection once a second.
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", 1000),
            ("grpc.http2.max_ping_strikes", 0),
        ],
    )

    def shutdown(request: bytes, context: grpc.ServicerContext) -> bytes:
        context.add_callback(life.asked.set)
        return b""

    def health(request: bytes, context: grpc.ServicerContext) -> bytes:
        if request in (b"", b"\x0a\x06plugin"):
            return b"\x08\x01"  # HealthCheckResponse{status: SERVING}
        context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")

    raw = grpc.unary_unary_rpc_method_handler
    services: dict[str, dict[str, Handler]] = {
        "srpo.v1.Plugin": service.plugin_handlers(),
        service.name: service.handlers(),
        # go-plugin's services. Without Shutdown every stop takes 2 s. GRPCBroker and GRPCStdio may be missing.
        "plugin.GRPCController": {"Shutdown": raw(shutdown)},
        "grpc.health.v1.Health": {"Check": raw(health)},
    }
    for name, handlers in services.items():
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))

    key, cert, der = _certificate()
    credentials = grpc.ssl_server_credentials(
        [(key, cert)], root_certificates=client.encode(), require_client_auth=True
    )
    path = _socket_path()
    previous = os.umask(0o077)
    try:
        server.add_secure_port("unix:" + path, credentials)
    finally:
        os.umask(previous)
    server.start()
    threading.Thread(target=life.finish, args=(server, service, path), name="srpo-end", daemon=True).start()

    offered = os.environ.get("PLUGIN_PROTOCOL_VERSIONS", str(PROTOCOL))
    if str(PROTOCOL) not in offered.split(","):
        # The handshake is sent all the same: the host refuses it with an error that names both versions.
        print(f"srpo plugin: the host supports protocol {offered}, this plugin {PROTOCOL}", file=sys.stderr)
    line = f"1|{PROTOCOL}|unix|{path}|grpc|{base64.b64encode(der).decode().rstrip('=')}\n"
    os.write(_process.handshake_fd, line.encode())

    service.author.loop()
    try:
        service.close()
    except BaseException as e:
        as_error(e, "close")
    life.closed.set()
    threading.Event().wait()  # until finish ends the process
