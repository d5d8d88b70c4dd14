"""A policy on another server as a policy of srpo."""

from __future__ import annotations

import json
import os

import numpy as np
import srpo_sdk as srpo
from PIL import Image

from connection import Connection


class Remote(srpo.Policy):
    """Asks a server for each chunk of actions. It has no weights here, so it can be evaluated but not trained."""

    info = srpo.Info(
        name="remote",
        version="0.1.0",
        doc="a policy on a server of the openpi websocket protocol; it can be evaluated, not trained",
        settings=[
            srpo.Setting("host", "localhost", "name of the server, or ws://NAME/PATH; wss:// for TLS"),
            srpo.Setting("port", 8000, "port of the server; openpi's default is 8000", min=1, max=65535),
            srpo.Setting("api_key_variable", "", "environment variable with the key that the server requires; it must "
                         "be in [host] env_allow; empty: no key is sent"),
            srpo.Setting("label", "", "what the server serves, for the record: name and step of the checkpoint; "
                         "evaluations with different labels are never merged"),
            srpo.Setting("images", ["observation/image=agentview", "observation/wrist_image=wrist"],
                         "KEY=CAMERA for each image that the server expects; default: openpi's for LIBERO"),
            srpo.Setting("image_size", 224, "pixels per side, scaled with black bars as openpi's clients do; "
                         "0: as the env renders it", min=0, max=4096),
            srpo.Setting("state", "observation/state", "key of the proprio vector, float32; empty: not sent"),
            srpo.Setting("prompt", "prompt", "key of the instruction"),
            srpo.Setting("actions", "actions", "key of the actions in the answer, [chunk or more, action dim]"),
            srpo.Setting("chunk", 5, "actions that are executed per answer; openpi's client for LIBERO uses 5",
                         min=1, max=1000),
            srpo.Setting("clip", True, "clip actions to the env's bounds; false: an action out of bounds is an error"),
            srpo.Setting("seed", "", "key of the seed, for servers that use one; empty: not sent, and a server that "
                         "samples then gives different actions each time"),
            srpo.Setting("start_s", 60.0, "seconds to wait for a server that is starting", min=0, max=86400),
            srpo.Setting("reply_s", 60.0, "seconds to wait for an answer", min=0.001, max=86400),
        ],
    )  # fmt: skip

    def __init__(self, config: srpo.PolicyConfig):
        super().__init__(config)
        self.settings = s = config.settings
        self._images = [_image(text) for text in s["images"]]
        if config.env is not None:  # by name, because the images of an observation have no order
            self._images = [(key, _camera(config.env, key, camera)) for key, camera in self._images]
        key = _key(s["api_key_variable"])
        self._server = Connection(s["host"], s["port"], key, s["start_s"], s["reply_s"])
        print(f"metadata of {self._server.place}: {self._server.metadata!r}")

    def describe(self) -> srpo.PolicySpec:
        return srpo.PolicySpec(
            cameras=[(camera, 0, 0) for _, camera in self._images],
            chunk=self.settings["chunk"],
            proprio=bool(self.settings["state"]),
            trainable=False,
            max_batch=1,  # the protocol has one observation per message
        )

    def act(self, items: list[srpo.ActItem], sampling: srpo.Sampling) -> list[srpo.ActResult]:
        """Ignores `sampling`: the protocol has no field for it, so the server decides how to sample."""
        return [srpo.ActResult(self._ask(item)) for item in items]

    def _ask(self, item: srpo.ActItem) -> np.ndarray:
        """Returns the server's actions, float32 [chunk, action dim], finite and, with the setting clip, within
        bounds. Raises `srpo.Error`: "mismatch" or "diverged" for an unusable answer.
        """
        s, observation = self.settings, item.observation
        message: dict = {}
        for key, camera in self._images:
            image = observation.images[camera] if camera else next(iter(observation.images.values()))
            message[key] = _resize_with_pad(image, s["image_size"])
        if s["state"]:
            message[s["state"]] = np.asarray(observation.proprio, np.float32)
        if s["prompt"]:
            message[s["prompt"]] = observation.instruction
        if s["seed"]:
            message[s["seed"]] = item.seed
        answer = self._server.infer(message)
        if s["actions"] not in answer:
            raise self._unusable(f"has no {s['actions']!r}, only {', '.join(sorted(map(str, answer)))}")
        actions = np.asarray(answer[s["actions"]])
        dim = len(self.config.env.action.names) if self.config.env else actions.shape[-1]
        if actions.dtype.kind not in "iuf" or actions.ndim != 2 or actions.shape[1] != dim:
            raise self._unusable(f"has actions {actions.dtype} {list(actions.shape)}, not numbers [chunk, {dim}]")
        if len(actions) < s["chunk"]:
            raise self._unusable(f"has {len(actions)} actions, fewer than the chunk of {s['chunk']}")
        actions = actions[: s["chunk"]].astype(np.float32)
        if not np.isfinite(actions).all():
            raise self._unusable("has actions that are not finite", "diverged")
        if s["clip"] and self.config.env:
            actions = np.clip(actions, self.config.env.action.low, self.config.env.action.high).astype(np.float32)
        return actions

    def _unusable(self, what: str, kind: str = "mismatch") -> srpo.Error:
        return srpo.Error(
            kind, f"the server's answer {what}", place=self._server.place,
            hint="set actions and chunk in [policy.remote] to what the server returns",
        )  # fmt: skip

    def update(self, update: srpo.Update, progress) -> srpo.Statistics:
        raise srpo.Error("unsupported", "a policy on another server cannot be trained here",
                         hint="evaluate it with srpo eval")  # fmt: skip

    def save(self, folder: str) -> None:
        """Writes address, label and metadata of the server. There are no weights to save."""
        with open(os.path.join(folder, "remote.json"), "w") as file:
            known = {name: self.settings[name] for name in ("host", "port", "label")}
            json.dump(known | {"metadata": repr(self._server.metadata)}, file, indent=2)

    def load(self, folder: str) -> None:
        if not os.path.exists(os.path.join(folder, "remote.json")):
            raise srpo.Error("not found", "no remote policy was saved in this folder", place=folder,
                             hint="leave --checkpoint out: the server has the weights")  # fmt: skip

    def close(self) -> None:
        self._server.close()


