"""Envs: lanes, chunks, rendering on demand, actions, the arena, errors, cancellation."""

import grpc
import numpy as np
import pytest

import srpo_sdk as srpo
from host import HostArena, PluginError, array, base_pb2, env_pb2, tensor, until
from srpo_sdk._env_service import EnvService

ACTIONS = np.random.default_rng(0).uniform([-1, -1, 0], [1, 1, 1], (8, 3)).astype(np.float32)
RENDER = env_pb2.Render(observe=["front", "wrist"], record="front", record_every=2)


def reset(plugin, task="lab/plain", lane=0, seed=1, **fields):
    return plugin.call("Env.Reset", lane=lane, task=task, seed=seed, **fields)


def step(plugin, actions=ACTIONS[:1], lane=0, timeout=20.0, **fields):
    return plugin.call("Env.Step", timeout=timeout, lane=lane, actions=tensor(np.asarray(actions)), **fields)


def proprio(reply):
    return array(reply.observation.proprio)


def fails(kind, plugin, method, **fields):
    with pytest.raises(PluginError) as e:
        method(plugin, **fields)
    assert e.value.kind == kind, e.value.wire
    return e.value


def test_info(lab):
    info = lab.call("Plugin.Info")
    assert (info.name, info.version, info.protocol, info.max_lanes) == ("lab", "1.2.3", 1, 4)
    assert info.kind == base_pb2.KIND_ENV and info.doc == "An env for tests"
    assert [s.default.WhichOneof("value") for s in info.settings] == [
        "float_value",
        "int_value",
        "string_value",
        "bool_value",
        "list_value",
    ]
    assert info.settings[0].HasField("min") and not info.settings[1].HasField("min")
    assert info.versions["numpy"] == np.__version__ and info.versions["no-such-package"] == "not installed"
    assert set(info.versions) >= {"python", "srpo_sdk"}


def test_describe_and_tasks(lab):
    spec = lab.call("Env.DescribeEnv")
    assert spec.record_camera == "front" and spec.expert and list(spec.action.names) == ["a", "b", "grip"]
    tasks = list(lab.stream("Env.Tasks", env_pb2.TasksRequest()))
    assert tasks[0].id == "lab/plain" and tasks[0].tags["n"] == "5" and tasks[-1].unavailable
    assert len(tasks) == len({t.id for t in tasks}) == 19


def test_settings_are_resolved_and_checked(start):
    plugin = start("lab")
    value = base_pb2.Value
    for settings, message in (
        ({"nombre": value(int_value=1)}, "unknown setting 'nombre'"),
        ({"number": value(float_value=1.5)}, "'number' cannot be 1.5"),
        ({"count": value(float_value=1.5)}, "'count' wants a whole number"),
        ({"flag": value(int_value=1)}, "'flag' wants true or false"),
        ({"word": value(string_value="c")}, "'word' cannot be 'c'"),
        ({"words": value(string_value="c")}, "'words' wants a list of strings"),
        ({"number": value(float_value=float("nan"))}, "'number' wants a number"),
    ):
        with pytest.raises(PluginError, match=message) as e:
            plugin.configure(lanes=1, settings=settings)
        assert e.value.kind == "invalid" and e.value.wire.hint
    with pytest.raises(PluginError, match="before Configure"):
        plugin.call("Env.DescribeEnv")
    with pytest.raises(PluginError, match="before Configure"):
        reset(plugin)
    with pytest.raises(PluginError, match="before Configure"):
        list(plugin.stream("Env.Tasks", env_pb2.TasksRequest()))
    with pytest.raises(PluginError, match="5 lanes"):
        plugin.configure(lanes=5)
    with pytest.raises(PluginError, match="8x9") as e:
        plugin.configure(lanes=1, cameras=[base_pb2.CameraRequest(name="wrist", height=8, width=9)])
    assert e.value.kind == "mismatch"
    with pytest.raises(PluginError, match="no camera 'back'") as e:
        plugin.configure(lanes=1, cameras=[base_pb2.CameraRequest(name="back")])
    assert e.value.kind == "not_found" and "front" in e.value.wire.hint
    settings = {"number": value(int_value=1), "count": value(int_value=7)}
    camera = base_pb2.CameraRequest(name="front", height=20, width=10)
    plugin.configure(lanes=1, settings=settings, cameras=[camera])
    reply = reset(plugin, render=env_pb2.Render(observe=["front"]))
    assert proprio(reply)[4] == 8 and list(reply.observation.images["front"].shape) == [20, 10, 3]
    fails("invalid", plugin, reset, render=env_pb2.Render(observe=["wrist"]))
    with pytest.raises(PluginError, match="second time"):
        plugin.configure(lanes=1)


