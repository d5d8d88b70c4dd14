"""The PolicyPlugin service over an author's `Policy`: update ids, progress, durable saves, checks of results."""

from __future__ import annotations

import errno
import json
import os
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ._calls import Call
from ._proto import base_pb2 as pb
from ._proto import env_pb2, policy_pb2
from ._server import Handler, Service, streaming
from .errors import Error
from .policy import (
    ActItem,
    ActResult,
    Advantage,
    Demonstration,
    Hyperparameters,
    Imitate,
    Observation,
    Policy,
    PolicyConfig,
    PolicySpec,
    Sampling,
    Statistics,
    Update,
)
from .spec import EnvSpec, action_to_proto
from .tensors import Array, Writer, read

T = TypeVar("T")

# The kit's file in a saved folder: the update ids that the weights contain.
STATE_FILE = "srpo_sdk.json"
# Number of updates whose statistics are kept, in case the host asks for them again.
_KEPT_UPDATES = 16


class PolicyService(Service):
    """Serves a `Policy` subclass."""

    kind = pb.KIND_POLICY
    name = "srpo.v1.PolicyPlugin"

    cls: type[Policy]
    policy: Policy
    spec: PolicySpec

    def configure(self, request: pb.ConfigureRequest) -> None:
        env = EnvSpec.from_proto(request.env) if request.HasField("env") else None
        self.policy = self.cls(
            PolicyConfig(
                dict(self.settings),
                request.seed,
                env,
                request.rank,
                request.world_size or 1,
                request.rendezvous,
                request.scratch,
            )
        )
        self.spec = self._described()
        self._action = self.spec.action or (env.action if env else None)
        self._last: int | None = None  # the newest update id that the weights contain
        self._applied: dict[int, Statistics | None] = {}

    def _described(self) -> PolicySpec:
        spec = self.policy.describe()
        if not isinstance(spec, PolicySpec) or spec.chunk < 1:
            raise Error("corrupt", f"describe() gave {spec!r}", hint="return srpo.PolicySpec with a chunk of 1 or more")
        if spec.action is not None:
            spec.action.check()
        return spec

    def handlers(self) -> dict[str, Handler]:
        def configured(work: Callable[[Any, Call], Iterator[T]]) -> Callable[[Any, Call], Iterator[T]]:
            def generate(request: Any, call: Call) -> Iterator[T]:
                self.require_configured()
                yield from work(request, call)

            return generate

        return {
            "DescribePolicy": self.unary(policy_pb2.DescribePolicyRequest, "DescribePolicy", self._describe),
            "Act": self.unary(policy_pb2.ActRequest, "Act", self._act, lambda r: f"Act {len(r.items)} items"),
            "Update": streaming(
                self.calls, policy_pb2.UpdateRequest, lambda r: f"Update {r.update_id}", configured(self._update)
            ),
            "Forget": self.unary(policy_pb2.ForgetRequest, "Forget", self._forget),
            "Imitate": streaming(
                self.calls,
                policy_pb2.ImitateRequest,
                lambda _: "Imitate",
                configured(self._imitate),
                client_streams=True,
            ),
            "Save": self.unary(policy_pb2.SaveRequest, "Save", self._save),
            "Load": self.unary(policy_pb2.LoadRequest, "Load", self._load),
        }

    def close(self) -> None:
        if self._configured:
            self.policy.close()

    def _overrides(self, method: str) -> bool:
        return getattr(type(self.policy), method) is not getattr(Policy, method)

    def _describe(self, request: policy_pb2.DescribePolicyRequest, call: Call) -> policy_pb2.PolicySpec:
        s = self.spec
        return policy_pb2.PolicySpec(
            cameras=[pb.CameraRequest(name=n, height=h, width=w) for n, h, w in s.cameras],
            proprio=s.proprio,
            action=action_to_proto(s.action) if s.action else None,
            chunk=s.chunk,
            can_imitate=self._overrides("imitate"),
            parameters=s.parameters,
            trainable=self._overrides("update") if s.trainable is None else s.trainable,
            max_batch=s.max_batch,
            weighs_steps=s.weighs_steps and self._overrides("imitate"),
        )

    # Acting.

    def _act(self, request: policy_pb2.ActRequest, call: Call) -> policy_pb2.ActReply:
        items = [
            ActItem(
                m.trajectory,
                m.step,
                self._observation(m.observation, f"item {i} ({m.trajectory} step {m.step})", request.record),
                m.seed,
            )
            for i, m in enumerate(request.items)
        ]
        if not request.greedy and not request.temperature > 0:
            raise Error(
                "invalid",
                f"a temperature of {request.temperature}",
                hint="give a temperature above 0, or ask for greedy actions",
            )
        sampling = Sampling(request.greedy, request.temperature, request.record)

        def work() -> list[tuple[Array, Array | None]]:
            size = self.spec.max_batch or max(1, len(items))
            results: list[tuple[Array, Array | None]] = []
            for start in range(0, len(items), size):
                call.report_progress()
                batch = items[start : start + size]
                got = self.policy.act(batch, sampling)
                if len(got) != len(batch):
                    raise Error("internal", f"act() gave {len(got)} results for {len(batch)} items")
                results += [self._checked(item, result) for item, result in zip(batch, got)]
            return results

        writer = Writer(None, None)
        reply = policy_pb2.ActReply()
        for actions, log_probs in self.author.run(call, work):
            reply.results.append(
                policy_pb2.ActResult(
                    actions=writer.put(actions), log_probs=None if log_probs is None else writer.put(log_probs)
                )
            )
        return reply

    def _observation(self, m: env_pb2.Observation, what: str, keep: bool) -> Observation:
        images: dict[str, npt.NDArray[np.uint8]] = {}
        for camera, tensor in m.images.items():
            image = read(tensor, self.arena, f"{what} image {camera!r}")
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                raise Error(
                    "invalid",
                    f"{what} image {camera!r} is {image.dtype.name} {list(image.shape)}, want uint8 [H, W, 3]",
                )
            images[camera] = _copy(image) if keep else image
        proprio = None
        if m.HasField("proprio"):
            proprio = read(m.proprio, self.arena, f"{what} proprio")
            if proprio.dtype != np.float32 or proprio.ndim != 1:
                raise Error(
                    "invalid", f"{what} proprio is {proprio.dtype.name} {list(proprio.shape)}, want float32 [P]"
                )
            proprio = _copy(proprio) if keep else proprio
        return Observation(images, proprio, m.instruction)

    def _checked(self, item: ActItem, result: ActResult) -> tuple[Array, Array | None]:
        """Returns actions float32 [chunk, action dim] and log-probabilities float32 [chunk], or raises `Error`."""
        place = f"{item.trajectory} step {item.step}"
        if not isinstance(result, ActResult):
            raise Error("internal", f"act() must return srpo.ActResult, got {type(result).__name__}", place=place)
        actions = np.asarray(result.actions, np.float32)
        dim = self._action.dim if self._action else None
        if actions.ndim != 2 or actions.shape[0] != self.spec.chunk or (dim is not None and actions.shape[1] != dim):
            raise Error(
                "internal",
                f"act() gave actions {list(actions.shape)}, want [{self.spec.chunk}, {dim or 'action dim'}]",
                place=place,
            )
        # "diverged" costs one episode, not the run: the host then asks for each item of the batch alone.
        if not np.isfinite(actions).all():
            raise Error(
                "diverged",
                "act() gave an action that is not finite",
                place=place,
                hint="the weights may have diverged: lower the learning rate",
            )
        log_probs = None
        if result.log_probs is not None:
            log_probs = np.asarray(result.log_probs, np.float32)
            if log_probs.shape != (self.spec.chunk,):
                raise Error(
                    "diverged",
                    f"act() gave log-probabilities {list(log_probs.shape)}, want [{self.spec.chunk}]",
                    place=place,
                    hint="give one for each action of the chunk",
                )
            if not np.isfinite(log_probs).all():
                raise Error(
                    "diverged",
                    "act() gave a log-probability that is not finite",
                    place=place,
                    hint="the weights may have diverged: lower the learning rate",
                )
        return actions, log_probs

    # Learning.

    def _is_applied(self, update_id: int) -> bool:
        """Whether the weights contain an update. Raises `Error` ("invalid") for one older than those that are kept."""
        if update_id in self._applied:
            return True
        if self._last is not None and update_id <= self._last:
            raise Error("invalid", f"update {update_id} was sent after update {self._last}", hint="update ids increase")
        return False

    def _record_update(self, update_id: int, statistics: Statistics | None) -> None:
        self._last = update_id
        self._applied[update_id] = statistics
        while len(self._applied) > _KEPT_UPDATES:
            del self._applied[min(self._applied)]

    def _update(self, request: policy_pb2.UpdateRequest, call: Call) -> Iterator[policy_pb2.UpdateReply]:
        h = request.hyperparameters
        update = Update(
            request.update_id,
            [Advantage(t.trajectory, np.array(t.advantages, np.float64), t.steps) for t in request.trajectories],
            Hyperparameters(h.clip_low, h.clip_high, h.kl_beta, h.epochs, h.mini_batch, h.clip_dual),
            request.temperature,
            request.seed,
        )
        for t in update.trajectories:
            if len(t.values) not in (1, t.steps) or not np.isfinite(t.values).all():
                raise Error(
                    "invalid",
                    f"{len(t.values)} advantages for {t.steps} steps, or one that is not finite",
                    place=t.trajectory,
                    hint="give one for the trajectory, or one per step",
                )
        statistics, again = Statistics(samples=0), False

        def work(report: Callable[[float], None]) -> None:
            nonlocal statistics, again
            if self._is_applied(update.id):
                statistics, again = self._applied[update.id] or statistics, True
                return
            if not self._overrides("update"):
                raise Error("unsupported", "this policy cannot be trained")
            statistics = self.policy.update(update, lambda share: report(float(share)))
            if not isinstance(statistics, Statistics):
                raise Error("internal", f"update() must return srpo.Statistics, got {type(statistics).__name__}")
            self._record_update(update.id, statistics)

        for share in self._run_streaming(call, work):
            yield policy_pb2.UpdateReply(progress=share)
        yield policy_pb2.UpdateReply(progress=1.0, statistics=_statistics_to_proto(statistics), already_applied=again)

    def _imitate(self, requests: Iterator[policy_pb2.ImitateRequest], call: Call) -> Iterator[policy_pb2.ImitateReply]:
        first = next(requests, None)
        if first is None or first.WhichOneof("message") != "header":
            raise Error("invalid", "Imitate must begin with a header")
        imitate = Imitate(first.header.update_id, first.header.seed, first.header.steps)

        def demonstrations() -> Iterator[Demonstration]:
            for n, m in enumerate(requests):
                call.report_progress()
                if m.WhichOneof("message") != "demonstration":
                    raise Error("invalid", f"message {n + 1} of Imitate is not a demonstration")
                yield self._demonstration(m.demonstration)

        last_loss = 0.0

        def work(report: Callable[[tuple[float, float]], None]) -> None:
            if self._is_applied(imitate.id):
                return
            if not self._overrides("imitate"):
                raise Error("unsupported", "this policy cannot imitate")

            def progress(share: float, loss: float) -> None:
                nonlocal last_loss
                last_loss = float(loss)
                report((float(share), last_loss))

            self.policy.imitate(imitate, demonstrations(), progress)
            self._record_update(imitate.id, None)

        for share, loss in self._run_streaming(call, work):
            yield policy_pb2.ImitateReply(progress=share, loss=loss)
        yield policy_pb2.ImitateReply(progress=1.0, loss=last_loss, done=True)

    def _run_streaming(self, call: Call, work: Callable[[Callable[[T], None]], None]) -> Iterator[T]:
        """Runs work(report) on the author's thread, yields each value that it reports, and raises its exception."""
        reports: queue.SimpleQueue[T | None] = queue.SimpleQueue()  # None: the end
        failed: list[BaseException] = []

        def report(value: T) -> None:
            call.report_progress()
            reports.put(value)

        def run() -> None:
            try:
                self.author.run(call, lambda: work(report))
            except BaseException as e:
                failed.append(e)
            reports.put(None)

        threading.Thread(target=run, daemon=True).start()
        while (value := reports.get()) is not None:
            yield value
        if failed:
            raise failed[0]

    def _demonstration(self, m: policy_pb2.Demonstration) -> Demonstration:
        what = f"demonstration {m.id}"
        actions = _copy(read(m.actions, self.arena, f"{what} actions"))
        images = {camera: _copy(read(t, self.arena, f"{what} image {camera!r}")) for camera, t in m.images.items()}
        proprio = _copy(read(m.proprio, self.arena, f"{what} proprio")) if m.HasField("proprio") else None
        if actions.dtype != np.float32 or actions.ndim != 2 or not np.isfinite(actions).all():
            raise Error(
                "invalid",
                f"{what}: actions are {actions.dtype.name} {list(actions.shape)}, want finite float32 [T, action dim]",
            )
        for camera, image in images.items():
            if image.dtype != np.uint8 or image.ndim != 4 or image.shape[0] != len(actions) or image.shape[3] != 3:
                raise Error(
                    "invalid",
                    f"{what}: images of {camera!r} are {image.dtype.name} {list(image.shape)}, "
                    f"want uint8 [{len(actions)}, H, W, 3]",
                )
        if proprio is not None and (proprio.dtype != np.float32 or proprio.ndim != 2 or len(proprio) != len(actions)):
            raise Error(
                "invalid",
                f"{what}: proprio is {proprio.dtype.name} {list(proprio.shape)}, want float32 [{len(actions)}, P]",
            )
        weights = _copy(read(m.weights, self.arena, f"{what} weights")) if m.HasField("weights") else None
        if weights is not None:
            if weights.dtype != np.float32 or weights.shape != (len(actions),):
                raise Error(
                    "invalid",
                    f"{what}: weights are {weights.dtype.name} {list(weights.shape)}, want float32 [{len(actions)}]",
                )
            if not (np.isfinite(weights).all() and (weights >= 0).all()):
                raise Error(
                    "invalid", f"{what}: a weight is negative or not finite", hint="give finite weights of 0 or more"
                )
        return Demonstration(m.id, m.instruction, images, proprio, actions, m.success, weights)

    def _forget(self, request: policy_pb2.ForgetRequest, call: Call) -> policy_pb2.ForgetReply:
        self.author.run(call, lambda: self.policy.forget(list(request.trajectories)))
        return policy_pb2.ForgetReply()

    # Saving.

    def _save(self, request: policy_pb2.SaveRequest, call: Call) -> policy_pb2.SaveReply:
        def work() -> None:
            folder = request.folder
            if not os.path.isdir(folder):
                raise Error("not found", "no such folder to save into", place=folder)
            if os.listdir(folder):
                raise Error("invalid", "the folder to save into is not empty", place=folder)
            try:
                self.policy.save(folder)
                if os.path.exists(os.path.join(folder, STATE_FILE)):
                    raise Error("internal", f"save() wrote {STATE_FILE}, a name that srpo_sdk uses", place=folder)
                with open(os.path.join(folder, STATE_FILE), "w") as f:
                    json.dump(
                        {
                            "version": 1,
                            "last": self._last,
                            "applied": [[k, v and vars(v)] for k, v in self._applied.items()],
                        },
                        f,
                    )
                _sync(folder)
            except OSError as e:
                raise Error(
                    "exhausted" if e.errno in (errno.ENOSPC, errno.EDQUOT) else "internal",
                    f"saving the policy: {e.strerror or e}",
                    place=folder,
                ) from e

        self.author.run(call, work)
        return policy_pb2.SaveReply()

    def _load(self, request: policy_pb2.LoadRequest, call: Call) -> policy_pb2.LoadReply:
        def work() -> int:
            path = os.path.join(request.folder, STATE_FILE)
            try:
                with open(path) as f:
                    state = json.load(f)
                last = state["last"]
                applied = {int(k): None if v is None else Statistics(**v) for k, v in state["applied"]}
                if not (last is None or isinstance(last, int)) or state["version"] != 1:
                    raise ValueError(f"version {state['version']}, last update {last!r}")
            except FileNotFoundError as e:
                raise Error("not found", "no policy was saved in this folder", place=path) from e
            except (ValueError, KeyError, TypeError) as e:
                raise Error(
                    "corrupt", f"cannot be read: {e}", place=path, hint="go back to an earlier checkpoint"
                ) from e
            self.policy.load(request.folder)
            self._last, self._applied = last, applied
            if request.fresh:
                self.policy.begin_run()
            return last or 0

        return policy_pb2.LoadReply(update_id=self.author.run(call, work))


def _copy(array: Array) -> Array:
    """Returns a copy that stays valid after the call."""
    copied: Array = array.copy()
    return copied


def _sync(folder: str) -> None:
    """Makes every file below a folder durable, and the folders themselves."""
    for parent, _, files in os.walk(folder):
        for path in [os.path.join(parent, f) for f in files] + [parent]:
            fd = os.open(path, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)


def _statistics_to_proto(s: Statistics) -> policy_pb2.UpdateStatistics:
    return policy_pb2.UpdateStatistics(
        loss=s.loss,
        kl=s.kl,
        clip_fraction=s.clip_fraction,
        grad_norm=s.grad_norm,
        entropy=s.entropy,
        first_ratio=s.first_ratio,
        samples=s.samples,
        extra=s.extra,
    )
