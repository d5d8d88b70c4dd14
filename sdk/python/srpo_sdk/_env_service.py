"""The EnvPlugin service over an author's `Env`: lanes, chunks of actions, rendering on demand."""

from __future__ import annotations

import difflib
import functools
import itertools
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from ._calls import Call, Thread
from ._proto import base_pb2 as pb
from ._proto import env_pb2
from ._server import Handler, Service, streaming
from .env import Env, EnvConfig, Step, Task
from .errors import Error, as_error
from .spec import EnvSpec
from .tensors import Array, Reserved, Writer, read

# Tasks fetched from the author at once while they are streamed.
_TASK_BATCH = 256
# The largest number of start states or steps of a task: the largest int32.
_MAX_COUNT = 2**31 - 1


def _is_whole(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


class Episode:
    """The state of a lane's running episode."""

    def __init__(self, task: Task, seed: int, max_steps: int):
        self.task, self.seed, self.max_steps = task, seed, max_steps
        self.steps = 0
        self.success = self.terminated = self.truncated = False
        self.progress: float | None = None

    @property
    def done(self) -> bool:
        return self.terminated or self.truncated

    def add(self, step: Step) -> None:
        """Counts an executed step. Raises `Error` ("internal") when the author's `Step` is malformed."""
        if not isinstance(step, Step):
            raise Error(
                "internal",
                f"step() must return srpo.Step, got {type(step).__name__}",
                hint="return srpo.Step(success=..., terminated=...)",
            )
        self.steps += 1
        self.success = bool(step.success)
        self.terminated = bool(step.terminated) or self.success
        self.truncated = not self.terminated and (bool(step.truncated) or self.steps >= self.max_steps)
        self.progress = None if step.progress is None else float(step.progress)
        if self.progress is not None and not 0 <= self.progress <= 1:
            raise Error("internal", f"step() gave a progress of {self.progress}", hint="progress is between 0 and 1")


class Lane:
    """One lane: the author's instance, made when it is first needed, and its episode."""

    def __init__(self, number: int, thread: Thread):
        self.number, self.thread = number, thread
        self.env: Env | None = None
        self.episode: Episode | None = None
        self.lost = ""  # why there is no episode


class EnvService(Service):
    """Serves an `Env` subclass."""

    kind = pb.KIND_ENV
    name = "srpo.v1.EnvPlugin"

    spec: EnvSpec
    cls: type[Env]
    _cameras: dict[str, tuple[int, int]]

    def configure(self, request: pb.ConfigureRequest) -> None:
        lanes = request.lanes or 1
        if lanes > self.max_lanes:
            raise Error("invalid", f"asked for {lanes} lanes, one process holds {self.max_lanes}")
        self.spec = self.cls.describe(dict(self.settings))
        if not isinstance(self.spec, EnvSpec):
            raise Error("corrupt", f"describe() must return srpo.EnvSpec, got {type(self.spec).__name__}")
        self.spec.check()
        # A host that names no cameras gets all of them, each at its native size.
        wanted = request.cameras or [pb.CameraRequest(name=c.name) for c in self.spec.cameras]
        self._cameras = {self.spec.camera(c.name).name: self.spec.size(c.name, c.height, c.width) for c in wanted}
        self._low = np.asarray(self.spec.action.low, np.float32)
        self._high = np.asarray(self.spec.action.high, np.float32)
        self._seed, self._scratch = request.seed, request.scratch
        self._lanes = [Lane(i, self.author) for i in range(lanes)]
        if self.cls.threads and lanes > 1:
            for lane in self._lanes:
                lane.thread = Thread().start(f"srpo-lane-{lane.number}")
        self._tasks: dict[str, Task] | None = None
        self._tasks_lock = threading.Lock()

    def handlers(self) -> dict[str, Handler]:
        def tasks(request: env_pb2.TasksRequest, call: Call) -> Iterator[env_pb2.Task]:
            self.require_configured()
            yield from self._stream_tasks(call)

        def lane(method: str) -> Callable[[Any], str]:
            return lambda request: f"{method} lane {request.lane}"

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
                    hint="give each task a unique id that is not empty",
                )
            least = 0 if task.unavailable else 1
            for name, value in (("start_states", task.start_states), ("max_steps", task.max_steps)):
                if not (_is_whole(value) and least <= value <= _MAX_COUNT):
                    raise Error(
                        "corrupt",
                        f"task {task.id!r}: {name} is {value!r}",
                        place="tasks()",
                        hint=f"give a whole number, {least} to {_MAX_COUNT}",
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
                call.report_progress()
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
            view = _View(self, request.render)
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
                call.report_progress()
            lane.env.reset(request.task, request.start_state, request.seed)
            call.report_progress()
            episode = Episode(task, request.seed, request.max_steps or task.max_steps)
            writer = Writer(self.arena, request.grant if request.HasField("grant") else None)
            frames = view.frames(writer, -1, 1)
            frames.add(lane.env, 0, call)
            reply = self._reply(lane.env, episode, view, writer, frames, 0, call)
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
            view = _View(self, request.render)
            by_expert = request.HasField("expert")
            actions, limit = self._actions(env, episode, request)
            limit = min(limit, episode.max_steps - episode.steps)
            writer = Writer(self.arena, request.grant if request.HasField("grant") else None)
            frames = view.frames(writer, episode.steps, limit)
            executed: list[Array] = []
            intended: list[Array] = []
            while len(executed) < limit and not episode.done:
                call.report_progress()
                pair = next(actions)
                if pair is None:  # the expert has no action: the host gets fewer steps than it asked for, or none
                    break
                action, intent = pair
                intended.append(intent)
                executed.append(action.copy() if by_expert else action)  # an env may write into its argument
                begun = True
                episode.add(env.step(action))
                frames.add(env, episode.steps, call)
            reply = self._reply(env, episode, view, writer, frames, len(executed), call)
            if by_expert and executed:
                reply.actions.CopyFrom(writer.put(np.stack(executed)))
                if request.expert.noise > 0:
                    reply.intended.CopyFrom(writer.put(np.stack(intended)))
        except BaseException as e:
            if begun:
                lane.episode, lane.lost = None, f"it was left in the middle of a chunk ({e})"
            raise as_error(e, f"{episode.task.id} step {episode.steps}") from e
        return reply

    def _actions(
        self, env: Env, episode: Episode, request: env_pb2.StepRequest
    ) -> tuple[Iterator[tuple[Array, Array] | None], int]:
        """Returns the actions to execute, each as (executed, intended), float32 [action dim], and their number.

        Raises:
            Error: "invalid" for a request without usable actions, "unsupported" without an expert.
        """
        if request.HasField("expert"):
            actions = self._expert_actions(env, episode, request.expert)
            if request.expert.steps < 1:
                raise Error("invalid", "the expert was asked for 0 steps", hint="ask for 1 or more")
            return actions, request.expert.steps
        if not request.HasField("actions"):
            raise Error("invalid", "Step has neither actions nor an expert")
        chunk = self.spec.action.clip(read(request.actions, self.arena, "actions"))
        return ((action, action) for action in chunk), len(chunk)

    def _expert_actions(
        self, env: Env, episode: Episode, request: env_pb2.Expert
    ) -> Iterator[tuple[Array, Array] | None]:
        """Yields the expert's actions as (with noise, without), float32 [action dim], both clipped; None when it has
        no action.
        """
        noise = request.noise
        if not self._has_expert():
            raise Error("unsupported", "this env has no scripted expert")
        if request.failure and request.failure not in self.spec.expert_failures:
            failures = ", ".join(self.spec.expert_failures)
            raise Error(
                "unsupported",
                f"the expert cannot fail by {request.failure!r}",
                hint=f"one of {failures}" if failures else "this env's expert cannot fail on purpose",
            )
        if not (noise >= 0 and math.isfinite(noise)):
            raise Error(
                "invalid", f"expert noise of {noise}", hint="give a standard deviation of 0 or more, in action units"
            )

        def generate() -> Iterator[tuple[Array, Array] | None]:
            for _ in range(request.steps):
                action = env.failing_expert(request.failure) if request.failure else env.expert()
                if action is None:
                    yield None
                    return
                action = np.asarray(action, np.float32)
                if action.shape != self._low.shape or not np.isfinite(action).all():
                    method = "failing_expert()" if request.failure else "expert()"
                    raise Error("internal", f"{method} gave {action.tolist()}, want {len(self._low)} finite numbers")
                intended = np.clip(action, self._low, self._high)
                if noise > 0:  # from seed and step, so that it does not depend on the chunk's length
                    rng = np.random.Generator(np.random.PCG64([episode.seed, episode.steps]))
                    action = action + (noise * rng.standard_normal(len(action))).astype(np.float32)
                yield np.clip(action, self._low, self._high), intended

        return generate()

    def _reply(
        self, env: Env, episode: Episode, view: _View, writer: Writer, frames: _Frames, steps: int, call: Call
    ) -> env_pb2.StepReply:
        reply = env_pb2.StepReply(
            steps_done=steps,
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
        for camera in view.observe:
            if camera == frames.camera and frames.last_step == episode.steps:
                image = frames.last()
            else:
                image = self.image(env, camera)
                call.report_progress()
            observation.images[camera].CopyFrom(writer.put(image))
        if self.spec.proprio:
            observation.proprio.CopyFrom(writer.put(self._proprio(env)))
        return reply

    def _proprio(self, env: Env) -> npt.NDArray[np.float32]:
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
        return proprio

    def size(self, camera: str) -> tuple[int, int]:
        """Returns the configured (height, width) of a camera, pixels."""
        return self._cameras[camera]

    def camera(self, requested: str) -> str:
        """Returns the name of a configured camera ("": the recording camera). Raises `Error`: "not found" or
        "invalid".
        """
        name = self.spec.camera(requested).name
        if name not in self._cameras:
            raise Error(
                "invalid",
                f"camera {name!r} was not among those that Configure named",
                hint=f"it named {', '.join(self._cameras)}",
            )
        return name

    def image(self, env: Env, camera: str) -> npt.NDArray[np.uint8]:
        """Renders a camera, uint8 [height, width, 3]. The array may be the simulator's buffer: copy it before the next
        step. Raises `Error` ("internal") for any other type or shape.
        """
        height, width = self.size(camera)
        image = env.render(camera)
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.shape != (height, width, 3):
            got = f"{image.dtype.name} {list(image.shape)}" if isinstance(image, np.ndarray) else type(image).__name__
            raise Error(
                "internal",
                f"render({camera!r}) gave {got}, want uint8 [{height}, {width}, 3]",
                hint="render at config.cameras[camera], drop alpha, and convert floats to 0 to 255 first",
            )
        return image


class _View:
    """The cameras that a request wants: to observe at the end of the call, and to record every few steps."""

    def __init__(self, service: EnvService, render: env_pb2.Render):
        self.service = service
        self.observe = [service.camera(c) for c in render.observe]
        self.record = service.camera(render.record) if render.record and render.record_every else ""
        self.every = render.record_every

    def frames(self, writer: Writer, start: int, steps: int) -> _Frames:
        """Reserves memory for the frames of a chunk of up to `steps` steps, after `start` executed ones. Reset, which
        records step 0, passes start -1.
        """
        count = (start + steps) // self.every - start // self.every if self.record else 0
        return _Frames(self, writer, count)


class _Frames:
    """The recorded frames of one call, uint8 [frames, H, W, 3], written directly into the reply's memory."""

    def __init__(self, view: _View, writer: Writer, capacity: int):
        self.camera, self.count, self.last_step = view.record, 0, -1
        self._view, self._writer = view, writer
        self._reserved = Reserved(np.empty(0, np.uint8), None)
        if capacity:
            self._reserved = writer.reserve((capacity, *view.service.size(view.record), 3), np.uint8)

    def add(self, env: Env, step: int, call: Call) -> None:
        """Records a frame if `step` is one of those to record."""
        if not self.camera or step % self._view.every:
            return
        image = self._view.service.image(env, self.camera)
        call.report_progress()
        self._writer.check()
        self._reserved.array[self.count] = image
        self.count, self.last_step = self.count + 1, step

    def last(self) -> npt.NDArray[np.uint8]:
        frame: npt.NDArray[np.uint8] = self._reserved.array[self.count - 1]
        return frame

    def tensor(self) -> pb.Tensor:
        return self._reserved.tensor(self.count)
