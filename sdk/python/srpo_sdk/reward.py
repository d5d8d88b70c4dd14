"""Scores attempts at tasks with the `srpo` program: `srpo reward` as a function.

    from srpo_sdk import reward

    scores = reward.score([
        {"id": "a", "task": "stack", "success": True, "embedding": first},   # any 1-D array
        {"id": "b", "task": "stack", "success": False, "embedding": second},
        {"id": "c", "task": "stack", "success": None, "embedding": third},   # nobody judged it
    ])
    scores["c"].reward

Nothing is computed here: the attempts are written into a temporary folder, the program scores them, and its answer is
read. `srpo` must be on PATH, or be named by `program=` or the variable SRPO_PROGRAM.
"""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .errors import KINDS, Error

__all__ = ["Score", "Scores", "score"]


@dataclass(frozen=True)
class Score:
    """What an attempt got.

    `reward` is 1 for a success and 0 <= reward < 1 for anything else; 0 where `dropped`, for the `reason`. `distance`
    is to the nearest of the success centres of its task, whose number is `centre`, in the units of the embedding; None
    where none was measured. `frames` is the length of the clip that was embedded, 0 for a given embedding.
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
    """All scores, in the order of the attempts; `scores["id"]` is one of them.

    `metrics` say whether the reward is any good (see docs/reward.md): {"mean": {NAME: {"value", "low", "high", ...}},
    "tasks": {TASK: {...}}, "equal_length": ...}. `tasks` say how the attempts of each task were scored, `warnings`
    what a person should know. `encoders` holds the whole answer for each encoder when several were compared.
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

    def __iter__(self):
        return iter(self.attempts)

    def __len__(self) -> int:
        return len(self.attempts)


def score(
    attempts: str | os.PathLike | Iterable[Mapping[str, Any]],
    *,
    reward: str = "zscore",
    cluster: str = "auto",
    references: str = "batch",
    encoder: str | None = None,
    compare: Iterable[str] = (),
    metrics: bool = False,
    out: str | os.PathLike | None = None,
    settings: Mapping[str, Any] | None = None,
    anchors: Mapping[str, Any] | None = None,
    program: str | os.PathLike | None = None,
    timeout: float | None = None,
) -> Scores:
    """Scores attempts.

    Args:
        attempts: a path (a list, a folder of videos with labels, or a run folder), or mappings with "id", "task",
            "success" (True, False or None), and one of "embedding" (float [D]), "frames" (uint8 [T, H, W, 3]) and
            "video" (a path); "progress" (0 to 1) and "demo" (True) where they are known.
        reward: zscore, minmax, anchored, binary or progress.
        cluster: auto, reference, mean or nearest.
        references: batch, memory or demos.
        encoder: the plugin that embeds videos, a name or a folder; None: srpo.toml's.
        compare: several encoders, instead; also as "LABEL=ENCODER:SETTING=VALUE".
        metrics: measure the reward by growing windows and controls too.
        out: a folder for the page and results.json.
        settings: further settings of srpo.toml by name, e.g. {"reward.alpha": 0.5}.
        anchors: for reward "anchored" on embeddings: by task, the embedding of "nothing happened", float [D].
        program: the srpo program; None: $SRPO_PROGRAM, or the one on PATH.
        timeout: seconds after which the program is killed; None: never.

    Raises:
        Error: whatever the program refuses, with its kind, place and hint; "not found" when there is no program,
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
            raise Error("invalid", "anchors belong to embeddings that are given", hint="write them into the list")
        return _run(binary, os.fspath(attempts), flags, timeout)
    with tempfile.TemporaryDirectory(prefix="srpo-reward-") as folder:
        return _run(binary, _write(folder, list(attempts), anchors or {}), flags, timeout)


def _program(program: str | os.PathLike | None) -> str:
    wanted = os.fspath(program) if program is not None else os.environ.get("SRPO_PROGRAM") or "srpo"
    found = shutil.which(wanted)
    if found is None:
        raise Error("not found", f"there is no program {wanted}", hint="put srpo on PATH, or name it in SRPO_PROGRAM")
    return found


_PLAIN = ("id", "task", "success", "progress", "demo")


def _write(folder: str, attempts: list[Mapping[str, Any]], anchors: Mapping[str, Any]) -> str:
    """Writes list.json and the arrays that it names; returns its path."""
    rows, vectors = [], []
    for n, a in enumerate(attempts):
        place = f"attempt {n + 1}"
        unknown = set(a) - {*_PLAIN, "embedding", "frames", "video"}
        if unknown:
            raise Error(
                "invalid", f"{sorted(unknown)[0]!r} says nothing of an attempt", place=place, hint="see score()"
            )
        row = {k: _plain(a[k]) for k in _PLAIN if a.get(k) is not None}
        given = [k for k in ("embedding", "frames", "video") if a.get(k) is not None]
        if len(given) > 1:
            raise Error(
                "invalid", f"both {given[0]} and {given[1]} are given", place=place, hint="leave one of them out"
            )
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
                    hint="a 1-D array",
                )
            vectors.append((row, vector))
        rows.append(row)
    whole: dict[str, Any] = {"attempts": rows}
    sizes = {len(v) for _, v in vectors}
    if len(vectors) == len(rows) and len(sizes) == 1:
        whole["embeddings"] = "embeddings.npy"
        np.save(os.path.join(folder, "embeddings.npy"), np.stack([v for _, v in vectors]).astype(np.float64))
    else:  # of several sizes, or not for all: the program says what that means
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
        raise Error("deadline", f"srpo reward took longer than {timeout} s", hint="give it more time") from None
    said = done.stderr.decode(errors="replace").strip()
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        raise Error(
            "internal", f"srpo reward ended with code {done.returncode} and no answer", place=program, detail=said
        ) from None
    if done.returncode != 0 or "error" in answer:
        e = answer.get("error", {})
        kind = e.get("kind", "internal")
        raise Error(
            kind if kind in KINDS else "internal",
            e.get("message", said),
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
