"""A small host in Python for the tests: starts a plugin as srpo does, calls it, and owns an arena."""

import base64
import datetime
import fcntl
import mmap
import os
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import grpc
import numpy as np
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from srpo_sdk._proto import base_pb2, encoder_pb2, env_pb2, policy_pb2

SDK = Path(__file__).resolve().parents[1]
PLUGINS = Path(__file__).resolve().parent / "plugins"

_MESSAGES = {**vars(base_pb2), **vars(env_pb2), **vars(policy_pb2), **vars(encoder_pb2)}


def client_certificate():
    """Makes a self-signed P-256 client certificate; returns (key PEM, certificate PEM)."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    cert = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private, cert.public_bytes(serialization.Encoding.PEM)


class HostArena:
    """The host's side of an arena: a sealed memfd whose slots the test grants."""

    def __init__(self, size=8 << 20):
        self.fd = os.memfd_create("test-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, size)
        fcntl.fcntl(self.fd, 1033, 2 | 4 | 1)  # F_ADD_SEALS: shrink, grow, seal
        self.memory = mmap.mmap(self.fd, size)
        self.size, self.next, self.generation = size, 0, 0

    def grant(self, length):
        self.generation += 1
        offset = self.next + 64
        struct.pack_into("<QQ", self.memory, offset - 64, self.generation, length)
        self.next = offset + (length + 63) // 64 * 64
        return base_pb2.Slot(offset=offset, length=length, generation=self.generation)

    def release(self, slot):
        struct.pack_into("<Q", self.memory, slot.offset - 64, 0)

    def put(self, array):
        slot = self.grant(array.nbytes)
        self.memory[slot.offset : slot.offset + array.nbytes] = array.tobytes()
        return tensor(array, slot)

    def get(self, t):
        return self.memory[t.slot.offset : t.slot.offset + t.slot.length]


_DTYPES = {np.dtype("u1"): 1, np.dtype("f4"): 2, np.dtype("f8"): 3, np.dtype("i8"): 4}


def tensor(array, slot=None):
    t = base_pb2.Tensor(dtype=_DTYPES[array.dtype], shape=array.shape)
    if slot is None:
        t.inline = array.tobytes()
    else:
        t.slot.CopyFrom(slot)
    return t


def array(t, arena=None):
    dtype = {v: k for k, v in _DTYPES.items()}[t.dtype]
    data = arena.get(t) if t.WhichOneof("data") == "slot" else t.inline
    return np.frombuffer(data, dtype).reshape(tuple(t.shape))


class PluginError(Exception):
    """The error that a failed call returned."""

    def __init__(self, rpc, wire):
        super().__init__(wire.message)
        self.code, self.wire = rpc.code(), wire
        self.kind, self.message = base_pb2.ErrorKind.Name(wire.kind)[11:].lower(), wire.message


class Plugin:
    """A running plugin process, started and called as srpo does."""

    def __init__(
        self,
        script,
        arena=None,
        env=None,
        lifeline=None,
        wait=20.0,
        tls=True,
        arguments=(),
        heartbeat=None,
        python=sys.executable,
    ):
        self.arena = arena
        self.folder = tempfile.mkdtemp(prefix="srpo-test-")
        key, cert = client_certificate()
        self._key, self._cert = key, cert
        read, self.lifeline = lifeline or os.pipe()
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(SDK),
            "PYTHONDONTWRITEBYTECODE": "1",
            "HOME": self.folder,
            "SRPO_PLUGIN": "srpo.v1",
            "SRPO_LIFELINE_FD": "3",
            "PLUGIN_PROTOCOL_VERSIONS": "1",
            "PLUGIN_UNIX_SOCKET_DIR": self.folder,
            "PLUGIN_CLIENT_CERT": cert.decode() if tls else "",
            **(env or {}),
        }

        # An intermediate process moves the descriptors to their numbers, because gRPC in this process does not
        # survive a preexec_fn.
        inherits = [read, *([arena.fd] if arena else []), *([heartbeat] if heartbeat else [])]
        copies = [fcntl.fcntl(fd, fcntl.F_DUPFD, 50) for fd in inherits]
        place = "".join(f"os.dup2({fd}, {3 + i});" for i, fd in enumerate(copies))
        launch = f"import os, sys; {place} os.closerange({3 + len(copies)}, 200); os.execv(sys.argv[1], sys.argv[1:])"
        self.stderr = open(os.path.join(self.folder, "stderr"), "w+b")
        started = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-c", launch, str(python), str(script), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.stderr,
            env=environment,
            pass_fds=copies,
            start_new_session=True,
        )
        for fd in copies:
            os.close(fd)
        if lifeline is None:
            os.close(read)
        self.stdout = b""
        self.handshake = self._line(wait)
        self.start_seconds = time.monotonic() - started
        parts = self.handshake.split("|")
        if len(parts) < 6:
            self.channel = None
            return
        self.address = parts[3]
        der = base64.b64decode(parts[5] + "=" * (-len(parts[5]) % 4))
        self.server_cert = x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM)
        self.channel = self.connect(key, cert)

    def connect(self, key, cert):
        credentials = grpc.ssl_channel_credentials(self.server_cert, key, cert)
        options = [
            ("grpc.ssl_target_name_override", "localhost"),
            ("grpc.max_receive_message_length", 256 << 20),
            ("grpc.max_send_message_length", 256 << 20),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        return grpc.secure_channel("unix:" + self.address, credentials, options)

    def _line(self, wait):
        fd, deadline = self.process.stdout.fileno(), time.monotonic() + wait
        while b"\n" not in self.stdout:
            ready, _, _ = select.select([fd], [], [], max(0, deadline - time.monotonic()))
            data = os.read(fd, 4096) if ready else b""
            if not data:
                break
            self.stdout += data
        return self.stdout.decode().strip()

    def rest_of_stdout(self):
        """Returns the rest of stdout after the handshake. Call it after the process has ended."""
        return self.stdout.split(b"\n", 1)[1] + self.process.stdout.read()

    def errors(self):
        """Returns what the process has written to stderr so far."""
        self.stderr.flush()
        return Path(self.stderr.name).read_text(errors="replace")

    def method(self, name, stream=None):
        """Returns the callable of "Env.Step"; stream is None, "reply" or "both"."""
        assert self.channel is not None, f"no handshake; status {self.process.poll()}, stderr: {self.errors()}"
        service, method = name.split(".")
        request, reply = _TYPES.get(method, (method + "Request", method + "Reply"))
        make = {None: self.channel.unary_unary, "reply": self.channel.unary_stream, "both": self.channel.stream_stream}
        full = f"/srpo.v1.{service if service == 'Plugin' else service + 'Plugin'}/{method}"
        return make[stream](full, _MESSAGES[request].SerializeToString, _MESSAGES[reply].FromString)

    def call(self, name, request=None, timeout=20.0, **fields):
        """Calls a unary method, raising PluginError with the error in the trailer."""
        method = name.split(".")[1]
        if request is None:
            request = _MESSAGES[_TYPES.get(method, (method + "Request",))[0]](**fields)
        try:
            return self.method(name)(request, timeout=timeout)
        except grpc.RpcError as e:
            raise failure(e) from None

    def stream(self, name, request, timeout=20.0, both=False):
        try:
            yield from self.method(name, "both" if both else "reply")(request, timeout=timeout)
        except grpc.RpcError as e:
            raise failure(e) from None

    def configure(self, **fields):
        if self.arena:
            fields["arena"] = base_pb2.Arena(fd=4, size=self.arena.size)
        return self.call("Plugin.Configure", **fields)

    def raw(self, path, data=b"", timeout=5.0):
        return self.channel.unary_unary(path, lambda b: b, lambda b: b)(data, timeout=timeout)

    def group(self):
        return group(self.process.pid)

    def gone_within(self, seconds):
        return gone_within(self.process.pid, seconds, self.process.poll)

    def stop(self):
        if self.channel is not None:
            self.channel.close()
        if self.group():
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        self.stderr.close()
        try:
            os.close(self.lifeline)
        except OSError:
            pass


_TYPES = {
    "DescribeEnv": ("DescribeEnvRequest", "EnvSpec"),
    "DescribePolicy": ("DescribePolicyRequest", "PolicySpec"),
    "DescribeEncoder": ("DescribeEncoderRequest", "EncoderSpec"),
    "Tasks": ("TasksRequest", "Task"),
    "Reset": ("ResetRequest", "StepReply"),
    "Encode": ("EncodeRequest", "EncodeReply"),
    "EncodeWindows": ("EncodeWindowsRequest", "EncodeReply"),
}


def group(pid):
    """Returns the ids of the running processes of a group."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            fields = Path(f"/proc/{entry}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[2]) == pid and fields[0] != "Z":
            found.append(int(entry))
    return found


def gone_within(pid, seconds, reap=lambda: None):
    """Waits until all processes of a group have ended. Returns whether they did in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        reap()
        if not group(pid):
            return True
        time.sleep(0.02)
    return False


def until(condition, seconds=20.0):
    """Waits for a condition and fails if it does not become true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.005)


def failure(e):
    """Returns the PluginError of a failed call, or the gRPC error if the trailer has none."""
    for key, value in e.trailing_metadata() or ():
        if key == "srpo-error-bin":
            return PluginError(e, base_pb2.Error.FromString(value))
    return e