def test_reset_refuses_unknown_tasks_states_lanes_and_cameras(lab):
    e = fails("not_found", lab, reset, task="lab/plane")
    assert "lab/plain" in e.wire.hint
    e = fails("unsupported", lab, reset, task="lab/gone")
    assert "its file is missing" in e.message
    fails("invalid", lab, reset, start_state=5)
    fails("invalid", lab, reset, lane=4)
    fails("not_found", lab, reset, render=env_pb2.Render(observe=["back"]))
    fails("not_found", lab, reset, render=env_pb2.Render(record="back", record_every=1))


def test_cameras_are_rendered_only_on_request(lab):
    before = proprio(reset(lab))[1]
    assert proprio(step(lab, ACTIONS))[1] == before
    reply = step(lab, ACTIONS[:2], render=env_pb2.Render(observe=["front"]))
    # The observation is rendered before proprio is read: one image for the whole chunk.
    assert proprio(reply)[1] == before + 1 and set(reply.observation.images) == {"front"}
    reply = reset(lab, render=env_pb2.Render(record="front", record_every=0))
    assert not reply.HasField("recorded")


@pytest.mark.parametrize("every", [1, 2, 3, 5])
def test_record_every_counts_from_the_episodes_start(lab, every):
    def render_at(n):
        reset(lab)
        if n:
            step(lab, ACTIONS[:n])
        return array(frame(lab, n))

    def frame(plugin, n):
        if n == 0:
            return reset(plugin, render=env_pb2.Render(observe=["front"])).observation.images["front"]
        reset(plugin)
        return step(plugin, ACTIONS[:n], render=env_pb2.Render(observe=["front"])).observation.images["front"]

    render = env_pb2.Render(record="front", record_every=every)
    reply = reset(lab, render=render)
    frames, done = [array(reply.recorded)], 0
    for chunk in (3, 4, 1):
        reply = step(lab, ACTIONS[done : done + chunk], render=render)
        done += chunk
        if reply.HasField("recorded"):
            frames.append(array(reply.recorded))
    frames = np.concatenate(frames)
    assert len(frames) == 8 // every + 1
    for i, image in enumerate(frames):
        np.testing.assert_array_equal(image, render_at(i * every))


def test_a_recorded_frame_is_reused_as_the_observation(lab):
    before = proprio(reset(lab))[1]
    reply = step(lab, ACTIONS[:2], render=env_pb2.Render(observe=["front"], record="front", record_every=2))
    assert proprio(reply)[1] == before + 1
    np.testing.assert_array_equal(array(reply.observation.images["front"]), array(reply.recorded)[-1])


def test_chunks_equal_single_actions(lab):
    reset(lab, seed=7)
    whole = step(lab, ACTIONS, render=RENDER)
    reset(lab, seed=7)
    single = [step(lab, ACTIONS[i : i + 1], render=RENDER) for i in range(8)]
    np.testing.assert_array_equal(proprio(whole)[[0, 2]], proprio(single[-1])[[0, 2]])
    assert whole.steps_done == 8 and single[-1].steps_done == 1
    assert whole.episode_steps == single[-1].episode_steps == 8
    for camera in ("front", "wrist"):
        np.testing.assert_array_equal(
            array(whole.observation.images[camera]), array(single[-1].observation.images[camera])
        )
    frames = [array(r.recorded) for r in single if r.HasField("recorded")]
    np.testing.assert_array_equal(array(whole.recorded), np.concatenate(frames))


def test_an_episode_depends_on_its_seed_and_not_on_its_lane(lab):
    results = {}
    for lane, seed in ((0, 1), (3, 1), (1, 2)):
        reset(lab, lane=lane, seed=seed)
        results[lane] = proprio(step(lab, ACTIONS, lane=lane))[2]
    assert results[0] == results[3] != results[1]


def test_success_ends_the_chunk_and_is_terminated(lab):
    reset(lab, task="lab/success")
    reply = step(lab, ACTIONS, render=env_pb2.Render(record="front", record_every=1))
    assert (reply.steps_done, reply.success, reply.terminated, reply.truncated) == (3, True, True, False)
    assert reply.recorded.shape[0] == 3
    e = fails("invalid", lab, step)
    assert "has ended" in e.message


