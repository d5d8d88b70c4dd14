"""Policies: batches, update ids, streams, durable saves."""

import json
import os

import grpc
import numpy as np
import pytest

from host import PLUGINS, HostArena, PluginError, array, base_pb2, env_pb2, policy_pb2, tensor

SPEC = base_pb2.EnvSpec(
    cameras=[base_pb2.Camera(name="front", height=4, width=6, view="third_person")],
    action=base_pb2.ActionSpace(names=["a", "b", "c"], low=[-1, -1, -1], high=[1, 1, 1], meaning="m", rate_hz=5),
    proprio=["p"],
    record_camera="front",
)


@pytest.fixture(scope="module")
def shared(request):
    from host import Plugin

    plugin = Plugin(PLUGINS / "learner.py", arena=HostArena())
    plugin.configure(env=SPEC, seed=1)
    yield plugin
    plugin.stop()


@pytest.fixture
def learner(start):
    plugin = start("learner", arena=HostArena())
    plugin.configure(env=SPEC, seed=1)
    return plugin


def item(trajectory="t", step=0, grey=51, seed=0, proprio=0.0, instruction="do", arena=None):
    image, state = np.full((4, 6, 3), grey, np.uint8), np.array([proprio], np.float32)
    put = arena.put if arena else tensor
    observation = env_pb2.Observation(images={"front": put(image)}, proprio=put(state), instruction=instruction)
    return policy_pb2.ActItem(trajectory=trajectory, step=step, observation=observation, seed=seed)


def act(plugin, *items, temperature=1.0, **fields):
    reply = plugin.call("Policy.Act", items=items, temperature=temperature, **fields)
    return [float(array(r.actions)[0, 0]) for r in reply.results]


def update(plugin, update_id, trajectories=("t",), advantages=(1.0,), steps=2, **fields):
    request = policy_pb2.UpdateRequest(
        update_id=update_id,
        trajectories=[
            policy_pb2.TrajectoryAdvantage(trajectory=t, advantages=advantages, steps=steps) for t in trajectories
        ],
        hyperparameters=policy_pb2.Hyperparameters(clip_low=0.25),
        **fields,
    )
    return list(plugin.stream("Policy.Update", request))


def test_describe(shared):
    spec = shared.call("Policy.DescribePolicy")
    assert (spec.chunk, spec.trainable, spec.can_imitate, spec.proprio, spec.max_batch) == (2, True, True, True, 2)
    assert spec.cameras[0].name == "" and not spec.action.names and spec.parameters == 1


def test_act_gets_batches_of_at_most_max_batch_items(shared):
    items = [item(grey=g, arena=shared.arena if g % 2 else None) for g in (0, 51, 102, 153, 204)]
    assert act(shared, *items, greedy=True) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
    reply = shared.call("Policy.Act", items=items[:1], greedy=True)
    assert array(reply.results[0].log_probs).tolist() == [-1, -2]
    assert list(reply.results[0].actions.shape) == [2, 3] and reply.results[0].actions.dtype == base_pb2.DTYPE_FLOAT32
    assert act(shared) == []


def test_an_items_sample_depends_only_on_its_seed(shared):
    a = act(shared, item(seed=1), item(seed=2), item(seed=3))
    assert act(shared, item(seed=3), item(seed=1)) == [a[2], a[0]] and len(set(a)) == 3


def test_bad_requests_and_bad_results_are_reported(shared):
    with pytest.raises(PluginError, match="temperature of 0") as e:
        act(shared, item(), temperature=0.0)
    assert e.value.kind == "invalid"
    for instruction, message in (
        ("nan action", "action that is not finite"),
        ("nan log-probability", "log-probability that is not finite"),
        ("one log-probability too few", r"log-probabilities \[1\], want \[2\]"),
    ):
        with pytest.raises(PluginError, match=message) as e:
            act(shared, item(trajectory="3/x/0/1", step=8, instruction=instruction))
        assert e.value.kind == "diverged" and e.value.wire.place == "3/x/0/1 step 8" and e.value.wire.hint
    bad = item()
    bad.observation.images["front"].CopyFrom(tensor(np.zeros((4, 6), np.uint8)))
    with pytest.raises(PluginError, match=r"uint8 \[4, 6\], want uint8 \[H, W, 3\]"):
        act(shared, bad)


