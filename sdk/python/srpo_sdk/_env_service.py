"""The EnvPlugin service over an author's `Env`: lanes, the chunk loop, rendering on demand."""

import difflib
import functools
import itertools
import math
import threading
from typing import Dict, Iterator, List, Optional, Tuple

import numpy as np

from ._calls import Call, Thread
from ._proto import base_pb2 as pb
from ._proto import env_pb2
from ._server import Service, streaming
from .env import Env, EnvConfig, Step, Task
from .errors import Error, as_error
from .spec import EnvSpec
from .tensors import Reserved, Writer, read

# How far an action may lie outside of its bounds before it is refused rather than clipped: rounding, not intent.
TOLERANCE = 1e-6
# Tasks fetched from the author at once while they are streamed.
_TASK_BATCH = 256
# Most start states, and steps, that a task can have: what an int32 of any host holds.
_MOST = 2**31 - 1


def _whole(value) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


class Episode:
    """What the package keeps of a lane's running episode."""

    def __init__(self, task: Task, seed: int, max_steps: int):
        self.task, self.seed, self.max_steps = task, seed, max_steps
        self.steps = 0
        self.success = self.terminated = self.truncated = False
        self.progress: Optional[float] = None

    @property
    def done(self) -> bool:
        return self.terminated or self.truncated


class Lane:
    """One lane: the author's instance, made when first needed, and its episode."""

    def __init__(self, number: int, thread: Thread):
        self.number, self.thread = number, thread
        self.env: Optional[Env] = None
        self.episode: Optional[Episode] = None
        self.lost = ""  # why there is no episode any more