def test_terminated_is_not_success(lab):
    reset(lab, task="lab/terminate")
    reply = step(lab, ACTIONS)
    assert (reply.steps_done, reply.success, reply.terminated, reply.truncated) == (3, False, True, False)


def test_max_steps_truncates(lab):
    reset(lab)
    assert not step(lab, ACTIONS).truncated
    reply = step(lab, ACTIONS)
    assert (reply.steps_done, reply.episode_steps, reply.terminated, reply.truncated) == (4, 12, False, True)
    reset(lab, max_steps=3)
    reply = step(lab, ACTIONS, render=env_pb2.Render(record="front", record_every=1))
    assert (reply.steps_done, reply.truncated, reply.recorded.shape[0]) == (3, True, 3)
    reset(lab, task="lab/success", max_steps=3)  # both at once: success
    reply = step(lab, ACTIONS)
    assert (reply.success, reply.terminated, reply.truncated) == (True, True, False)


def test_progress_is_optional(lab):
    reset(lab)
    assert not step(lab).HasField("progress")
    reset(lab, task="lab/progress")
    assert step(lab, ACTIONS[:6]).progress == pytest.approx(0.5)


BAD = {
    "dimension too many": (np.zeros((1, 4), np.float32), "float32 [1, 4]"),
    "one action without a chunk": (np.zeros(3, np.float32), "float32 [3]"),
    "empty": (np.zeros((0, 3), np.float32), "float32 [0, 3]"),
    "float64": (np.zeros((1, 3)), "float64"),
    "NaN": (np.array([[0, 0, 0], [0, np.nan, 0]], np.float32), "action 1 of the chunk: b (dimension 1) is nan"),
    "infinite": (np.array([[-np.inf, 0, 0]], np.float32), "a (dimension 0) is -inf"),
    "too low": (np.array([[0, 0, -0.01]], np.float32), "grip (dimension 2) is -0.01, outside of [0, 1]"),
    "too high": (np.array([[1.00001, 0, 0]], np.float32), "a (dimension 0) is 1.00001"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_actions_are_refused_and_the_episode_continues(lab, what):
    actions, message = BAD[what]
    reset(lab)
    e = fails("invalid", lab, step, actions=actions)
    assert message in e.message and e.code == grpc.StatusCode.INVALID_ARGUMENT
    assert e.wire.place == "lab/plain step 0"
    assert step(lab).episode_steps == 1


def test_a_step_without_actions_or_expert_is_refused(lab):
    reset(lab)
    with pytest.raises(PluginError, match="neither"):
        lab.call("Env.Step", lane=0)


def test_clip_returns_float32_within_bounds():
    space = srpo.ActionSpace(["a", "b"], [-1, 0], [1, 1])
    space.check()
    clipped = space.clip(np.array([[1 + 5e-7, -5e-7], [0.5, 0.5]], np.float32))
    assert clipped.dtype == np.float32 and clipped.tolist() == [[1, 0], [0.5, 0.5]]
    with pytest.raises(srpo.Error, match=r"action 0 of the chunk: b \(dimension 1\) is 2"):
        space.clip(np.array([[0, 2]], np.float32))


def test_rounding_beyond_a_bound_is_clipped(lab):
    reset(lab, seed=3)
    over = step(lab, np.array([[1 + 5e-7, 0, 0]], np.float32))
    reset(lab, seed=3)
    assert proprio(step(lab, np.array([[1, 0, 0]], np.float32)))[2] == proprio(over)[2]


def test_malformed_tensors_are_refused(lab):
    reset(lab)
    good = tensor(ACTIONS[:1])
    for change in ({"shape": [1, 4]}, {"shape": [-1, 3]}, {"shape": [1 << 31, 3]}, {"dtype": 0}, {"dtype": 9}):
        bad = base_pb2.Tensor(dtype=change.get("dtype", good.dtype), shape=change.get("shape", good.shape))
        bad.inline = good.inline
        with pytest.raises(PluginError) as e:
            lab.call("Env.Step", lane=0, actions=bad)
        assert e.value.kind == "corrupt"
    assert step(lab).episode_steps == 1


# The expert.


def expert(plugin, steps, noise=0.0, **fields):
    return plugin.call("Env.Step", lane=0, expert=env_pb2.Expert(steps=steps, noise=noise), **fields)


def test_expert_acts_within_bounds_until_it_has_no_action(lab):
    reset(lab)
    reply = expert(lab, 3)
    np.testing.assert_array_equal(array(reply.actions), np.tile(np.float32([0.25, 1, 0.5]), (3, 1)))
    reply = expert(lab, 9)
    assert (reply.steps_done, reply.terminated, reply.truncated) == (2, False, False)
    assert list(reply.actions.shape) == [2, 3]
    for steps in (1, 9):  # not an error: the demonstration has failed
        reply = expert(lab, steps)
        assert (reply.steps_done, reply.episode_steps, reply.terminated, reply.truncated) == (0, 5, False, False)
        assert not reply.HasField("actions")
    assert step(lab).episode_steps == 6  # the episode continues


def test_expert_noise_follows_seed_and_step(lab):
    def played(seed, chunks):
        reset(lab, seed=seed)
        return np.concatenate([array(expert(lab, n, 0.1).actions) for n in chunks])

    whole = played(5, [4])
    np.testing.assert_array_equal(whole, played(5, [1, 2, 1]))
    assert not np.array_equal(whole, played(6, [4]))
    assert len(np.unique(whole[:, 0])) == 4 and (whole[:, 1] <= 1).all()
    assert 0.01 < np.std(whole[:, 0] - 0.25) < 0.4


def test_expert_returns_its_intended_actions_next_to_the_noisy_ones(lab):
    reset(lab)
    reply = expert(lab, 3, 0.1)
    np.testing.assert_array_equal(array(reply.intended), np.tile(np.float32([0.25, 1, 0.5]), (3, 1)))
    assert not np.array_equal(array(reply.actions), array(reply.intended))
    reset(lab)
    assert not expert(lab, 3).HasField("intended")


def test_expert_actions_can_be_replayed(lab):
    reset(lab, seed=9)
    done = expert(lab, 4, 0.2)
    reset(lab, seed=9)
    assert proprio(step(lab, array(done.actions)))[2] == proprio(done)[2]


def test_expert_requests_are_checked(lab):
    reset(lab)
    for steps, noise in ((0, 0.0), (1, -1.0), (1, float("nan"))):
        fails("invalid", lab, expert, steps=steps, noise=noise)


def test_an_env_without_an_expert_reports_unsupported(start):
    plugin = start("parallel")
    plugin.configure(lanes=1)
    assert not plugin.call("Env.DescribeEnv").expert
    plugin.call("Env.Reset", task="parallel/meet")
    fails("unsupported", plugin, expert, steps=1)


# The arena.


def test_arena_and_inline_give_the_same(lab):
    arena = lab.arena
    for seed in (1, 2):
        inline = [reset(lab, seed=seed, render=RENDER), step(lab, ACTIONS, render=RENDER)]
        grant = arena.grant(1 << 20)
        first = reset(lab, seed=seed, render=RENDER, grant=grant)
        shared = [(first, snapshot(first, arena))]
        actions = arena.put(ACTIONS)
        second = lab.call("Env.Step", lane=0, actions=actions, render=RENDER, grant=grant)
        shared.append((second, snapshot(second, arena)))
        for a, (b, tensors) in zip(inline, shared):
            expected = snapshot(a, None)
            assert expected.keys() == tensors.keys()
            for name in expected:
                if name == "proprio":  # counts renders too
                    np.testing.assert_array_equal(expected[name][[0, 2]], tensors[name][[0, 2]])
                else:
                    np.testing.assert_array_equal(expected[name], tensors[name], err_msg=name)
            slots = [t.slot for t in tensors_of(b).values()]
            assert all(s.generation == grant.generation and s.offset % 64 == 0 for s in slots)
            spans = sorted((s.offset, s.offset + s.length) for s in slots)
            assert spans[0][0] == grant.offset and spans[-1][1] <= grant.offset + grant.length
            assert all(a[1] <= b[0] for a, b in zip(spans, spans[1:]))
            assert b.ByteSize() < 600 < a.ByteSize()


def tensors_of(reply):
    found = {"proprio": reply.observation.proprio, **reply.observation.images}
    if reply.HasField("recorded"):
        found["recorded"] = reply.recorded
    return found


def snapshot(reply, arena):
    return {name: array(t, arena).copy() for name, t in tensors_of(reply).items()}


def test_a_tensor_that_does_not_fit_the_grant_is_sent_inline(lab):
    front = 32 * 48 * 3
    grant = lab.arena.grant(front + 100)
    reply = reset(lab, render=env_pb2.Render(observe=["front", "wrist"]), grant=grant)
    kinds = {name: t.WhichOneof("data") for name, t in tensors_of(reply).items()}
    assert kinds == {"front": "slot", "wrist": "inline", "proprio": "slot"}
    assert list(array(reply.observation.images["wrist"]).shape) == [8, 8, 3]


def test_a_tensor_of_exactly_the_grants_size_fits(lab):
    grant = lab.arena.grant(32 * 48 * 3)
    reply = reset(lab, render=env_pb2.Render(record="front", record_every=1), grant=grant)
    assert reply.recorded.WhichOneof("data") == "slot"
    # Nothing was written past the slot's end.
    assert not any(lab.arena.memory[grant.offset + grant.length : grant.offset + grant.length + 512])


def test_stale_and_invalid_references_are_refused(lab):
    arena = lab.arena
    reset(lab)
    good = arena.put(ACTIONS[:2])

    def slot(**change):
        t = base_pb2.Tensor()
        t.CopyFrom(good)
        for field, value in change.items():
            setattr(t.slot, field, value)
        return t

    size, s = arena.size, good.slot
    for change in (
        {"generation": s.generation + 1},
        {"generation": 0},
        {"offset": 0},
        {"offset": size},
        {"offset": s.offset + 4},
        {"offset": 2**63},
        {"length": size},
        {"length": s.length + 64},
        {"length": s.length - 4},
        {"length": 2**64 - 1},
    ):
        with pytest.raises(PluginError) as e:
            lab.call("Env.Step", lane=0, actions=slot(**change))
        assert e.value.kind == "corrupt", change
    grant = arena.grant(1 << 16)
    arena.release(grant)
    fails("corrupt", lab, step, grant=grant)
    assert lab.call("Env.Step", lane=0, actions=good).episode_steps == 2


def test_a_slot_without_an_arena_is_refused(start):
    plugin = start("lab")
    plugin.configure(lanes=1)
    reset(plugin)
    t = base_pb2.Tensor(dtype=2, shape=[1, 3], slot=base_pb2.Slot(offset=64, length=12, generation=1))
    with pytest.raises(PluginError, match="named none") as e:
        plugin.call("Env.Step", lane=0, actions=t)
    assert e.value.kind == "corrupt"


def test_a_call_whose_grant_was_taken_back_stops_writing(lab):
    arena = lab.arena
    reset(lab, task="lab/slow", lane=1)
    grant = arena.grant(1 << 20)
    render = env_pb2.Render(record="front", record_every=1)
    request = env_pb2.StepRequest(lane=1, actions=tensor(ACTIONS), render=render, grant=grant)
    running = lab.method("Env.Step").future(request, timeout=20)
    until(lambda: any(arena.memory[grant.offset : grant.offset + 64]))
    arena.release(grant)
    written = bytes(arena.memory[grant.offset : grant.offset + grant.length])
    assert running.code() == grpc.StatusCode.DATA_LOSS
    later = bytes(arena.memory[grant.offset : grant.offset + grant.length])
    frame = 32 * 48 * 3
    # At most the frame that was being written when the grant was released.
    assert sum(later[i : i + frame] != written[i : i + frame] for i in range(0, 8 * frame, frame)) <= 1


# Errors.


@pytest.mark.parametrize(
    ("task", "kind", "message"),
    [
        ("raise", "internal", "RuntimeError: the arm fell off"),
        ("exit", "internal", "SystemExit: 3"),
        ("bad_step", "internal", "step() must return srpo.Step, got NoneType"),
        ("memory", "exhausted", "MemoryError"),
        ("swallow", "internal", "KeyError: 'second'"),
    ],
)
def test_an_exception_in_step_is_reported_and_costs_only_the_episode(lab, task, kind, message):
    reset(lab, task=f"lab/{task}")
    e = fails(kind, lab, step, actions=ACTIONS)
    assert message in e.message
    assert e.wire.place == f"lab/{task} step {2 if task == 'raise' else 0}"
    assert "lab.py" in e.wire.detail or task == "bad_step"
    assert "call Reset" in fails("invalid", lab, step).wire.hint
    reset(lab)
    assert step(lab).episode_steps == 1


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("bad_image", "render('front') gave uint8 [33, 48, 3], want uint8 [32, 48, 3]"),
        ("grey_image", "gave uint8 [32, 48]"),
        ("float_image", "gave float64 [32, 48, 3]"),
        ("nan_proprio", "proprio 'renders' is nan"),
        ("short_proprio", "gave shape [3], describe() names 5 entries"),
    ],
)
def test_a_malformed_observation_is_reported(lab, task, message):
    e = fails("internal", lab, reset, task=f"lab/{task}", render=env_pb2.Render(observe=["front"]))
    assert message in e.message and e.wire.hint + "." and e.wire.place == f"lab/{task} start state 0"
    assert "its last Reset failed" in fails("invalid", lab, step).message


