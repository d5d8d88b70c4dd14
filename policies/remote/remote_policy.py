"""A policy that runs on a server, as an srpo policy."""

from __future__ import annotations

import json
import os

import numpy as np
import srpo_sdk as srpo
from PIL import Image

from connection import Connection


class Remote(srpo.Policy):
    """Requests each chunk of actions from a server. It has no weights, so it can be evaluated but not trained."""

    info = srpo.Info(
        name="remote",
        version="0.1.0",
        doc="a policy on a server with openpi's websocket protocol; it can be evaluated, not trained",
        settings=[
            srpo.Setting("host", "localhost", "host name of the server; wss://NAME for a server behind TLS"),
            srpo.Setting("port", 8000, "port of the server (8000: openpi's default)", min=1, max=65535),
            srpo.Setting("api_key_variable", "", "environment variable with the API key of the server; it must be in "
                         "[host] env_allow. Empty: no key is sent"),
            srpo.Setting("label", "", "what the server runs, for the record, e.g. name and step of the "
                         "checkpoint. Evaluations with different labels are not merged"),
            srpo.Setting("images", ["observation/image=agentview", "observation/wrist_image=wrist"],
                         "KEY=CAMERA for each image that the server expects; the default has openpi's keys for LIBERO"),
            srpo.Setting("image_size", 224, "height and width of images in pixels, which get black bars as in openpi's "
                         "clients; 0: as rendered by the env", min=0, max=4096),
            srpo.Setting("state", "observation/state", "key of proprio, float32; empty: it is not sent"),
            srpo.Setting("prompt", "prompt", "key of the instruction"),
            srpo.Setting("actions", "actions", "key of the actions in the reply, [at least chunk, action dimensions]"),
            srpo.Setting("chunk", 5, "actions of each reply that are executed (5: as in openpi's client for LIBERO)",
                         min=1, max=1000),
            srpo.Setting("clip", True, "clip actions to the env's range; false: actions outside of it are an error"),
            srpo.Setting("seed", "", "key of the seed, for servers that accept one. Empty: it is not sent; a server "
                         "that samples then gives another reply each time"),
            srpo.Setting("start_s", 60.0, "seconds to wait for a server that is starting", min=0, max=86400),
            srpo.Setting("reply_s", 60.0, "seconds to wait for a reply", min=0.001, max=86400),
        ],
    )  # fmt: skip

    def __init__(self, config: srpo.PolicyConfig):
        super().__init__(config)
        self.settings = s = config.settings
        self._images = [_image(text) for text in s["images"]]
        if config.env is not None:  # by name, since images of an observation have no order
            self._images = [(key, _camera(config.env, key, camera)) for key, camera in self._images]
        key = _key(s["api_key_variable"])
        self._server = Connection(s["host"], s["port"], key, s["start_s"], s["reply_s"])
        print(f"{self._server.place} sends the metadata {self._server.metadata!r}")

    def describe(self) -> srpo.PolicySpec:
        return srpo.PolicySpec(
            cameras=[(camera, 0, 0) for _, camera in self._images],
            chunk=self.settings["chunk"],
            proprio=bool(self.settings["state"]),
            trainable=False,
            max_batch=1,  # the protocol has one observation per message
        )

    def act(self, items: list[srpo.ActItem], sampling: srpo.Sampling) -> list[srpo.ActResult]:
        """The protocol has no field for greedy sampling, so the server decides."""
        return [srpo.ActResult(self._request(item)) for item in items]

    def _request(self, item: srpo.ActItem) -> np.ndarray:
        """Returns the server's actions for an item, float32 [chunk, action dimensions]."""
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
        reply = self._server.infer(message)
        if s["actions"] not in reply:
            raise self._bad_reply(f"has no {s['actions']!r}, only {', '.join(sorted(map(str, reply)))}")
        actions = np.asarray(reply[s["actions"]])
        dim = len(self.config.env.action.names) if self.config.env else actions.shape[-1]
        if actions.dtype.kind not in "iuf" or actions.ndim != 2 or actions.shape[1] != dim:
            raise self._bad_reply(f"has actions {actions.dtype} {list(actions.shape)}, want numbers [chunk, {dim}]")
        if len(actions) < s["chunk"]:
            raise self._bad_reply(f"has {len(actions)} actions, fewer than the chunk of {s['chunk']}")
        actions = actions[: s["chunk"]].astype(np.float32)
        if not np.isfinite(actions).all():
            raise self._bad_reply("has actions that are not finite", "diverged")
        if s["clip"] and self.config.env:
            actions = np.clip(actions, self.config.env.action.low, self.config.env.action.high).astype(np.float32)
        return actions

    def _bad_reply(self, what: str, kind: str = "mismatch") -> srpo.Error:
        return srpo.Error(
            kind, f"the server's reply {what}", place=self._server.place,
            hint="set actions and chunk in [policy.remote] to what the server sends",
        )  # fmt: skip

    def update(self, update: srpo.Update, progress) -> srpo.Statistics:
        raise srpo.Error("unsupported", "a remote policy cannot be trained",
                         hint="evaluate it with srpo eval")  # fmt: skip

    def save(self, folder: str) -> None:
        """Writes the server's address and metadata; there are no weights to save."""
        with open(os.path.join(folder, "remote.json"), "w") as file:
            address = {name: self.settings[name] for name in ("host", "port", "label")}
            json.dump(address | {"metadata": repr(self._server.metadata)}, file, indent=2)

    def load(self, folder: str) -> None:
        if not os.path.exists(os.path.join(folder, "remote.json")):
            raise srpo.Error("not found", "not a folder of a remote policy", place=folder,
                             hint="omit --checkpoint: the server has the weights")  # fmt: skip

    def close(self) -> None:
        self._server.close()


def _key(variable: str) -> str:
    """The API key. Only the variable is a setting, so that the key is not in the record of a run."""
    if variable and not os.environ.get(variable):
        raise srpo.Error("not found", f"the environment variable {variable} is not set",
                         place="policy.remote.api_key_variable",
                         hint=f'set it, and pass it to plugins: env_allow = ["{variable}"] in [host]')  # fmt: skip
    return os.environ[variable] if variable else ""


def _image(text: str) -> tuple[str, str]:
    """Parses KEY=CAMERA. An empty camera stands for the env's recording camera."""
    key, _, camera = text.partition("=")
    if not key:
        raise srpo.Error("invalid", f"{text!r} is not KEY=CAMERA", place="policy.remote.images",
                         hint='want, for example, ["observation/image=agentview"]')  # fmt: skip
    return key, camera


def _camera(env: srpo.EnvSpec, key: str, name: str) -> str:
    try:
        return env.camera(name).name
    except srpo.Error as error:
        raise srpo.Error(
            "mismatch",
            f"the image {key!r} needs the camera {name!r}, which the env does not have",
            place="policy.remote.images",
            hint=f"{error.hint}; give KEY=CAMERA for each image that the server expects",
        ) from None


def _resize_with_pad(image: np.ndarray, size: int) -> np.ndarray:
    """Scales an image to uint8 [size, size, 3], bilinear and centred on black. With size 0 it is not scaled."""
    if size == 0 or image.shape[:2] == (size, size):
        return np.ascontiguousarray(image)
    height, width = image.shape[:2]
    ratio = max(width, height) / size
    to = (max(1, int(width / ratio)), max(1, int(height / ratio)))
    scaled = Image.fromarray(image).resize(to, resample=Image.Resampling.BILINEAR)
    canvas = Image.new("RGB", (size, size))
    canvas.paste(scaled, ((size - to[0]) // 2, (size - to[1]) // 2))
    return np.asarray(canvas)
