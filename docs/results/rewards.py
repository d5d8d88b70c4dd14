"""Writes docs/results/rewards.md from the folder of rewards.sh: the measures, the rewards by kind of failure, and the
failures with high rewards.

Usage: python rewards.py RUNS PREFIX COMMAND; needs NumPy and Pillow. The text below the line SEEN of the page is
written by hand and stays.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

FIVE = ("sc", "mono", "mmd", "js", "smd")
SEEN = "## Observations and limits"
SHOWN = 4  # failures per encoder
WANTED = 30  # minimum number of successes, and of failures, per task
STILLS = 4  # frames per failure, from its first to its last
SIDE = 104  # pixels of a frame
KINDS = {
    "fail:miss": "missed grasp, continues without the object",
    "fail:drop": "dropped half way, continues without the object",
    "fail:wrong": "another object delivered",
    "fail:stall": "stops with the object lifted",
}
TITLES = {
    "sc": "SC",
    "mono": "Mono",
    "mmd": "MMD",
    "js": "JS",
    "smd": "SMD",
    "auroc": "AUROC, centres held out",
    "voc": "VOC, centres held out",
    "order": "order accuracy, centres held out",
    "failure_voc": "VOC of failures",
    "progress_rank": "rank with progress at the end, failures",
    "progress_order": "pairs of failures ordered as by progress",
    "length_auroc": "control: length alone, AUROC",
    "random_auroc": "control: random vectors, AUROC",
    "random_sc": "control: random vectors, SC",
    "random_mono": "control: random vectors, Mono",
    "time_auroc": "control: time only, AUROC",
    "time_sc": "control: time only, SC",
    "time_mono": "control: time only, Mono",
    "reversed_auroc": "AUROC against the same clip reversed",
    "stalled_auroc": "AUROC against the same clip stopped half way",
    "other_auroc": "AUROC against a success of another task",
}


def ranks(x: np.ndarray) -> np.ndarray:
    """Ranks of x [N]; ties get their mean rank."""
    _, inverse, count = np.unique(x, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return ((2 * last - count - 1) / 2)[inverse]


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Rank correlation of x and y [N]; NaN if one of them is constant."""
    a, b = ranks(x) - (len(x) - 1) / 2, ranks(y) - (len(y) - 1) / 2
    length = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / length if length else float("nan")


def correlation(pairs: dict[str, np.ndarray]) -> str:
    """Mean over tasks of the rank correlation of [N, 2]'s columns, with a 95 % bootstrap interval over attempts."""
    rng = np.random.default_rng(0)
    pairs = {t: p for t, p in pairs.items() if len(p) > 2}

    def mean(draw) -> float:
        each = [spearman(*draw(p).T) for p in pairs.values()]
        each = [v for v in each if v == v]
        return statistics.mean(each) if each else float("nan")

    value = mean(lambda p: p)
    if value != value:
        return "-"
    boot = [mean(lambda p: p[rng.integers(0, len(p), len(p))]) for _ in range(1000)]
    low, high = np.nanpercentile(boot, [2.5, 97.5])
    return f"{value:.2f} ({low:.2f} to {high:.2f})"


def cell(measures: dict, key: str) -> str:
    v = measures.get(key)
    return "-" if v is None else f"{v['value']:.3f} ({v['low']:.3f} to {v['high']:.3f})"


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(r) + " |" for r in (head, ["---"] * len(head), *rows)]


def short(task: str) -> str:
    """The object of a task of libero_object; otherwise the task's name."""
    found = re.search(r"pick_up_the_(.*?)_and_place", task)
    return (found[1] if found else task.split("/")[-1]).replace("_", " ")


def kind(label: dict) -> str:
    actor = label["actor"]
    return KINDS.get(actor, actor.replace("noise:", "expert with noise "))


def frames(runs: Path, label: dict) -> np.ndarray:
    """STILLS frames of an episode, uint8 [STILLS, H, W, 3], evenly from the first to the last."""
    with np.load(runs / "rollouts" / label["video"]) as f:
        clip = f["frames"]
    return clip[np.linspace(0, len(clip) - 1, STILLS).round().astype(int)]