@pytest.mark.parametrize("value", [2**40, 0, -1, 5.0, True, "5", None])
@pytest.mark.parametrize("field", ["start_states", "max_steps"])
def test_a_task_with_an_impossible_number_is_reported_with_its_field(field, value):
    class Odd(srpo.Env):
        @classmethod
        def tasks(cls, settings):
            yield srpo.Task("odd/task", "odd", "do", **{"start_states": 5, "max_steps": 12, field: value})

    service = object.__new__(EnvService)
    service.cls, service.settings = Odd, {}
    with pytest.raises(srpo.Error) as e:
        list(service._checked_tasks())
    assert f"task 'odd/task': {field} is {value!r}" in str(e.value)
    assert e.value.place == "tasks()" and "1 to 2147483647" in e.value.hint


def test_errors_keep_kind_message_place_and_hint(lab):
    reset(lab, task="lab/error")
    e = fails("exhausted", lab, step)
    assert (e.message, e.wire.hint) == ("no more arms", "buy one")
    assert e.wire.place == "lab/error step 0, the cupboard"
    assert e.code == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_whole_tracebacks_go_to_stderr(lab):
    reset(lab, task="lab/raise")
    fails("internal", lab, step, actions=ACTIONS)
    assert 'raise RuntimeError("the arm fell off")' in lab.errors()


