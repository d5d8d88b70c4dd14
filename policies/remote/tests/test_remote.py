"""The client against servers of the protocol: what it sends, accepts and refuses."""

import http
import pickle
import socket

import msgpack
import numpy as np
import pytest
import servers
import srpo_sdk as srpo

import connection
import wire
from remote_policy import Remote, _resize_with_pad

SPACE = srpo.ActionSpace(names=list("abcdefg"), low=[-1.0] * 7, high=[1.0] * 7, meaning="test", rate_hz=20.0)
CAMERAS = [srpo.Camera("agentview", height=32, width=48), srpo.Camera("wrist", height=32, width=32)]
ENV = srpo.EnvSpec(cameras=CAMERAS, action=SPACE, proprio=["x", "y"], record_camera="agentview")


def policy(port: int, **settings) -> Remote:
    given = {"host": "127.0.0.1", "port": port, "start_s": 0.0, "reply_s": 20.0} | settings
    return Remote(srpo.PolicyConfig(settings=Remote.info.resolve(given), env=ENV))


def items(count: int = 1) -> list:
    draw = np.random.RandomState(1)
    images = {c.name: draw.randint(0, 255, (c.height, c.width, 3)).astype(np.uint8) for c in CAMERAS}
    seen = srpo.Observation(images=images, proprio=np.array([0.5, -0.25], np.float32), instruction="pick it up")
    return [srpo.ActItem(f"t{i}", 0, seen, seed=2**63 + i) for i in range(count)]


def act(remote: Remote, count: int = 1) -> list:
    return remote.act(items(count), srpo.Sampling(greedy=True))


def chunk(observation, length: int = 8) -> dict:
    """Actions that depend on the image and the state."""
    start = float(np.mean(observation["observation/image"])) / 255 + float(observation["observation/state"][0])
    return {"actions": (start + np.arange(length * 7).reshape(length, 7)).astype(np.float64) / 100}


def test_observations_are_sent_and_actions_are_returned():
    received = []
    with servers.serve(lambda o: received.append(o) or chunk(o)) as port:
        remote = policy(port, label="pi0 at 30000")
        assert remote._server.metadata == servers.METADATA
        spec = remote.describe()
        assert (spec.chunk, spec.trainable, spec.proprio) == (5, False, True)
        assert spec.cameras == [("agentview", 0, 0), ("wrist", 0, 0)]
        results = act(remote, 2)
        remote.close()
    assert len(received) == 2 and set(received[0]) == {
        "observation/image",
        "observation/wrist_image",
        "observation/state",
        "prompt",
    }
    assert received[0]["prompt"] == "pick it up"
    image = received[0]["observation/image"]
    assert image.shape == (224, 224, 3) and image.dtype == np.uint8
    assert received[0]["observation/state"].dtype == np.float32
    for result in results:
        assert result.actions.dtype == np.float32 and result.actions.shape == (5, 7) and result.log_probs is None
        assert np.array_equal(result.actions, np.clip(chunk(received[0])["actions"][:5], -1, 1).astype(np.float32))


def test_with_the_server_and_client_of_openpi():
    """Both directions with the code of the packages openpi-server and openpi-client, where they are installed."""
    image_tools = pytest.importorskip("openpi_client.image_tools", reason="tests/requirements.txt is not installed")
    packing = pytest.importorskip("openpi_client.msgpack_numpy")
    pytest.importorskip("openpi_server")
    received = []

    class Policy:
        def infer(self, observation):
            if observation["prompt"] == "fail":
                raise KeyError("state")
            received.append(observation)
            return chunk(observation)

    with servers.openpi_server(Policy()) as port:
        remote = policy(port, start_s=20.0)
        assert remote._server.metadata == servers.METADATA
        result = act(remote)[0]
        seen = items()[0].observation
        for camera, key in (("agentview", "observation/image"), ("wrist", "observation/wrist_image")):
            assert np.array_equal(received[0][key], image_tools.resize_with_pad(seen.images[camera], 224, 224))
        assert np.array_equal(result.actions, np.clip(chunk(received[0])["actions"][:5], -1, 1).astype(np.float32))
        failing = srpo.ActItem("t", 0, srpo.Observation(seen.images, seen.proprio, "fail"), 0)
        with pytest.raises(srpo.Error) as failed:
            remote.act([failing], srpo.Sampling())
        assert "KeyError: 'state'" in str(failed.value) and "Traceback" in failed.value.detail
        assert np.array_equal(act(remote)[0].actions, result.actions), "the next call succeeds again"
        remote.close()
    message = {
        "a": np.arange(6, dtype=np.int16).reshape(2, 3),
        "b": np.float32(1.5),
        "c": "words",
        "d": [True, None, {"e": 2}],
    }
    for data in (packing.packb(message), wire.pack(message)):
        for unpack in (packing.unpackb, wire.unpack):
            back = unpack(data)
            assert np.array_equal(back["a"], message["a"]) and back["a"].dtype == np.int16
            assert back["b"] == np.float32(1.5) and back["c"] == "words" and back["d"] == message["d"]
    assert packing.packb(message) == wire.pack(message)