def sheet(runs: Path, rows: list[tuple[str, list[tuple[dict, float]]]], path: Path) -> None:
    """Saves a picture with one row per encoder: the failures that it confuses with successes, and their rewards."""
    font, pad, line = ImageFont.load_default(size=15), 12, 22
    width, height = SHOWN * (STILLS * SIDE + pad) + pad, len(rows) * (SIDE + 3 * line + pad) + pad
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    y = pad
    for title, failures in rows:
        draw.text((pad, y), title, fill="black", font=font)
        for n, (label, reward) in enumerate(failures):
            x = pad + n * (STILLS * SIDE + pad)
            for k, frame in enumerate(frames(runs, label)):
                image.paste(Image.fromarray(frame).resize((SIDE, SIDE)), (x + k * SIDE, y + line))
            draw.text((x, y + line + SIDE + 2), f"reward {reward:.2f}: {kind(label)}", fill="black", font=font)
            draw.text(
                (x, y + 2 * line + SIDE),
                f"{short(label['task'])}, start {label['start_state']}",
                fill="gray",
                font=font,
            )
        y += SIDE + 3 * line + pad
    image.save(path, quality=60, optimize=True)


def main(runs: Path, prefix: Path, command: str) -> None:
    result = json.loads((runs / "page" / "results.json").read_text())
    scored = result.get("encoders") or [result]
    labels = {}
    for text in (runs / "rollouts" / "labels.jsonl").read_text().splitlines():
        label = json.loads(text)
        labels[label["id"]] = label
    names = [s["encoder"] for s in scored]
    commit = subprocess.run(
        ["git", "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    measures = {n: s["metrics"] for n, s in zip(names, scored)}
    out = [
        "# Reward quality on rollouts of known kinds",
        "",
        "**Question.** How well do the rewards of different encoders separate successes from failures, and order",
        "failures by progress?",
        "",
        "**Result.** AUROC of clips of equal length, centres held out: "
        + "; ".join(f"{n} {cell((measures[n].get('equal_length') or measures[n])['mean'], 'auroc')}" for n in names)
        + ".",
        "",
        f"Made by `{command}` at commit {commit}, seed 0, {os.cpu_count()} cores.",
        "The head of the script lists what was fixed before any result was seen. [reward.md](../reward.md) defines",
        "the measures. Means over tasks, 95 % bootstrap intervals over attempts. Gaussian kernel with the median",
        "distance as sigma, JS over 20 equal bins.",
        "",
        "## Rollouts",
        "",
    ]
    tasks = sorted({v["task"] for v in labels.values()})
    actors = sorted({v["actor"] for v in labels.values()}, key=lambda a: (a != "expert", a not in KINDS, a))
    rows = []
    for task in tasks:
        mine = [v for v in labels.values() if v["task"] == task]
        of = {a: [v for v in mine if v["actor"] == a] for a in actors}
        rows.append(
            [
                short(task),
                str(sum(v["success"] for v in mine)),
                str(sum(not v["success"] for v in mine)),
                *(f"{sum(v['success'] for v in of[a])} of {len(of[a])}" for a in actors),
            ]
        )
    out += table(["task", "successes", "failures", *(f"{a} succeeds" for a in actors)], rows)
    few = [r[0] for r in rows if min(int(r[1]), int(r[2])) < WANTED]
    if few:
        out += ["", f"Fewer than the required {WANTED} successes and {WANTED} failures: {', '.join(few)}."]

    out += ["", "## Clips as recorded", ""]
    keys = [k for k in TITLES if any(k in m["mean"] for m in measures.values())]
    out += table(["measure", *names], [[TITLES[k], *(cell(measures[n]["mean"], k) for n in names)] for k in keys])
    equal = {n: measures[n].get("equal_length") for n in names}
    if all(equal.values()):
        cut = ", ".join(f"{short(t)} {n}" for t, n in sorted(equal[names[0]]["frames"].items()))
        out += ["", f"## Clips of equal length: {cut} frames", ""]
        out += table(["measure", *names], [[TITLES[k], *(cell(equal[n]["mean"], k) for n in names)] for k in keys])
    out += ["", "## Task by task", ""]
    out += table(
        ["task", "encoder", *(TITLES[k] for k in (*FIVE, "auroc"))],
        [
            [short(t), n, *(cell(measures[n]["tasks"].get(t, {}), k) for k in (*FIVE, "auroc"))]
            for t in tasks
            for n in names
        ],
    )

    out += [
        "",
        "## The reward of failures",
        "",
        "Mean reward by kind of failure, with the progress of these episodes at their end and their maximum progress,",
        "on the env's scale from 0 to 1.",
        "",
    ]
    rewards = {n: {a["id"]: a for a in s["attempts"]} for n, s in zip(names, scored)}
    failed = [
        v
        for v in labels.values()
        if not v["success"] and all(rewards[n][v["id"]].get("distance") is not None for n in names)
    ]
    rows = []
    for actor in actors:
        mine = [v for v in failed if v["actor"] == actor]
        if mine:
            far = [
                f"{statistics.mean(v[k] for v in mine):.2f}" if all(k in v for v in mine) else "-"
                for k in ("progress", "furthest")
            ]
            rows.append(
                [
                    f"{kind(mine[0])} (`{actor}`)",
                    str(len(mine)),
                    *far,
                    *(f"{statistics.mean(rewards[n][v['id']]['reward'] for v in mine):.2f}" for n in names),
                ]
            )
    out += table(["kind of failure", "failures", "progress at the end", "maximum progress", *names], rows)
    out += ["", "Rank correlation of reward and true progress among the failures of a task, mean over tasks:", ""]
    rows = []
    for key, title in (("progress", "at the end"), ("furthest", "maximum")):
        row = [title]
        for n in names:
            pairs = {
                t: np.array([(rewards[n][v["id"]]["reward"], v[key]) for v in failed if v["task"] == t and key in v])
                for t in tasks
            }
            row.append(correlation(pairs))
        rows.append(row)
    out += table(["progress", *names], rows)

    out += ["", "## Failures that an encoder confuses with successes", ""]
    out += [
        "Failures that are nearer to the centres than at least one success of their task. The picture and the table",
        "show the four nearest, each from its first to its last frame. If an encoder confuses none, they show the",
        "four with the highest reward.",
        "",
    ]
    fooled = {f["encoder"]: f for f in result.get("fooled", [])}
    shown = []
    for n in names:
        f = fooled.get(n, {"count": 0, "failures": 0, "ids": []})
        kinds: dict[str, int] = {}
        for i in f["ids"]:
            kinds[labels[i]["actor"]] = kinds.get(labels[i]["actor"], 0) + 1
        of = ", ".join(f"{count} `{a}`" for a, count in sorted(kinds.items(), key=lambda x: -x[1]))
        out.append(f"- {n}: {f['count']} of {f['failures']}" + (f" ({of})" if of else ""))
        title, ids = f"{n}: confuses {f['count']} of {f['failures']} failures", f["ids"][:SHOWN]
        if not ids:  # show the failures with the highest reward
            title += "; those with the highest reward"
            ids = [v["id"] for v in sorted(failed, key=lambda v: -rewards[n][v["id"]]["reward"])[:SHOWN]]
        shown.append((title, [(labels[i], rewards[n][i]["reward"]) for i in ids]))
    picture = prefix.with_name(prefix.name + "-fooled.jpg")
    sheet(runs, shown, picture)
    out += ["", f"![the failures nearest to the successes, by encoder]({picture.name})", ""]
    rows = [
        [
            f"{n}, {k + 1}",
            f"`{label['id']}`",
            kind(label),
            *(f"{label[x]:.2f}" if x in label else "-" for x in ("progress", "furthest")),
            *(f"{rewards[m][label['id']]['reward']:.2f}" for m in names),
        ]
        for n, (_, list_) in zip(names, shown)
        for k, (label, _) in enumerate(list_)
    ]
    head = ["encoder", "attempt", "kind of failure", "progress at the end", "maximum progress"]
    out += table(head + [f"reward, {n}" for n in names], rows)

    out += ["", "## Progress curves: three successes and five failures", ""]
    for n in names:
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", n)
        source = runs / "page" / f"curves-{plain}.svg"
        if source.exists():
            to = prefix.with_name(f"{prefix.name}-{plain.lower()}.svg")
            shutil.copyfile(source, to)
            out += [f"![progress and distance over time, {n}]({to.name})", ""]
    page = prefix.with_suffix(".md")
    _, found, text = page.read_text().partition(SEEN) if page.exists() else ("", "", "")
    page.write_text("\n".join(out).rstrip() + "\n" + (f"\n{found}{text}" if found else ""))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
