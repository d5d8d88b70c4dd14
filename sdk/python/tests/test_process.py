"""The process: handshake, streams, TLS, heartbeats, the end."""

import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import grpc
import pytest

import srpo_sdk
from host import PLUGINS, SDK, HostArena, PluginError, client_certificate, env_pb2, gone_within, group, tensor, until

import numpy as np  # isort: skip

EXAMPLE = SDK.parents[1] / "examples" / "reach-python" / "plugin.py"


def reset(plugin, task, lane=0, **fields):
    return plugin.call("Env.Reset", lane=lane, task=task, seed=1, **fields)


def step(plugin, n=1, lane=0, timeout=20.0, **fields):
    actions = tensor(np.full((n, 3), 0.5, np.float32))
    return plugin.call("Env.Step", timeout=timeout, lane=lane, actions=actions, **fields)


def stop(plugin):
    plugin.raw("/plugin.GRPCController/Shutdown")
    plugin.process.wait(timeout=2)


def test_stdout_carries_only_the_handshake(start):
    plugin = start("lab")
    assert re.fullmatch(r"1\|1\|unix\|/\S+\|grpc\|[A-Za-z0-9+/]{200,}", plugin.handshake)
    plugin.configure(lanes=1)
    reset(plugin, "lab/plain")
    step(plugin, 2)
    stop(plugin)
    # What a program prints before it imports the kit is still in Python's buffer, so it goes to stderr too.
    assert plugin.rest_of_stdout() == b""
    errors = plugin.errors()
    for text in (
        "before the kit",
        "after the kit",
        "from a child at import",
        "straight to descriptor 1",
        "a question",
        "reset lab/plain",
        "step 1",
        "without a line's end",
        "closed 0",
    ):
        assert text in errors


def test_stop_is_quick_and_clean_even_during_a_call(start):
    plugin = start("lab")
    plugin.configure(lanes=1)
    reset(plugin, "lab/slow", max_steps=10_000)
    running = plugin.method("Env.Step").future(
        env_pb2.StepRequest(actions=tensor(np.zeros((10_000, 3), np.float32))), timeout=60
    )
    until(lambda: "Step lane 0" in plugin.call("Plugin.Health").busy)
    began = time.monotonic()
    plugin.raw("/plugin.GRPCController/Shutdown")
    assert plugin.process.wait(timeout=2) == 0
    assert time.monotonic() - began < 2
    assert running.exception() is not None
    assert "closed 0" in plugin.errors()
    assert not os.path.exists(plugin.address)


def test_sigterm_stops_the_plugin_and_ctrl_c_does_not(start):
    plugin = start("lab")
    os.killpg(plugin.process.pid, signal.SIGINT)
    assert plugin.call("Plugin.Info").name == "lab"
    plugin.process.terminate()
    assert plugin.process.wait(timeout=2) == 0


def test_stop_ends_workers_too(start):
    plugin = start("lab")
    plugin.configure(lanes=1)
    reset(plugin, "lab/worker")
    assert len(plugin.group()) == 2
    stop(plugin)
    assert plugin.gone_within(2)


def test_plugin_and_workers_end_with_the_host(tmp_path):
    """A host that is killed sends nothing: the end of the lifeline must suffice."""
    parent = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("parent.py"))],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(SDK), "TMPDIR": str(tmp_path)},
    )
    try:
        pid = int(parent.stdout.readline())
        assert len(group(pid)) == 2
        parent.kill()
        parent.wait()
        assert gone_within(pid, 2)
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()


def test_heartbeats_continue_in_a_call_and_stop_while_the_interpreter_is_held(start):
    read, heartbeat = os.pipe()
    os.set_blocking(read, False)

    def beats(seconds):
        """Whether a byte arrives within this time."""
        return bool(select.select([read], [], [], seconds)[0]) and len(os.read(read, 1 << 16)) > 0

    def drain():
        while beats(0):
            pass

    plugin = start("lab", heartbeat=heartbeat, env={"SRPO_HEARTBEAT": "4,20"})
    os.close(heartbeat)
    assert beats(20)
    plugin.configure(lanes=2)
    reset(plugin, "lab/slow", max_steps=10_000)
    actions = tensor(np.zeros((10_000, 3), np.float32))
    slow = plugin.method("Env.Step").future(env_pb2.StepRequest(actions=actions), timeout=60)
    until(lambda: "Step lane 0" in plugin.call("Plugin.Health").busy)
    drain()
    assert beats(20) and not slow.done()
    slow.cancel()
    reset(plugin, "lab/hold_gil", lane=1)
    held = plugin.method("Env.Step").future(env_pb2.StepRequest(lane=1, actions=tensor(np.zeros((1, 3), np.float32))))
    until(lambda: not beats(1))
    assert not held.done()
    os.close(read)