def test_recorded_arrays_outlive_their_slot(shared):
    arena = shared.arena
    recorded = item(grey=102, arena=arena)
    slot = recorded.observation.images["front"].slot
    act(shared, recorded, record=True, greedy=True)
    arena.memory[slot.offset : slot.offset + slot.length] = bytes(slot.length)
    arena.release(slot)
    assert act(shared, item(instruction="kept"), greedy=True) == pytest.approx([0.4])


def test_update_streams_progress_and_is_applied_once(learner):
    act(learner, item("t"), item("u"), record=True)
    replies = update(learner, 3, ["t", "u"])
    assert [r.progress for r in replies] == [0.5, 1.0, 1.0]
    assert [r.HasField("statistics") for r in replies] == [False, False, True]
    last = replies[-1].statistics
    assert (last.loss, last.kl, last.samples, dict(last.extra)) == (0.5, 0.5, 2, {"more": 1.0, "start": 0.0})
    assert not replies[-1].already_applied
    again = update(learner, 3, ["t", "u"])
    assert len(again) == 1 and again[0].already_applied and again[0].statistics == last
    assert act(learner, item(grey=0), greedy=True) == [0.5]
    with pytest.raises(PluginError, match="update 2 was sent after update 3"):
        update(learner, 2)


def test_a_failed_update_can_be_sent_again(learner):
    with pytest.raises(PluginError, match="never recorded") as e:
        update(learner, 1)
    assert e.value.kind == "not_found" and e.value.wire.place == "t"
    act(learner, item("t"), record=True)
    assert not update(learner, 1)[-1].already_applied


def test_advantages_are_checked(shared):
    for advantages, steps in (((1.0, 2.0), 3), ((), 2), ((float("nan"),), 2)):
        with pytest.raises(PluginError, match="advantages for") as e:
            update(shared, 100, advantages=advantages, steps=steps)
        assert e.value.kind == "invalid"


def test_a_cancelled_update_ends(shared):
    request = policy_pb2.UpdateRequest(
        update_id=50, trajectories=[policy_pb2.TrajectoryAdvantage(trajectory="endless", advantages=[1], steps=2)]
    )
    stream = shared.method("Policy.Update", "reply")(request, timeout=30)
    assert next(stream).progress == 0.5
    assert any("Update 50" in b for b in shared.call("Plugin.Health").busy)
    stream.cancel()
    assert act(shared, item(grey=0), greedy=True) == [0.0]  # the policy's thread is free again
    assert list(shared.call("Plugin.Health").busy) == []


def test_forget(learner):
    act(learner, item("t"), item("u"), record=True)
    learner.call("Policy.Forget", trajectories=["t"])
    with pytest.raises(PluginError, match="never recorded"):
        update(learner, 1, ["t"])
    assert update(learner, 1, ["u"])[-1].statistics.samples == 1
    learner.call("Policy.Forget")
    with pytest.raises(PluginError, match="never recorded"):
        update(learner, 2, ["u"])


def demonstration(t=3, grey=0, **change):
    fields = {
        "images": {"front": tensor(np.full((t, 4, 6, 3), grey, np.uint8))},
        "actions": tensor(np.ones((t, 3), np.float32)),
        "proprio": tensor(np.zeros((t, 1), np.float32)),
    }
    return policy_pb2.Demonstration(id="d", instruction="do", success=True, **{**fields, **change})


def imitate(plugin, *demos, update_id=1, steps=2):
    def requests():
        yield policy_pb2.ImitateRequest(header=policy_pb2.ImitateHeader(update_id=update_id, seed=1, steps=steps))
        for d in demos:
            yield policy_pb2.ImitateRequest(demonstration=d)

    return list(plugin.stream("Policy.Imitate", requests(), both=True))


def test_imitate_reads_a_stream_and_reports_its_loss(learner):
    replies = imitate(learner, demonstration(3), demonstration(2, grey=100))
    assert [(r.progress, r.loss, r.done) for r in replies] == [(0.5, 1.0, False), (1.0, 0.5, False), (1.0, 0.5, True)]
    assert act(learner, item(grey=0), greedy=True) == [9 + 6 + 100]
    assert [r.done for r in imitate(learner, demonstration(9))] == [True]  # that id was applied before
    assert act(learner, item(grey=0), greedy=True) == [115]