def _key(variable: str) -> str:
    """Returns the key in an environment variable. It is not a setting, so that no record contains it."""
    if variable and not os.environ.get(variable):
        raise srpo.Error("not found", f"the environment variable {variable} is not set here",
                         place="policy.remote.api_key_variable",
                         hint=f'set it, and pass it to plugins: env_allow = ["{variable}"] in [host]')  # fmt: skip
    return os.environ[variable] if variable else ""


def _image(text: str) -> tuple[str, str]:
    """Returns (key, camera) of KEY=CAMERA. KEY alone means the env's recording camera, ""."""
    key, _, camera = text.partition("=")
    if not key:
        raise srpo.Error("invalid", f"{text!r} is not KEY=CAMERA", place="policy.remote.images",
                         hint='for example ["observation/image=agentview"]')  # fmt: skip
    return key, camera


def _camera(env: srpo.EnvSpec, key: str, name: str) -> str:
    try:
        return env.camera(name).name
    except srpo.Error as error:
        raise srpo.Error(
            "mismatch",
            f"the env has no camera {name!r} for the image {key!r}",
            place="policy.remote.images",
            hint=f"{error.hint}; give KEY=CAMERA for each image that the server expects",
        ) from None


def _resize_with_pad(image: np.ndarray, size: int) -> np.ndarray:
    """Returns uint8 [size, size, 3], scaled to fit by bilinear interpolation and centred on black. Size 0 returns the
    image unchanged.
    """
    if size == 0 or image.shape[:2] == (size, size):
        return np.ascontiguousarray(image)
    height, width = image.shape[:2]
    ratio = max(width, height) / size
    to = (max(1, int(width / ratio)), max(1, int(height / ratio)))
    scaled = Image.fromarray(image).resize(to, resample=Image.Resampling.BILINEAR)
    canvas = Image.new("RGB", (size, size))
    canvas.paste(scaled, ((size - to[0]) // 2, (size - to[1]) // 2))
    return np.asarray(canvas)