def test_plugin_ends_with_the_host_while_the_interpreter_is_held(start):
    plugin = start("lab")
    plugin.configure(lanes=1)
    reset(plugin, "lab/hold_gil")
    running = plugin.method("Env.Step").future(env_pb2.StepRequest(actions=tensor(np.zeros((1, 3), np.float32))))
    until(lambda: "step 0" in plugin.errors())
    time.sleep(0.1)
    assert not running.done()
    os.close(plugin.lifeline)
    assert plugin.gone_within(2)


def test_a_plugin_that_leads_no_group_kills_only_itself(tmp_path):
    """It must not kill the process group of its parent."""
    read, write = os.pipe()
    code = (
        "import os, srpo_sdk, sys, time\nassert os.getpgid(0) != os.getpid()\nos.write(2, b'ready')\ntime.sleep(60)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(SDK), "SRPO_PLUGIN": "srpo.v1", "SRPO_LIFELINE_FD": str(read)}
    child = subprocess.Popen([sys.executable, "-c", code], env=environment, pass_fds=[read], stderr=subprocess.PIPE)
    try:
        os.close(read)
        assert child.stderr.read(5) == b"ready"
        os.close(write)
        assert child.wait(timeout=2) == -signal.SIGKILL
    finally:
        child.kill()
        child.wait()
        child.stderr.close()


@pytest.mark.parametrize("environment", [{}, {"SRPO_PLUGIN": "something else"}])
def test_started_by_hand_it_explains_itself_and_exits(environment):
    done = subprocess.run(
        [sys.executable, str(EXAMPLE)],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(SDK), **environment},
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.returncode == 1
    assert "srpo plugin test" in done.stderr and str(EXAMPLE.parent) in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_client_certificate_it_exits(start):
    plugin = start("lab", tls=False)
    assert plugin.handshake == "" and plugin.process.wait(timeout=5) == 1
    assert "PLUGIN_CLIENT_CERT" in plugin.errors()


def test_only_the_host_that_started_it_can_connect(start):
    plugin = start("lab")
    path = "/grpc.health.v1.Health/Check"
    assert plugin.raw(path, b"\x0a\x06plugin") == b"\x08\x01"
    with pytest.raises(grpc.RpcError) as other:
        plugin.raw(path, b"\x0a\x05other")
    assert other.value.code() == grpc.StatusCode.NOT_FOUND
    for key, cert in (client_certificate(), (None, None)):
        other_client = plugin.connect(key, cert)
        with pytest.raises(grpc.RpcError) as refused:
            other_client.unary_unary(path)(b"", timeout=5)
        assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
        other_client.close()
    insecure = grpc.insecure_channel("unix:" + plugin.address)
    with pytest.raises(grpc.RpcError):
        insecure.unary_unary(path)(b"", timeout=2)
    insecure.close()
    assert plugin.raw(path) == b"\x08\x01"
    assert os.stat(plugin.address).st_mode & 0o077 == 0


def test_optional_services_of_go_plugin_are_unimplemented(start):
    plugin = start("lab")
    for path in ("/plugin.GRPCBroker/StartStream", "/plugin.GRPCStdio/StreamStdio"):
        with pytest.raises(grpc.RpcError) as e:
            plugin.raw(path)
        assert e.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_another_protocol_version_is_reported(start):
    plugin = start("lab", env={"PLUGIN_PROTOCOL_VERSIONS": "2,3"})
    assert plugin.handshake.startswith("1|1|")
    assert "the host supports protocol 2,3, this plugin 1" in plugin.errors()


def test_messages_above_grpcs_default_limit_are_accepted(start):
    """gRPC's default limit is 4 MiB; a clip of 64 frames of 256x256 has 12 MiB."""
    plugin = start("looker")
    plugin.configure()
    clip = np.full((64, 256, 256, 3), 9, np.uint8)
    reply = plugin.call("Encoder.Encode", clips=[tensor(clip)])
    assert np.frombuffer(reply.embeddings.inline, np.float32).tolist() == [9, 9, 9, 64]


def test_a_descriptor_that_is_not_an_arena_is_refused(start):
    arena = HostArena(1 << 16)
    plugin = start("lab", arena=arena)
    arena.size *= 2
    with pytest.raises(Exception, match="the arena has 65536 bytes, want 131072") as e:
        plugin.configure(lanes=1)
    assert e.value.kind == "corrupt"


def test_heartbeat_is_a_deprecated_name_of_report_progress():
    srpo_sdk.report_progress()  # outside of a call: nothing
    with pytest.warns(DeprecationWarning, match="srpo_sdk.report_progress"):
        srpo_sdk.heartbeat()


def test_import_in_another_process_keeps_its_streams():
    code = "import srpo_sdk; print('out')"
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PATH": os.environ["PATH"], "PYTHONPATH": str(SDK)}, capture_output=True
    )
    assert done.stdout == b"out\n"


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_workers_of_an_env_do_not_serve(start, method):
    plugin = start("spawner", arguments=[method])
    plugin.configure(lanes=1)
    reply = plugin.call("Env.Reset", task="spawner/task")
    assert np.frombuffer(reply.observation.proprio.inline, np.float32).tolist() == [9.0]