class EnvService(Service):
    """Serves an `Env` subclass."""

    kind = pb.KIND_ENV
    name = "srpo.v1.EnvPlugin"

    spec: EnvSpec
    _cameras: Dict[str, Tuple[int, int]]

    def configure(self, request: pb.ConfigureRequest) -> None:
        lanes = request.lanes or 1
        if lanes > self.max_lanes:
            raise Error("invalid", f"asked for {lanes} lanes, one process holds {self.max_lanes}")
        self.spec = self.cls.describe(dict(self.settings))
        if not isinstance(self.spec, EnvSpec):
            raise Error("corrupt", f"describe() must return srpo.EnvSpec, got {type(self.spec).__name__}")
        self.spec.check()
        # A host that names no cameras looks at them all, each at its own size.
        wanted = request.cameras or [pb.CameraRequest(name=c.name) for c in self.spec.cameras]
        self._cameras = {self.spec.camera(c.name).name: self.spec.size(c.name, c.height, c.width) for c in wanted}
        self._low = np.asarray(self.spec.action.low, np.float32)
        self._high = np.asarray(self.spec.action.high, np.float32)
        self._seed, self._scratch = request.seed, request.scratch
        self._lanes = [Lane(i, self.author) for i in range(lanes)]
        if self.cls.threads and lanes > 1:
            for lane in self._lanes:
                lane.thread = Thread().start(f"srpo-lane-{lane.number}")
        self._tasks: Optional[Dict[str, Task]] = None
        self._tasks_lock = threading.Lock()

    def handlers(self):
        def tasks(request, call):
            self.require_configured()
            yield from self._stream_tasks(call)

        def lane(verb):
            return lambda request: f"{verb} lane {request.lane}"

        return {
            "DescribeEnv": self.unary(
                env_pb2.DescribeEnvRequest, "DescribeEnv", lambda r, call: self.spec.to_proto(self._has_expert())
            ),
            "Tasks": streaming(self.calls, env_pb2.TasksRequest, lambda _: "Tasks", tasks),
            "Reset": self.unary(env_pb2.ResetRequest, "Reset", self._reset, lane("Reset")),
            "Step": self.unary(env_pb2.StepRequest, "Step", self._step, lane("Step")),
        }

    def close(self) -> None:
        for lane in self._lanes if self._configured else []:
            if lane.env is None:
                continue
            if lane.thread is self.author:
                lane.env.close()
            else:
                lane.thread.run(Call("close"), lane.env.close)

    def _has_expert(self) -> bool:
        return self.cls.expert is not Env.expert if self.spec.expert is None else self.spec.expert

    # Tasks.

    def _checked_tasks(self) -> Iterator[Task]:
        seen = set()
        for task in self.cls.tasks(dict(self.settings)):
            if not isinstance(task, Task):
                raise Error("corrupt", f"tasks() must yield srpo.Task, got {type(task).__name__}")
            if not task.id or task.id in seen:
                raise Error(
                    "corrupt",
                    f"tasks() gave the id {task.id!r} {'twice' if task.id else 'to a task'}",
                    hint="ids are unique and not empty",
                )
            least = 0 if task.unavailable else 1
            for name, value in (("start_states", task.start_states), ("max_steps", task.max_steps)):
                if not (_whole(value) and least <= value <= _MOST):
                    raise Error(
                        "corrupt",
                        f"task {task.id!r}: {name} is {value!r}",
                        place="tasks()",
                        hint=f"a whole number, {least} to {_MOST}",
                    )
            seen.add(task.id)
            yield task

    def _stream_tasks(self, call: Call) -> Iterator[env_pb2.Task]:
        tasks = self._checked_tasks()
        while True:
            batch = self.author.run(call, lambda: list(itertools.islice(tasks, _TASK_BATCH)))
            if not batch:
                return
            for t in batch:
                call.tick()
                yield env_pb2.Task(
                    id=t.id,
                    suite=t.suite,
                    instruction=t.instruction,
                    start_states=t.start_states,
                    max_steps=t.max_steps,
                    tags={k: str(v) for k, v in t.tags.items()},
                    unavailable=t.unavailable,
                )

    def _task(self, name: str) -> Task:
        with self._tasks_lock:
            if self._tasks is None:
                self._tasks = {t.id: t for t in self._checked_tasks()}
        task = self._tasks.get(name)
        if task is None:
            near = difflib.get_close_matches(name, self._tasks, n=1, cutoff=0.3)
            raise Error(
                "not found",
                f"no task {name!r} among {len(self._tasks)}",
                hint=f"did you mean {near[0]!r}?" if near else "",
            )
        if task.unavailable:
            raise Error("unsupported", f"task {name!r} cannot run here: {task.unavailable}")
        return task

    # Episodes.

    def _lane(self, number: int) -> Lane:
        if number >= len(self._lanes):
            raise Error("invalid", f"lane {number} of {len(self._lanes)}")
        return self._lanes[number]

    def _reset(self, request: env_pb2.ResetRequest, call: Call) -> env_pb2.StepReply:
        lane = self._lane(request.lane)
        return lane.thread.run(call, functools.partial(self._reset_on_lane, lane, request, call))

    def _reset_on_lane(self, lane: Lane, request: env_pb2.ResetRequest, call: Call) -> env_pb2.StepReply:
        lane.episode, lane.lost = None, "its last Reset failed"
        place = f"{request.task} start state {request.start_state}"
        try:
            task = self._task(request.task)
            if request.start_state >= task.start_states:
                raise Error(
                    "invalid",
                    f"start state {request.start_state} of {task.start_states}",
                    hint="start states count from 0",
                )
            look = _Look(self, request.render)
            if lane.env is None:
                lane.env = self.cls(
                    EnvConfig(
                        dict(self.settings),
                        dict(self._cameras),
                        self._seed,
                        lane.number,
                        len(self._lanes),
                        self._scratch,
                    )
                )
                call.tick()
            lane.env.reset(request.task, request.start_state, request.seed)
            call.tick()
            episode = Episode(task, request.seed, request.max_steps or task.max_steps)
            writer = Writer(self.arena, request.grant if request.HasField("grant") else None)
            frames = look.frames(writer, -1, 1)
            frames.after(lane.env, 0, call)
            reply = self._reply(lane.env, episode, look, writer, frames, 0, call)
        except BaseException as e:
            raise as_error(e, place) from e
        lane.episode, lane.lost = episode, ""
        return reply

    def _step(self, request: env_pb2.StepRequest, call: Call) -> env_pb2.StepReply:
        lane = self._lane(request.lane)
        return lane.thread.run(call, functools.partial(self._step_on_lane, lane, request, call))

    def _step_on_lane(self, lane: Lane, request: env_pb2.StepRequest, call: Call) -> env_pb2.StepReply:
        episode, env = lane.episode, lane.env
        if episode is None or env is None:
            raise Error(
                "invalid",
                f"Step on lane {lane.number}, which has no episode" + (f": {lane.lost}" if lane.lost else ""),
                hint="call Reset first",
            )
        if episode.done:
            raise Error(
                "invalid", f"the episode on lane {lane.number} has ended", hint="call Reset", place=episode.task.id
            )
        begun = False
        try:
            look = _Look(self, request.render)
            if request.HasField("expert"):
                actions = self._expert_actions(env, episode, request.expert)
                most = request.expert.steps
                if most < 1:
                    raise Error("invalid", "the expert was asked for 0 steps", hint="ask for 1 or more")
            else:
                if not request.HasField("actions"):
                    raise Error("invalid", "Step has neither actions nor an expert")
                chunk = self._check_actions(read(request.actions, self.arena, "actions"))
                actions, most = iter(chunk), len(chunk)
            most = min(most, episode.max_steps - episode.steps)
            writer = Writer(self.arena, request.grant if request.HasField("grant") else None)
            frames = look.frames(writer, episode.steps, most)
            executed: List[np.ndarray] = []
            intended: List[np.ndarray] = []
            while len(executed) < most and not episode.done:
                call.tick()
                action = next(actions)
                if action is None:  # the expert gives up: the host sees fewer steps than it asked for, or none
                    break
                if request.HasField("expert"):
                    action, meant = action
                    intended.append(meant)
                    executed.append(action.copy())  # an env may write into what it is given
                else:
                    executed.append(action)
                begun = True
                self._take(env.step(action), episode)
                frames.after(env, episode.steps, call)
            reply = self._reply(env, episode, look, writer, frames, len(executed), call)
            if request.HasField("expert") and executed:
                reply.actions.CopyFrom(writer.put(np.stack(executed)))
                if request.expert.noise > 0:
                    reply.intended.CopyFrom(writer.put(np.stack(intended)))
        except BaseException as e:
            if begun:
                lane.episode, lane.lost = None, f"it was left in the middle of a chunk ({e})"
            raise as_error(e, f"{episode.task.id} step {episode.steps}") from e
        return reply

    def _check_actions(self, actions: np.ndarray) -> np.ndarray:
        """Returns a clipped copy of a chunk, float32 [n, action dim], or raises `Error` ("invalid") that names the
        first bad entry.
        """
        names = self.spec.action.names
        if actions.dtype != np.float32 or actions.ndim != 2 or actions.shape[1] != len(names) or actions.shape[0] == 0:
            raise Error(
                "invalid",
                f"actions are {actions.dtype.name} {list(actions.shape)}, want float32 [n, {len(names)}] with n >= 1",
                hint=f"one number each for {', '.join(names)}",
            )
        bad = ~((actions >= self._low - TOLERANCE) & (actions <= self._high + TOLERANCE))  # NaN is bad too
        if bad.any():
            i, d = np.argwhere(bad)[0]
            raise Error(
                "invalid",
                f"action {i} of the chunk: {names[d]} (dimension {d}) is {actions[i, d]:g}, outside of "
                f"[{self._low[d]:g}, {self._high[d]:g}]",
                hint="the policy must clip what it emits to the env's action space",
            )
        return np.clip(actions, self._low, self._high)

    def _expert_actions(
        self, env: Env, episode: Episode, asked: env_pb2.Expert
    ) -> Iterator[Optional[Tuple[np.ndarray, np.ndarray]]]:
        """Yields the expert's actions, each twice, float32 [action dim]: with noise, and as it is meant, both clipped;
        None when it gives up.
        """
        noise = asked.noise
        if not self._has_expert():
            raise Error("unsupported", "this env has no scripted expert")
        if asked.failure and asked.failure not in self.spec.expert_failures:
            ways = ", ".join(self.spec.expert_failures)
            raise Error(
                "unsupported",
                f"the expert cannot fail by {asked.failure!r}",
                hint=f"one of {ways}" if ways else "this env's expert always does its best",
            )
        if not (noise >= 0 and math.isfinite(noise)):
            raise Error(
                "invalid", f"expert noise of {noise}", hint="a standard deviation of 0 or more, in action units"
            )

        def generate():
            for _ in range(asked.steps):
                action = env.failing_expert(asked.failure) if asked.failure else env.expert()
                if action is None:
                    yield None
                    return
                action = np.asarray(action, np.float32)
                if action.shape != self._low.shape or not np.isfinite(action).all():
                    raise Error("internal", f"expert() gave {action.tolist()}, want {len(self._low)} finite numbers")
                meant = np.clip(action, self._low, self._high)
                if noise > 0:  # by seed and step, so that the chunk's length does not matter
                    draw = np.random.Generator(np.random.PCG64([episode.seed, episode.steps])).standard_normal(
                        len(action)
                    )
                    action = action + (noise * draw).astype(np.float32)
                yield np.clip(action, self._low, self._high), meant

        return generate()

    def _take(self, step: Step, episode: Episode) -> None:
        if not isinstance(step, Step):
            raise Error(
                "internal",
                f"step() must return srpo.Step, got {type(step).__name__}",
                hint="return srpo.Step(success=..., terminated=...)",
            )
        episode.steps += 1
        episode.success = bool(step.success)
        episode.terminated = bool(step.terminated) or episode.success
        episode.truncated = not episode.terminated and episode.steps >= episode.max_steps
        episode.progress = None if step.progress is None else float(step.progress)
        if episode.progress is not None and not 0 <= episode.progress <= 1:
            raise Error("internal", f"step() gave a progress of {episode.progress}", hint="progress is between 0 and 1")

    def _reply(
        self, env: Env, episode: Episode, look: "_Look", writer: Writer, frames: "_Frames", done: int, call: Call
    ) -> env_pb2.StepReply:
        reply = env_pb2.StepReply(
            steps_done=done,
            episode_steps=episode.steps,
            success=episode.success,
            terminated=episode.terminated,
            truncated=episode.truncated,
        )
        if episode.progress is not None:
            reply.progress = episode.progress
        if frames.count:
            reply.recorded.CopyFrom(frames.tensor())
        observation = reply.observation
        observation.instruction = episode.task.instruction
        for camera in look.observe:
            if camera == frames.camera and frames.last_step == episode.steps:
                image = frames.last()
            else:
                image = self.image(env, camera)
                call.tick()
            observation.images[camera].CopyFrom(writer.put(image))
        if self.spec.proprio:
            proprio = np.asarray(env.proprio(), np.float32)
            if proprio.shape != (len(self.spec.proprio),):
                raise Error(
                    "internal",
                    f"proprio() gave shape {list(proprio.shape)}, describe() names {len(self.spec.proprio)} entries",
                )
            if not np.isfinite(proprio).all():
                i = int(np.argmin(np.isfinite(proprio)))
                raise Error(
                    "internal",
                    f"proprio {self.spec.proprio[i]!r} is {proprio[i]}",
                    hint="the simulation has likely diverged",
                )
            observation.proprio.CopyFrom(writer.put(proprio))
        return reply

    def image(self, env: Env, camera: str) -> np.ndarray:
        """Renders a camera and checks what came back: uint8 [height, width, 3]. The array may be the simulator's own
        buffer: copy it before the next step.
        """
        height, width = self._cameras[camera]
        image = env.render(camera)
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.shape != (height, width, 3):
            got = f"{image.dtype.name} {list(image.shape)}" if isinstance(image, np.ndarray) else type(image).__name__
            raise Error(
                "internal",
                f"render({camera!r}) gave {got}, want uint8 [{height}, {width}, 3]",
                hint="render at config.cameras[camera], drop alpha, and turn floats into 0 to 255 first",
            )
        return image


