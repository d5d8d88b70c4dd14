"""Environments of gymnasium as plugins."""

import gymnasium
import numpy as np
import pytest
from gym_dot import Dot, GymDot
from gymnasium import spaces

import srpo_sdk as srpo
from host import PLUGINS, SDK, array, env_pb2, tensor
from srpo_sdk.gymnasium import GymEnv

EXAMPLES = SDK.parents[1] / "examples" / "gymnasium"
ALL = env_pb2.Render(observe=["render", "wrist/rgb"])


@pytest.fixture
def dot(start):
    plugin = start(PLUGINS / "gym" / "plugin.py", env={"PYTHONPATH": f"{PLUGINS.parent}:{PLUGINS.parents[1]}"})
    plugin.configure(lanes=2)
    return plugin


def reset(plugin, start_state=0, **fields):
    return plugin.call("Env.Reset", task="gym-dot/Dot-v0", start_state=start_state, **fields)


def step(plugin, actions, **fields):
    return plugin.call("Env.Step", actions=tensor(np.array(actions, np.float32)), **fields)


def x(reply):
    return array(reply.observation.proprio)[0]


def test_spec_and_task_come_from_the_environment(dot):
    spec = dot.call("Env.DescribeEnv")
    assert [(c.name, c.height, c.width) for c in spec.cameras] == [("render", 8, 16), ("wrist/rgb", 4, 6)]
    assert list(spec.action.names) == ["action[0]", "action[1]"] and spec.action.rate_hz == 10
    assert list(spec.action.low) == [-0.5, -0.5] and "Box(-0.5, 0.5, (2, 1)" in spec.action.meaning
    assert list(spec.proprio) == ["state[0]", "state[1]"] and not spec.expert
    (task,) = dot.stream("Env.Tasks", env_pb2.TasksRequest())
    assert (task.id, task.suite, task.instruction) == ("gym-dot/Dot-v0", "gym-dot", "move right")
    assert (task.start_states, task.max_steps) == (50, 20)


def test_start_states_depend_only_on_their_number(dot):
    first = x(reset(dot, 3, seed=1))
    assert first == x(reset(dot, 3, seed=2)) == x(reset(dot, 3, lane=1)) != x(reset(dot, 4, seed=1))
    runs = []
    for lane in (0, 1):
        reset(dot, 3, lane=lane)
        runs.append(x(step(dot, [[0.1, 0.1]] * 4, lane=lane)))
    assert runs[0] == runs[1]  # what is random in the steps too


def test_cameras_show_the_present_state(dot):
    reply = reset(dot, render=ALL)
    before = array(reply.observation.images["render"])
    reply = step(dot, [[0.5, 0.5]], render=ALL)
    assert not np.array_equal(array(reply.observation.images["render"]), before)
    assert (array(reply.observation.images["wrist/rgb"]) == 1).all()


def test_success_terminated_and_truncated_are_kept_apart(dot):
    reset(dot)
    reply = step(dot, [[0.5, 0.5]] * 4)
    assert (reply.success, reply.terminated, reply.truncated) == (True, True, False)
    reset(dot)
    reply = step(dot, [[-0.1, -0.1]] * 15)  # the environment truncates below -1.5 and terminates below -2
    assert (reply.success, reply.terminated, reply.truncated) == (False, False, True) and reply.steps_done < 12
    reset(dot)
    reply = step(dot, [[-0.1, -0.1]] * (reply.steps_done - 1) + [[-0.5, -0.5]])
    assert (reply.success, reply.terminated, reply.truncated) == (False, True, False)
    reset(dot)
    reply = step(dot, [[0, 0]] * 20)
    assert (reply.steps_done, reply.terminated, reply.truncated) == (20, False, True)


def subclass(**attributes):
    return type("Other", (GymDot,), {"_unused": [], **attributes})


def lane(cls):
    cls.describe({})
    env = cls(srpo.EnvConfig({}, {}))
    env.reset("task", 0, 0)
    return env


ACTION = np.array([0.5, 0.5], np.float32)