def test_bad_demonstrations_are_refused(shared):
    for demo, message in (
        (demonstration(actions=tensor(np.ones((2, 3), np.float32))), "want uint8"),
        (demonstration(proprio=tensor(np.ones((2, 1), np.float32))), "proprio is"),
        (demonstration(actions=tensor(np.full((3, 3), np.nan, np.float32))), "want finite float32"),
        (demonstration(weights=tensor(np.ones(2, np.float32))), r"weights are float32 \[2\]"),
        (demonstration(weights=tensor(np.array([1, -1, 0], np.float32))), "negative or not finite"),
    ):
        with pytest.raises(PluginError, match=message) as e:
            imitate(shared, demo, update_id=40)
        assert e.value.kind == "invalid"
    with pytest.raises(PluginError, match="begin with a header"):
        requests = iter([policy_pb2.ImitateRequest(demonstration=demonstration())])
        list(shared.stream("Policy.Imitate", requests, both=True))


def test_save_and_load_restore_weights_and_update_ids(learner, tmp_path):
    act(learner, item("t"), record=True)
    first = update(learner, 7)[-1].statistics
    folder = tmp_path / "saved"
    folder.mkdir()
    learner.call("Policy.Save", folder=str(folder))
    assert sorted(os.listdir(folder)) == ["deep", "srpo_sdk.json"]
    update(learner, 8)
    assert learner.call("Policy.Load", folder=str(folder)).update_id == 7
    assert act(learner, item(grey=0), greedy=True) == [0.25]
    again = update(learner, 7)[-1]
    assert again.already_applied and again.statistics == first
    with pytest.raises(PluginError, match="never recorded"):
        update(learner, 8)


def test_begin_run_is_called_after_load_in_a_new_run(learner, start, tmp_path):
    act(learner, item("t"), record=True)
    first = update(learner, 7)[-1].statistics
    learner.call("Policy.Save", folder=str(tmp_path))
    for fresh, start_weight in ((False, 0.0), (True, 0.25)):
        assert learner.call("Policy.Load", folder=str(tmp_path), fresh=fresh).update_id == 7
        assert act(learner, item("t"), greedy=True, record=True) == pytest.approx([0.2 + 0.25])
        again = update(learner, 7)[-1]  # ids are kept
        assert again.already_applied and again.statistics == first
        assert update(learner, 8)[-1].statistics.extra["start"] == start_weight

    # A policy that does not override begin_run.
    before, _, after = (PLUGINS / "learner.py").read_text().partition("    def begin_run")
    (tmp_path / "older.py").write_text(before + after[after.index("\n\n\n") :])
    older = start(tmp_path / "older.py", arena=HostArena())
    older.configure(env=SPEC, seed=1)
    assert older.call("Policy.Load", folder=str(tmp_path), fresh=True).update_id == 7
    assert act(older, item(grey=0), greedy=True) == [0.25]


def test_save_and_load_report_unusable_folders(shared, tmp_path):
    with pytest.raises(PluginError, match="not empty"):
        (tmp_path / "x").write_text("")
        shared.call("Policy.Save", folder=str(tmp_path))
    for method in ("Policy.Save", "Policy.Load"):
        with pytest.raises(PluginError) as e:
            shared.call(method, folder=str(tmp_path / "nowhere"))
        assert e.value.kind == "not_found"
    for text in ("{", json.dumps({"version": 2, "last": None, "applied": []}), json.dumps({"version": 1})):
        (tmp_path / "srpo_sdk.json").write_text(text)
        with pytest.raises(PluginError) as e:
            shared.call("Policy.Load", folder=str(tmp_path))
        assert e.value.kind == "corrupt" and "srpo_sdk.json" in e.value.wire.place


def test_methods_of_another_kind_are_not_served(shared):
    with pytest.raises(grpc.RpcError) as e:
        shared.call("Env.Reset", task="x")
    assert e.value.code() == grpc.StatusCode.UNIMPLEMENTED
