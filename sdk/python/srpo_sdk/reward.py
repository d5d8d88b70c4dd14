"""Scores attempts at tasks with the `srpo` program: `srpo reward` as a function.

    from srpo_sdk import reward

    scores = reward.score([
        {"id": "a", "task": "stack", "success": True, "embedding": first},   # any 1-D array
        {"id": "b", "task": "stack", "success": False, "embedding": second},
        {"id": "c", "task": "stack", "success": None, "embedding": third},   # not labelled
    ])
    scores["c"].reward

The program computes everything: this module writes the attempts into a temporary folder, runs the program and reads
its output. `srpo` must be on PATH, or be named by `program=` or the variable SRPO_PROGRAM.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .errors import KINDS, Error

__all__ = ["Score", "Scores", "score"]


@dataclass(frozen=True)
class Score:
    """The score of one attempt.

    Args:
        id: of the attempt.
        task: of the attempt.
        success: its label; None: it has none.
        reward: 1 for a success, 0 <= reward < 1 for any other attempt, 0 for a dropped one.
        distance: to the nearest success centre of the task, in the units of the embedding; None: not measured.
        centre: index of that centre.
        dropped: whether the attempt could not be scored.
        reason: why it was dropped.
        note: a remark for a person.
        frames: length of the clip that was embedded; 0 for a given embedding.
    """

    id: str
    task: str
    success: bool | None
    reward: float
    distance: float | None
    centre: int | None
    dropped: bool
    reason: str = ""
    note: str = ""
    frames: int = 0


@dataclass(frozen=True)
class Scores:
    """All scores, in the order of the attempts. `scores["id"]` is the score of one attempt.

    Args:
        attempts: one `Score` per attempt.
        metrics: the quality of the reward, see docs/reward.md: {"mean": {NAME: {"value", "low", "high", ...}},
            "tasks": {TASK: {...}}, "equal_length": ...}.
        tasks: how the attempts of each task were scored.
        warnings: sentences that a user should read.
        encoders: the whole result per encoder when several were compared.
    """

    attempts: list[Score]
    metrics: dict[str, Any]
    tasks: list[dict[str, Any]]
    warnings: list[str] = field(default_factory=list)
    encoders: list[dict[str, Any]] = field(default_factory=list)

    def __getitem__(self, attempt: str) -> Score:
        for a in self.attempts:
            if a.id == attempt:
                return a
        raise KeyError(attempt)

    def __iter__(self) -> Iterator[Score]:
        return iter(self.attempts)

    def __len__(self) -> int:
        return len(self.attempts)


def score(
    attempts: str | os.PathLike[str] | Iterable[Mapping[str, Any]],
    *,
    reward: str = "zscore",
    cluster: str = "auto",
    references: str = "batch",
    encoder: str | None = None,
    compare: Iterable[str] = (),
    metrics: bool = False,
    out: str | os.PathLike[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    anchors: Mapping[str, Any] | None = None,
    program: str | os.PathLike[str] | None = None,
    timeout: float | None = None,
) -> Scores:
    """Scores attempts.

    Args:
        attempts: a path (a list, a folder of videos with labels, or a run folder), or mappings with "id", "task",
            "success" (True, False or None), and one of "embedding" (float [D]), "frames" (uint8 [T, H, W, 3]) and
            "video" (a path). Optional: "progress" (0 to 1) and "demo" (True).
        reward: zscore, minmax, anchored, binary or progress.
        cluster: auto, reference, mean or nearest.
        references: batch, memory or demos.
        encoder: the plugin that embeds videos, a name or a folder; None: the one in srpo.toml.
        compare: several encoders instead of one, each also as "LABEL=ENCODER:SETTING=VALUE".
        metrics: also measure the reward on growing windows and on controls.
        out: a folder for the report and results.json.
        settings: further settings of srpo.toml by name, e.g. {"reward.alpha": 0.5}.
        anchors: for reward "anchored" on embeddings: by task, the embedding of an episode without motion, float [D].
        program: the srpo program; None: $SRPO_PROGRAM, or the one on PATH.
        timeout: seconds after which the program is killed; None: never.

    Raises:
        Error: the program's error, with its kind, place and hint; "not found" when the program does not exist,
            "deadline" after `timeout`.
    """
    flags = ["--reward", reward, "--cluster", cluster, "--references", references]
    if encoder is not None:
        flags += ["--encoder", os.fspath(encoder)]
    names = [os.fspath(c) for c in compare]
    if names:
        flags += ["--compare", ",".join(names)]
    if metrics:
        flags += ["--metrics"]
    if out is not None:
        flags += ["--out", os.fspath(out)]
    for name, value in (settings or {}).items():
        flags += ["--set", f"{name}={json.dumps(value) if isinstance(value, (bool, list, tuple)) else value}"]
    binary = _program(program)
    if isinstance(attempts, (str, os.PathLike)):
        if anchors:
            raise Error("invalid", "anchors need attempts with embeddings", hint="write the anchors into the list file")
        return _run(binary, os.fspath(attempts), flags, timeout)
    with tempfile.TemporaryDirectory(prefix="srpo-reward-") as folder:
        return _run(binary, _write(folder, list(attempts), anchors or {}), flags, timeout)


def _program(program: str | os.PathLike[str] | None) -> str:
    wanted = os.fspath(program) if program is not None else os.environ.get("SRPO_PROGRAM") or "srpo"
    found = shutil.which(wanted)
    if found is None:
        raise Error("not found", f"no program {wanted}", hint="put srpo on PATH, or name it in SRPO_PROGRAM")
    return found


_PLAIN_KEYS = ("id", "task", "success", "progress", "demo")


def _write(folder: str, attempts: list[Mapping[str, Any]], anchors: Mapping[str, Any]) -> str:
    """Writes list.json and the arrays that it refers to. Returns its path."""
    rows, vectors = [], []
    for n, a in enumerate(attempts):
        place = f"attempt {n + 1}"
        unknown = set(a) - {*_PLAIN_KEYS, "embedding", "frames", "video"}
        if unknown:
            raise Error("invalid", f"unknown key {sorted(unknown)[0]!r}", place=place, hint="see srpo_sdk.reward.score")
        row = {k: _plain(a[k]) for k in _PLAIN_KEYS if a.get(k) is not None}
        given = [k for k in ("embedding", "frames", "video") if a.get(k) is not None]
        if len(given) > 1:
            raise Error("invalid", f"both {given[0]} and {given[1]} are given", place=place, hint="give one of them")
        if given == ["frames"]:
            frames = np.ascontiguousarray(a["frames"])
            row["video"] = f"{n:06d}.npy"
            np.save(os.path.join(folder, row["video"]), frames)
        elif given == ["video"]:
            row["video"] = os.path.abspath(os.fspath(a["video"]))
        elif given:
            vector = np.asarray(a["embedding"])
            if vector.ndim != 1 or vector.dtype.kind not in "fiu":
                raise Error(
                    "invalid",
                    f"the embedding is {vector.dtype} {list(vector.shape)}",
                    place=place,
                    hint="give a 1-D array of numbers",
                )
            vectors.append((row, vector))
        rows.append(row)
    whole: dict[str, Any] = {"attempts": rows}
    sizes = {len(v) for _, v in vectors}
    if len(vectors) == len(rows) and len(sizes) == 1:
        whole["embeddings"] = "embeddings.npy"
        np.save(os.path.join(folder, "embeddings.npy"), np.stack([v for _, v in vectors]).astype(np.float64))
    else:  # of several sizes, or not for all attempts: the program reports what is wrong with that
        for row, vector in vectors:
            row["embedding"] = vector.astype(np.float64).tolist()
    if anchors:
        whole["anchors"] = {task: np.asarray(v, np.float64).tolist() for task, v in anchors.items()}
    path = os.path.join(folder, "list.json")
    with open(path, "w", encoding="utf-8") as f:
        json.dump(whole, f)
    return path


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _run(program: str, source: str, flags: list[str], timeout: float | None) -> Scores:
    try:
        done = subprocess.run([program, "reward", source, "--json", *flags], capture_output=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        raise Error("deadline", f"srpo reward took longer than {timeout} s", hint="raise timeout") from None
    stderr = done.stderr.decode(errors="replace").strip()
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        raise Error(
            "internal", f"srpo reward exited with status {done.returncode} and no JSON", place=program, detail=stderr
        ) from None
    if done.returncode != 0 or "error" in answer:
        e = answer.get("error", {})
        kind = e.get("kind", "internal")
        raise Error(
            kind if kind in KINDS else "internal",
            e.get("message", stderr),
            place=e.get("place", ""),
            hint=e.get("hint", ""),
            detail=e.get("detail", ""),
        )
    known = Score.__dataclass_fields__
    return Scores(
        attempts=[Score(**{k: v for k, v in a.items() if k in known}) for a in answer["attempts"]],
        metrics=answer["metrics"],
        tasks=answer["tasks"],
        warnings=answer.get("warnings", []),
        encoders=answer.get("encoders", []),
    )