@pytest.mark.parametrize("size", [0, 16, 32, 224])
def test_images_keep_their_aspect_ratio(size):
    image = np.full((32, 48, 3), 200, np.uint8)
    scaled = _resize_with_pad(image, size)
    if size == 0:
        assert scaled.shape == image.shape
        return
    assert scaled.shape == (size, size, 3)
    assert (scaled[0] == 0).all() and (scaled[-1] == 0).all(), "black bars above and below"
    assert (scaled[size // 2] == 200).all()


def hostile(dtype: str, data: bytes = b"", shape=(1,)) -> bytes:
    return msgpack.packb({"actions": {b"__ndarray__": True, b"data": data, b"dtype": dtype, b"shape": shape}})


@pytest.mark.parametrize(
    "answer, message",
    [
        (hostile("|O", pickle.dumps([1])), "'|O'; only numbers"),
        (hostile("|V8", bytes(8)), "'|V8'; only numbers"),
        (hostile("<c8", bytes(8)), "'<c8'; only numbers"),
        (hostile("<U2", bytes(8)), "'<U2'; only numbers"),
        (hostile("<f4", bytes(7)), "[1] of float32 in 7 bytes"),
        (hostile("<f4", bytes(4), (2**40, 2**40)), "in 4 bytes"),
        (hostile("<f4", bytes(4), (-1,)), "of shape [-1]"),
        (hostile("nonsense", bytes(4)), "dtype 'nonsense'"),
        (msgpack.packb({"actions": {b"__npgeneric__": True, b"data": 300, b"dtype": "|i1"}}), "not msgpack"),
        (b"\xc1", "not msgpack"),
        (wire.pack([1, 2]), "its answer is list"),
    ],
)
def test_messages_with_anything_but_numbers_are_refused(answer, message):
    with servers.serve(chunk, answer=answer) as port:
        remote = policy(port)
        with pytest.raises(srpo.Error) as refused:
            act(remote)
        remote.close()
    assert refused.value.kind == "corrupt" and message in str(refused.value) and refused.value.hint
    assert f"127.0.0.1:{port}" in refused.value.place


def test_only_numbers_are_sent():
    for value in (np.array([object()]), np.zeros(1, "V4"), np.zeros(1, np.complex64), object()):
        with pytest.raises(wire.Refused, match="cannot be sent"):
            wire.pack({"x": value})


@pytest.mark.parametrize(
    "answer, message, kind",
    [
        ({"action": np.zeros((8, 7))}, "has no 'actions', only action", "mismatch"),
        ({"actions": np.zeros((8, 6))}, "float64 [8, 6], not numbers [chunk, 7]", "mismatch"),
        ({"actions": np.zeros(7)}, "[7], not numbers", "mismatch"),
        ({"actions": "up"}, "not numbers", "mismatch"),
        ({"actions": np.zeros((4, 7))}, "has 4 actions, fewer than the chunk of 5", "mismatch"),
        ({"actions": np.full((8, 7), np.nan)}, "that are not finite", "diverged"),
    ],
)
def test_answers_that_do_not_fit_are_refused(answer, message, kind):
    with servers.serve(lambda _: answer) as port:
        remote = policy(port)
        with pytest.raises(srpo.Error) as refused:
            act(remote)
        remote.close()
    assert refused.value.kind == kind and message in str(refused.value) and refused.value.hint


def test_clip_to_bounds():
    with servers.serve(lambda _: {"actions": np.full((8, 7), 1.5)}) as port:
        clipped, raw = policy(port), policy(port, clip=False, chunk=8)
        assert (act(clipped)[0].actions == 1).all()
        assert (act(raw)[0].actions == 1.5).all() and act(raw)[0].actions.shape == (8, 7)
        clipped.close(), raw.close()


def test_names_of_keys_and_the_seed():
    received = []
    names = {
        "images": ["img="],
        "state": "",
        "prompt": "task",
        "seed": "noise_seed",
        "actions": "plan",
        "image_size": 0,
    }
    with servers.serve(lambda o: received.append(o) or {"plan": np.zeros((5, 7), np.float32)}) as port:
        remote = policy(port, **names)
        assert remote.describe().cameras == [("agentview", 0, 0)] and not remote.describe().proprio
        act(remote, 2)
        remote.close()
    assert [set(o) for o in received] == [{"img", "task", "noise_seed"}] * 2
    assert [o["noise_seed"] for o in received] == [2**63, 2**63 + 1]
    assert received[0]["img"].shape == (32, 48, 3)
    with pytest.raises(srpo.Error, match="not KEY=CAMERA"):
        policy(1, images=["=agentview"])


def test_a_key_without_a_camera_means_the_recording_camera():
    received, item = [], items()[0]
    seen = item.observation
    turned = srpo.Observation(dict(reversed(seen.images.items())), seen.proprio, seen.instruction)
    with servers.serve(lambda o: received.append(o) or chunk(o | {"observation/image": o["img"]})) as port:
        remote = policy(port, images=["hand=wrist", "img"], image_size=0)
        remote.act([srpo.ActItem("t", 0, turned, 0)], srpo.Sampling(greedy=True))
        remote.close()
    assert np.array_equal(received[0]["img"], seen.images["agentview"])
    assert np.array_equal(received[0]["hand"], seen.images["wrist"])


def test_a_lost_connection_is_opened_again():
    with servers.serve(chunk) as port:
        remote = policy(port)
        first = act(remote)[0].actions
        remote._server._socket.socket.shutdown(socket.SHUT_RDWR)  # as when the network fails
        assert np.array_equal(act(remote)[0].actions, first)
    with pytest.raises(srpo.Error) as gone:
        act(remote)
    assert gone.value.kind == "unavailable" and "no policy server answers" in str(gone.value)
    remote.close()


def test_health_check_at_the_start():
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with pytest.raises(srpo.Error) as refused:
            policy(nobody.getsockname()[1])
    assert refused.value.kind == "unavailable" and "[policy.remote]" in refused.value.hint
    asked = []

    def loading():
        asked.append(1)
        return http.HTTPStatus.OK if len(asked) > 1 else http.HTTPStatus.SERVICE_UNAVAILABLE

    with servers.serve(chunk, health=loading) as port:
        policy(port, start_s=20.0).close()
    assert len(asked) == 2
    with servers.serve(chunk, health=http.HTTPStatus.SERVICE_UNAVAILABLE) as port:
        with pytest.raises(srpo.Error, match="/healthz returns 503"):
            policy(port)
    with servers.serve(chunk, health=http.HTTPStatus.NOT_FOUND) as port:  # one without /healthz
        policy(port).close()
    with servers.serve(chunk, metadata=[1]) as port:
        with pytest.raises(srpo.Error, match="its first message is list"):
            policy(port)


def certificate(folder, name="localhost"):
    """Returns the path of a self-signed certificate, and a server context with it."""
    import datetime
    import ssl

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.timezone.utc)
    who = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    made = x509.CertificateBuilder(who, who, key.public_key(), x509.random_serial_number())
    made = made.not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=1))
    made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    pem, private = folder / "cert.pem", folder / "key.pem"
    pem.write_bytes(made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    private.write_bytes(key.private_bytes(encoding, form, serialization.NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, private)
    return str(pem), context


def test_a_server_behind_tls(tmp_path, monkeypatch):
    pem, tls = certificate(tmp_path)
    with servers.serve(chunk, tls=tls) as port:
        monkeypatch.setenv("SSL_CERT_FILE", pem)
        remote = policy(port, host="wss://localhost")
        assert act(remote)[0].actions.shape == (5, 7)
        remote.close()
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
        with pytest.raises(srpo.Error, match="certificate verify failed"):  # not a trusted certificate
            policy(port, host="wss://localhost")
    with servers.serve(chunk) as port:
        with pytest.raises(srpo.Error, match="no policy server answers"):  # one without TLS
            policy(port, host="wss://localhost")
        policy(port, host="ws://localhost").close()
        policy(1, host=f"ws://localhost:{port}").close()


def test_an_unknown_camera_is_refused():
    with pytest.raises(srpo.Error) as refused:
        policy(1, images=["observation/image=front"])
    assert refused.value.kind == "mismatch" and refused.value.place == "policy.remote.images"
    assert "no camera 'front' for the image 'observation/image'" in str(refused.value)
    assert "this env has agentview, wrist" in refused.value.hint


@pytest.mark.parametrize("path", ["", "/", "/policy", "/team/pi0/"])
def test_a_server_at_a_path(path):
    """A proxy may serve several policies under one name. The health check is below the path as well."""
    requested = []
    with servers.serve(chunk, requested=requested) as port:
        for remote in (policy(port, host=f"ws://127.0.0.1{path}"), policy(1, host=f"ws://127.0.0.1:{port}{path}")):
            assert act(remote)[0].actions.shape == (5, 7)
            assert remote._server.place == f"policy server 127.0.0.1:{port}{path if path != '/' else ''}"
            remote.close()
    assert requested == 2 * [path.rstrip("/") + "/healthz", path or "/"]


def test_addresses():
    for host, parts in {
        "localhost": ("localhost", 8000, ""),
        "::1": ("::1", 8000, ""),
        "ws://[::1]:9000/a": ("::1", 9000, "/a"),
        "wss://robots.example/a/b%20c": ("robots.example", 8000, "/a/b%20c"),
    }.items():
        assert connection._address(host, 8000) == parts


@pytest.mark.parametrize(
    "host",
    ["", "http://localhost", "wss://", "localhost/path", "local host", "a:b", "ws:///path", "ws://a:70000/b",
     "ws://a/b c", "ws://a/b?key=1", "ws://a/b#c", "ws://a/\r\nX: y"],
)  # fmt: skip
def test_malformed_addresses_are_refused(host):
    with pytest.raises(srpo.Error) as refused:
        policy(8000, host=host)
    assert refused.value.kind == "invalid" and refused.value.place == "policy.remote.host" and refused.value.hint


def test_a_server_that_does_not_answer():
    import threading

    hold = threading.Event()
    with servers.serve(lambda o: hold.wait(20) and chunk(o)) as port:
        remote = policy(port, reply_s=0.2)
        with pytest.raises(srpo.Error) as late:
            act(remote)
        hold.set()
        assert late.value.kind == "deadline" and "0.2 s" in str(late.value)
        remote.close()


def test_it_cannot_be_trained(tmp_path):
    with servers.serve(chunk) as port:
        remote = policy(port, label="x")
        with pytest.raises(srpo.Error, match="cannot be trained"):
            remote.update(None, None)
        remote.save(str(tmp_path))
        remote.load(str(tmp_path))
        with pytest.raises(srpo.Error) as refused:
            remote.load(str(tmp_path / ".."))
        assert "leave --checkpoint out" in refused.value.hint
        remote.close()


def test_the_key_is_read_from_the_environment(monkeypatch):
    with servers.serve(chunk) as port:
        with pytest.raises(srpo.Error) as missing:
            policy(port, api_key_variable="TEST_KEY")
        assert "env_allow" in missing.value.hint
        monkeypatch.setenv("TEST_KEY", "secret")
        remote = policy(port, api_key_variable="TEST_KEY")
        assert remote._server._socket.request.headers["Authorization"] == "Api-Key secret"
        remote.close()