class _Look:
    """What a request wants to see, checked."""

    def __init__(self, service: EnvService, render: env_pb2.Render):
        self.service = service
        self.observe = [self._name(c) for c in render.observe]
        self.record = self._name(render.record) if render.record and render.record_every else ""
        self.every = render.record_every

    def _name(self, camera: str) -> str:
        name = self.service.spec.camera(camera).name
        if name not in self.service._cameras:
            raise Error(
                "invalid",
                f"camera {name!r} was not among those that Configure named",
                hint=f"it named {', '.join(self.service._cameras)}",
            )
        return name

    def frames(self, writer: Writer, start: int, steps: int) -> "_Frames":
        """Makes room for the frames of a chunk of so many steps after `start` executed ones; start is -1 for Reset,
        which records step 0.
        """
        most = (start + steps) // self.every - start // self.every if self.record else 0
        return _Frames(self, writer, most)


class _Frames:
    """The recorded frames of one call, uint8 [frames, H, W, 3], written where the reply will point."""

    def __init__(self, look: _Look, writer: Writer, most: int):
        self.camera, self.count, self.last_step = look.record, 0, -1
        self._look, self._writer = look, writer
        self._room: Optional[Reserved] = None
        if most:
            self._room = writer.reserve((most, *look.service._cameras[look.record], 3), np.uint8)

    def after(self, env: Env, step: int, call: Call) -> None:
        """Records a frame when the step is one of those to record."""
        if not self.camera or step % self._look.every:
            return
        image = self._look.service.image(env, self.camera)
        call.tick()
        self._writer.check()
        self._room.array[self.count] = image
        self.count, self.last_step = self.count + 1, step

    def last(self) -> np.ndarray:
        return self._room.array[self.count - 1]

    def tensor(self) -> pb.Tensor:
        return self._room.tensor(self.count)