# Cancellation, health, threads.


def test_a_cancelled_call_stops_between_steps(lab):
    reset(lab, task="lab/slow", lane=2, max_steps=100_000)
    request = env_pb2.StepRequest(lane=2, actions=tensor(np.tile(ACTIONS, (1000, 1))))
    running = lab.method("Env.Step").future(request, timeout=60)
    until(lambda: "Step lane 2" in lab.call("Plugin.Health").busy)
    health = lab.call("Plugin.Health")
    assert health.ready and 0 < health.since_progress_ms < 5000
    running.cancel()
    # The lane and the others are free long before 8000 steps of 50 ms would end.
    e = fails("invalid", lab, step, lane=2)
    assert "middle of a chunk" in e.message and "cancelled" in e.message
    reset(lab, lane=2)
    assert step(lab, lane=2).episode_steps == 1
    idle = lab.call("Plugin.Health")
    assert list(idle.busy) == [] and idle.since_progress_ms == 0


def test_a_deadline_stops_a_call(lab):
    reset(lab, task="lab/slow", max_steps=100_000)
    with pytest.raises(grpc.RpcError) as e:
        lab.method("Env.Step")(env_pb2.StepRequest(actions=tensor(np.tile(ACTIONS, (1000, 1)))), timeout=0.3)
    assert e.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert "middle of a chunk" in fails("invalid", lab, step).message