def test_vectors_become_proprio():
    spec = subclass(proprio_keys=None).describe({})
    assert list(spec.proprio) == ["goal[0]", "state[0]", "state[1]"]
    assert subclass(proprio_keys=[]).describe({}).proprio == []
    vector = lane(subclass(make_kwargs={"observe": "vector"}, proprio_keys=None))
    assert [c.name for c in subclass(make_kwargs={"observe": "vector"}, proprio_keys=None).describe({}).cameras] == [
        "render"
    ]
    assert vector.proprio().shape == (2,) and vector.proprio()[1] == 0


class Leaky(Dot):
    episodes = 0

    def reset(self, **options):
        super().reset(**options)
        self.x += self.episodes
        return self.observation(), {}

    def step(self, action):
        self.episodes += 1  # not cleared by reset
        return super().step(action)


gymnasium.register("Leaky-v0", Leaky, max_episode_steps=20)


@pytest.mark.parametrize("remake", [False, True])
def test_an_environment_can_be_made_again_for_each_episode(remake):
    env = lane(subclass(env_id="Leaky-v0", remake_on_reset=remake))
    first = env.proprio()[0]
    env.step(-ACTION / 10)
    env.reset("task", 0, 0)
    assert (env.proprio()[0] == first) == remake


def test_success_can_have_another_name_or_rule():
    env = lane(subclass(make_kwargs={"success_key": "success"}))
    assert [env.step(ACTION).success for _ in range(3)][-1]
    env = lane(subclass(make_kwargs={"success_key": ""}, success=lambda self, reward, terminated, info: reward == -1))
    assert env.step(ACTION).success


def test_an_environment_that_does_not_report_success_is_refused():
    env = lane(subclass(make_kwargs={"success_key": ""}, max_steps=3))
    env.step(-ACTION / 10)
    env.step(-ACTION / 10)
    with pytest.raises(srpo.Error, match="does not report success: info has 'other'") as e:
        env.step(-ACTION / 10)
    assert e.value.kind == "unsupported" and "override success" in e.value.hint


class Variant(Dot):
    def __init__(self, action_space=None, frame=None, **options):
        super().__init__(**options)
        self.action_space, self.frame = action_space or Dot.action_space, frame

    def render(self):
        return self.frame


gymnasium.register("Variant-v0", Variant, max_episode_steps=20)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"action_space": spaces.Discrete(4), "frame": np.zeros((2, 2, 3), np.uint8)}, "is Discrete(4), but"),
        ({"action_space": spaces.Box(-np.inf, 1), "frame": np.zeros((2, 2, 3), np.uint8)}, "has no finite bounds"),
        ({"observe": "vector"}, "has no pixels: render() gave NoneType"),
    ],
)
def test_unusable_spaces_are_refused_with_a_hint(kwargs, message):
    with pytest.raises(srpo.Error) as e:
        subclass(env_id="Variant-v0", make_kwargs=kwargs, proprio_keys=[]).describe({})
    assert message in e.value.message and e.value.kind == "unsupported" and e.value.hint


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"env_id": "Missing-v0"}, "gymnasium cannot make 'Missing-v0'"),
        ({"env_id": "no_such_module:Dot-v0"}, "gymnasium cannot make 'no_such_module:Dot-v0'"),
        ({"proprio_keys": ["pose"]}, "'pose' in proprio_keys is not a vector"),
    ],
)
def test_wrong_attributes_are_reported(attributes, message):
    with pytest.raises(srpo.Error, match=message) as e:
        subclass(**attributes).describe({})
    assert e.value.hint


def test_examples_are_short():
    lines = {p.parent.name: len(p.read_text().splitlines()) for p in EXAMPLES.glob("*/plugin.py")}
    # Meta-World ignores the seed of reset, and has an expert.
    assert set(lines) == {"fetch-push", "fetch-reach", "metaworld-reach", "pusht"}
    assert all(n <= 10 for name, n in lines.items() if name != "metaworld-reach") and lines["metaworld-reach"] <= 15


def test_tasks_need_an_instruction_and_a_step_limit():
    with pytest.raises(srpo.Error, match="registered without a time limit"):
        list(subclass(env_id="gym_dot:Endless-v0").tasks({}))
    (task,) = subclass(env_id="gym_dot:Endless-v0", max_steps=7).tasks({})
    assert task.max_steps == 7
    with pytest.raises(srpo.Error, match="has no instruction"):
        list(type("Bare", (GymEnv,), {"info": GymDot.info, "env_id": "Dot-v0"}).tasks({}))