def test_forked_worker_can_be_terminated(start):
    """multiprocessing.Pool and gymnasium's vector environments end their workers this way."""
    plugin = start("forker")
    plugin.configure(lanes=1)
    reply = plugin.call("Env.Reset", task="forker/task")
    assert np.frombuffer(reply.observation.proprio.inline, np.float32).tolist() == [-15.0]


LATE = PLUGINS / "late" / "plugin.py"


def test_a_class_named_by_module_is_imported_in_configure(start):
    plugin = start(LATE, arguments=["heavy:Late", "policy"])
    info = plugin.call("Plugin.Info")
    assert (info.name, info.kind) == ("late", 2)
    assert "heavy import" not in plugin.errors()
    plugin.configure()
    assert "heavy import True" in plugin.errors()
    assert plugin.call("Policy.DescribePolicy").chunk == 1


def test_every_kind_can_be_named_by_module(start):
    plugin = start(LATE, arguments=["heavy:LateEnv", "env"])
    assert plugin.call("Plugin.Info").max_lanes == 2
    plugin.configure(lanes=2)
    assert plugin.call("Env.Reset", lane=1, task="late/task").episode_steps == 0
    plugin = start(LATE, arguments=["heavy:LateEncoder", "encoder"])
    plugin.configure()
    assert plugin.call("Encoder.DescribeEncoder").dimension == 7


@pytest.mark.parametrize(
    "what, kind, message",
    [
        ("heavy:Late", "invalid", "heavy:Late is not a subclass of srpo_sdk.Encoder"),
        ("heavy:Missing", "invalid", "heavy:Missing is not a subclass of srpo_sdk.Encoder"),
        ("missing:Late", "internal", "ModuleNotFoundError: No module named 'missing'"),
    ],
)
def test_a_module_without_the_class_fails_configure_and_the_process_continues(start, what, kind, message):
    plugin = start(LATE, arguments=[what, "encoder"])
    with pytest.raises(PluginError, match=message) as e:
        plugin.configure()
    assert e.value.kind == kind
    assert plugin.call("Plugin.Info").name == "late"


@pytest.mark.parametrize(
    "arguments, options, error",
    [
        (("policy",), {"info": srpo_sdk.Info("x")}, 'ValueError: serve wants a class or "module:Class"'),
        (("a:B",), {}, "TypeError: serve.*needs info"),
        (("a:B",), {"info": srpo_sdk.Info("x"), "kind": "robot"}, "ValueError: unknown kind 'robot'"),
        ((int,), {}, "TypeError: serve wants a subclass"),
    ],
)
def test_serve_refuses_wrong_arguments(arguments, options, error):
    with pytest.raises((TypeError, ValueError)) as e:
        srpo_sdk.serve(*arguments, **options)
    assert re.search(error, f"{type(e.value).__name__}: {e.value}")


def test_example_plays_an_episode_to_success(start):
    plugin = start(EXAMPLE)
    plugin.configure(lanes=1)
    task = next(iter(plugin.stream("Env.Tasks", env_pb2.TasksRequest())))
    reply = plugin.call("Env.Reset", task=task.id, start_state=7, render=env_pb2.Render(observe=["top"]))
    image = np.frombuffer(reply.observation.images["top"].inline, np.uint8).reshape(64, 64, 3)
    assert {tuple(c) for c in image.reshape(-1, 3).tolist()} == {(255, 255, 255), (255, 0, 0), (0, 0, 255)}
    for _ in range(task.max_steps):
        x, y, tx, ty = np.frombuffer(reply.observation.proprio.inline, np.float32)
        action = np.clip([[tx - x, ty - y]], -0.1, 0.1).astype(np.float32)
        reply = plugin.call("Env.Step", actions=tensor(action))
        if reply.terminated:
            break
    assert reply.success and not reply.truncated


def test_example_has_at_most_25_lines():
    assert len(EXAMPLE.read_text().splitlines()) <= 25


def test_lock_of_the_example_pins_every_package_by_hash():
    text = EXAMPLE.with_name("requirements.txt").read_text()
    pinned = re.findall(r"^([a-z0-9-]+)==", text, re.M)
    assert {"grpcio", "protobuf", "numpy", "cryptography"} <= set(pinned)
    for block in re.split(r"\n(?=[a-z])", text.strip()):
        assert "--hash=sha256:" in block
    assert "index" not in text and "://" not in text


def test_plugins_of_the_tests_are_all_used():
    used = "".join(p.read_text() for p in Path(__file__).parent.glob("*.py"))
    for path in PLUGINS.glob("*.py"):
        assert f'"{path.stem}"' in used or f'"{path.name}"' in used, path
