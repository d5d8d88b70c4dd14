"""Writes docs/results/libero.md from the folders of libero.sh: success before and after by side, and where time goes.

Usage: python3 docs/results/libero.py RUNS TASK...; standard library only.
The text below the line SEEN is written by hand and stays.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from pathlib import Path

SEEN = "## Observations and limits"
PHASES = ("rollout", "encode", "reward", "update", "commit")


def result(folder: Path) -> tuple[int, int] | None:
    """Successes and episodes of an evaluation; None if it is missing or incomplete."""
    try:
        score = json.loads((folder / "results.json").read_text())["all"]
    except (OSError, ValueError, KeyError):
        return None
    return score["successes"], score["episodes"]


def cell(pair: tuple[int, int] | None) -> str:
    return "-" if pair is None else f"{pair[0]}/{pair[1]}"


def both(folder: Path) -> list[tuple[int, int] | None]:
    """Results of an evaluated checkpoint: start states of the train side, of the test side, all."""
    train, test = (result(folder.with_name(f"{folder.name}-{side}")) for side in ("train", "test"))
    return [train, test, (train[0] + test[0], train[1] + test[1]) if train and test else None]


def metrics(folder: Path) -> list[dict]:
    try:
        return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    except OSError:
        return []


def change(lines: list[dict]) -> str:
    """Sampled success in the first and the last iteration."""
    return f"{100 * lines[0]['success_rate']:.0f} → {100 * lines[-1]['success_rate']:.0f} %"


def interval(differences: list[float]) -> str:
    """Mean and 95 % t interval over seeds."""
    mean = statistics.mean(differences)
    if len(differences) < 2:
        return f"{mean:+.1f} points, one seed"
    t = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776}.get(len(differences), 2.6)
    half = t * statistics.stdev(differences) / math.sqrt(len(differences))
    return f"{mean:+.1f} points (95 %: {mean - half:.1f} to {mean + half:.1f}, {len(differences)} seeds)"


def task_rows(runs: Path, task: str) -> tuple[list[str], dict[str, list[float]], list[dict]]:
    """Rows of the task's table, greedy success in % over all 50 states by label and seed, and all iterations."""
    steps = runs / f"{task}-steps"
    if not steps.exists():
        return [], {}, []
    start = runs / f"{task}-sft-{steps.read_text().strip()}"
    sampled, (train, test, everywhere) = result(start.with_name(start.name + "-sampled")), both(start)
    rows = [f"| | start | {cell(sampled)} | {cell(train)} | {cell(test)} | {cell(everywhere)} |"]
    rates, iterations = {"start": [100 * everywhere[0] / everywhere[1]]}, []
    for seed in range(len(list(runs.glob(f"{task}-zscore-[0-9]")))):
        for label, reward in [("SRPO (zscore)", "zscore"), ("GRPO (binary)", "binary")]:
            folder = runs / f"{task}-{reward}-{seed}"
            scores, lines = both(folder), metrics(folder)
            if not lines or scores[2] is None:
                continue
            iterations += lines
            rates.setdefault(label, []).append(100 * scores[2][0] / scores[2][1])
            rows.append(f"| {seed} | {label} | {change(lines)} | {' | '.join(cell(s) for s in scores)} |")
    for name, label in [("hold", "SRPO, clips of equal length"), ("blind", "SRPO, no image")]:
        folder = runs / f"{task}-{name}-0"
        if metrics(folder) and both(folder)[2]:
            rows.append(f"| 0 | {label} | {change(metrics(folder))} | {' | '.join(cell(s) for s in both(folder))} |")
    return rows, rates, iterations


def main() -> None:
    runs, tasks = Path(sys.argv[1]), sys.argv[2:]
    commit = (runs / "commit").read_text().strip()
    out: list[str] = []
    seconds: list[dict] = []
    verdicts: list[str] = []
    seeds = 0
    for task in tasks:
        rows, rates, iterations = task_rows(runs, task)
        if not rows:
            continue
        seconds += iterations
        out += [f"## {task.replace('_', ' ')}", "", f"![success by iteration](libero-{task}.svg)", ""]
        out += ["| seed | | sampled | greedy, train | greedy, test | all 50 |", "|---|---|---|---|---|---|", *rows, ""]
        zscore, binary = (rates.get(k, []) for k in ("SRPO (zscore)", "GRPO (binary)"))
        n = min(len(zscore), len(binary))
        seeds = max(seeds, n)
        if n:
            difference = interval([a - b for a, b in zip(zscore[:n], binary[:n])])
            verdicts.append(f"{task.replace('_', ' ')}: {difference}")
            start = rates["start"][0]
            out += [f"SRPO minus start, greedy, all states: {interval([a - start for a in zscore])}. "
                    f"GRPO minus start: {interval([b - start for b in binary])}. "
                    f"SRPO minus GRPO: {difference}.", ""]  # fmt: skip
    if seconds:
        total = sum(m["seconds"] for m in seconds)
        share = {name: 100 * sum(m["seconds_by_phase"].get(name, 0) for m in seconds) / total for name in PHASES}
        stepping = 100 * sum(m["env_step_seconds"] for m in seconds) / (2 * total)
        median = statistics.median(m["seconds"] for m in seconds)
        out += [
            f"The median time of an iteration of 24 episodes was {median:.0f} s",
            f"({len(seconds)} iterations, with other work on the machine at times): rollout {share['rollout']:.1f} %,",
            f"update {share['update']:.1f} %, commit {share['commit']:.1f} %. Encoding runs during the rollout",
            f"({share['encode']:.1f} %). Both lanes were inside the simulator for {stepping:.0f} % of the time.",
            "",
        ]
    page = Path(__file__).with_suffix(".md")
    _, found, text = page.read_text().partition(SEEN) if page.exists() else ("", "", "")
    head = [
        "# SRPO against GRPO on LIBERO, from one demonstration",
        "",
        "**Question.** From one demonstration and a weak start, does the SRPO reward improve a policy more than a 0/1",
        "reward (GRPO) on LIBERO?",
        "",
        f"**Result.** Greedy success, SRPO minus GRPO: {'; '.join(verdicts) or 'not measured yet'}.",
        "",
        f"Made by `docs/results/libero.sh` ({', '.join(tasks)}), commit {commit}, seeds 0 to {max(seeds - 1, 0)}.",
        "The head of the script lists what was fixed before any result was seen.",
        "",
        "- Sampled: the policy's own episodes in the first and the last iteration. Start: the 16 episodes that",
        "  selected it.",
        "- Greedy: each start state once, by side of the split. Training used the train side. Each seed draws its own",
        "  split; the row of the start uses the split of seed 0.",
        "- For speed the frames are not LIBERO's own: no multisampling and coarser meshes (`multisample = 0`,",
        "  `mesh_cell_mm = 4`, about 29 dB from LIBERO's). Physics and success are LIBERO's.",
        "",
    ]
    page.write_text("\n".join(head + out) + ("\n" + found + text if found else ""))


main()
