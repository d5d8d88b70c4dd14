"""A policy that somebody else serves, as a policy of srpo."""

from __future__ import annotations

import json
import os

import numpy as np
import srpo_sdk as srpo
from PIL import Image

from connection import Connection


class Remote(srpo.Policy):
    """Asks a server for each chunk of actions. It has no weights here, so it can be evaluated, not trained."""

    info = srpo.Info(
        name="remote",
        version="0.1.0",
        doc="a policy served elsewhere by the openpi websocket protocol; evaluated, not trained",
        settings=[
            srpo.Setting("host", "localhost", "where the server listens; wss://NAME for one behind TLS"),
            srpo.Setting("port", 8000, "and its port; openpi's default", min=1, max=65535),
            srpo.Setting("api_key_variable", "", "environment variable with the key that the server asks for; it must "
                         "be in [host] env_allow. Empty: no key is sent"),
            srpo.Setting("label", "", "what is served there, for the record: name and step of the checkpoint. "
                         "Evaluations of different labels are never mixed"),
            srpo.Setting("images", ["observation/image=agentview", "observation/wrist_image=wrist"],
                         "KEY=CAMERA, for each picture that the server expects; openpi's names for LIBERO"),
            srpo.Setting("image_size", 224, "pixels a side, scaled with black bars as openpi's clients do; 0: as the "
                         "env renders it", min=0, max=4096),
            srpo.Setting("state", "observation/state", "key of the proprio vector, float32; empty: it is not sent"),
            srpo.Setting("prompt", "prompt", "key of the instruction"),
            srpo.Setting("actions", "actions", "key of the answer's actions, [at least chunk, action dimensions]"),
            srpo.Setting("chunk", 5, "actions that are executed of each answer; openpi's client for LIBERO takes 5",
                         min=1, max=1000),
            srpo.Setting("clip", True, "clip actions to the env's range; false: one outside of it is an error"),
            srpo.Setting("seed", "", "key of the item's seed, for servers that take one; empty: it is not sent, and a "
                         "server that draws at random answers differently each time"),
            srpo.Setting("start_s", 60.0, "seconds to wait for a server that is starting", min=0, max=86400),
            srpo.Setting("reply_s", 60.0, "seconds for an answer", min=0.001, max=86400),
        ],
    )  # fmt: skip

    def __init__(self, config: srpo.PolicyConfig):
        super().__init__(config)
        self.settings = s = config.settings
        self._images = [_image(text) for text in s["images"]]
        if config.env is not None:  # by name: an observation's pictures come in no order
            self._images = [(key, _camera(config.env, key, camera)) for key, camera in self._images]
        key = _key(s["api_key_variable"])
        self._server = Connection(s["host"], s["port"], key, s["start_s"], s["reply_s"])
        print(f"{self._server.place} says of itself: {self._server.metadata!r}")

    def describe(self) -> srpo.PolicySpec:
        return srpo.PolicySpec(
            cameras=[(camera, 0, 0) for _, camera in self._images],
            chunk=self.settings["chunk"],
            proprio=bool(self.settings["state"]),
            trainable=False,
            max_batch=1,  # the protocol knows one observation at a time
        )

    def act(self, items: list[srpo.ActItem], sampling: srpo.Sampling) -> list[srpo.ActResult]:
        """Greedy or not is the server's affair: the protocol has no word for it."""
        return [srpo.ActResult(self._ask(item)) for item in items]

    def _ask(self, item: srpo.ActItem) -> np.ndarray:
        """float32 [chunk, action dimensions]."""
        s, seen = self.settings, item.observation
        message: dict = {}
        for key, camera in self._images:
            image = seen.images[camera] if camera else next(iter(seen.images.values()))
            message[key] = _scaled(image, s["image_size"])
        if s["state"]:
            message[s["state"]] = np.asarray(seen.proprio, np.float32)
        if s["prompt"]:
            message[s["prompt"]] = seen.instruction
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
            raise self._unusable("has actions that are no numbers", "diverged")
        if s["clip"] and self.config.env:
            actions = np.clip(actions, self.config.env.action.low, self.config.env.action.high).astype(np.float32)
        return actions

    def _unusable(self, what: str, kind: str = "mismatch") -> srpo.Error:
        return srpo.Error(
            kind, f"the server's answer {what}", place=self._server.place,
            hint="set actions and chunk in [policy.remote] to what the server gives",
        )  # fmt: skip

    def update(self, update: srpo.Update, progress) -> srpo.Statistics:
        raise srpo.Error("unsupported", "a policy that is served elsewhere cannot be trained here",
                         hint="srpo eval measures it")  # fmt: skip

    def save(self, folder: str) -> None:
        """Where it was served and what the server said: there are no weights to save."""
        with open(os.path.join(folder, "remote.json"), "w") as file:
            known = {name: self.settings[name] for name in ("host", "port", "label")}
            json.dump(known | {"metadata": repr(self._server.metadata)}, file, indent=2)

    def load(self, folder: str) -> None:
        if not os.path.exists(os.path.join(folder, "remote.json")):
            raise srpo.Error("not found", "the folder is none of a remote policy", place=folder,
                             hint="leave --checkpoint out: the weights are the server's")  # fmt: skip

    def close(self) -> None:
        self._server.close()


def _key(variable: str) -> str:
    """The key itself never becomes a setting, and so never part of a record."""
    if variable and not os.environ.get(variable):
        raise srpo.Error("not found", f"the environment variable {variable} is not set here",
                         place="policy.remote.api_key_variable",
                         hint=f'set it, and let plugins have it: env_allow = ["{variable}"] in [host]')  # fmt: skip
    return os.environ[variable] if variable else ""


def _image(text: str) -> tuple[str, str]:
    """KEY=CAMERA; KEY alone stands for the env's recording camera."""
    key, _, camera = text.partition("=")
    if not key:
        raise srpo.Error("invalid", f"{text!r} is no KEY=CAMERA", place="policy.remote.images",
                         hint='for example ["observation/image=agentview"]')  # fmt: skip
    return key, camera


def _camera(env: srpo.EnvSpec, key: str, name: str) -> str:
    try:
        return env.camera(name).name
    except srpo.Error as error:
        raise srpo.Error(
            "mismatch",
            f"the picture {key!r} is to show the camera {name!r}, which is not there",
            place="policy.remote.images",
            hint=f"{error.hint}; give KEY=CAMERA for each picture that the server expects",
        ) from None


def _scaled(image: np.ndarray, size: int) -> np.ndarray:
    """uint8 [size, size, 3]: scaled to fit, bilinear, centred on black; size 0: the image as it is."""
    if size == 0 or image.shape[:2] == (size, size):
        return np.ascontiguousarray(image)
    height, width = image.shape[:2]
    ratio = max(width, height) / size
    to = (max(1, int(width / ratio)), max(1, int(height / ratio)))
    scaled = Image.fromarray(image).resize(to, resample=Image.Resampling.BILINEAR)
    canvas = Image.new("RGB", (size, size))
    canvas.paste(scaled, ((size - to[0]) // 2, (size - to[1]) // 2))
    return np.asarray(canvas)