def test_a_lane_stays_on_its_thread(lab):
    """An OpenGL context belongs to the thread that made it."""
    for _ in range(3):
        futures = []
        for lane in range(4):
            futures.append(lab.method("Env.Reset").future(env_pb2.ResetRequest(lane=lane, task="lab/plain", seed=1)))
        assert all(proprio(f.result(timeout=20))[3] == 1 for f in futures)


def test_lanes_with_threads_run_at_the_same_time(start):
    plugin = start("parallel")
    plugin.configure(lanes=2)
    for lane in range(2):
        plugin.call("Env.Reset", lane=lane, task="parallel/meet")
    action = tensor(np.zeros((1, 1), np.float32))
    calls = [plugin.method("Env.Step").future(env_pb2.StepRequest(lane=i, actions=action)) for i in range(2)]
    assert all(c.result(timeout=20).success for c in calls)


def test_a_process_without_an_arena_gives_the_same_frames(start, lab):
    plugin = start("lab", arena=HostArena(1 << 20))
    plugin.call("Plugin.Configure", lanes=1)  # it inherits the descriptor, but Configure names no arena
    reset(plugin, seed=4)
    reset(lab, seed=4)
    a, b = step(plugin, ACTIONS, render=RENDER), step(lab, ACTIONS, render=RENDER)
    np.testing.assert_array_equal(array(a.recorded), array(b.recorded))
