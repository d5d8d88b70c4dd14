"""Writes docs/results/openvla.md, or openvla-tabletop.md, from the folders of openvla.sh.

Usage: python3 docs/results/openvla.py RUNS ENV TASK STARTS POLICY...; standard library only.
Prints the page. The text below the line SEEN of the committed page is written by hand and is kept, unless SMALL is set.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

SIDES = ("train", "test")
SEEN = "## Observations and limits"


def read(path: Path) -> dict | None:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def lines(path: Path) -> list[dict]:
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except (OSError, ValueError):
        return []


def rate(folder: Path) -> str:
    """Successes of an evaluation with Wilson's 95 % interval."""
    found = read(folder / "results.json")
    if not found:
        return "not run yet"
    s = found["all"]
    return f"{s['successes']}/{s['episodes']} ({100 * s['low']:.0f} to {100 * s['high']:.0f} %)"


def change(pair: dict | None) -> str:
    if not pair:
        return "not run yet"
    p = pair["all"]
    return f"{100 * p['difference']:+.0f} points ({100 * p['low']:+.0f} to {100 * p['high']:+.0f})"


def tried(runs: Path, policy: str, starts: str) -> list[str]:
    out = [
        "| demonstrations | fine-tuning steps | final loss | seconds | sampled, train side |",
        "| --- | --- | --- | --- | --- |",
    ]
    for start in starts.split():
        demos, steps = start.split(":")
        folder = runs / f"{policy}-sft-{demos}x{steps}"
        if folder.exists():
            last = [e for e in lines(folder / "events.jsonl") if e.get("type") == "imitated"]
            data = last[-1].get("data", {}) if last else {}
            loss, seconds = (f"{data[k]:.{n}f}" if k in data else "-" for k, n in (("loss", 3), ("seconds", 0)))
            sampled = rate(folder.with_name(f"{folder.name}-sampled"))
            out.append(f"| {demos} | {steps} | {loss} | {seconds} | {sampled} |")
    return out


def time(metrics: list[dict]) -> str:
    """The median times of an iteration and of its phases."""

    def middle(name: str) -> float:
        return statistics.median(m["seconds_by_phase"].get(name, 0) for m in metrics)

    seconds, episodes = statistics.median(m["seconds"] for m in metrics), metrics[0]["episodes"]
    acting = statistics.median(m.get("act_seconds", 0) for m in metrics)
    return (
        f"Median time of an iteration of {episodes} episodes ({len(metrics)} iterations): {seconds:.0f} s; "
        f"rollout {middle('rollout'):.0f} s, of which Act {acting:.0f} s; "
        f"update {middle('update'):.0f} s; commit {middle('commit'):.1f} s."
    )


def trained(runs: Path, policy: str, name: str) -> list[str]:
    """Success before and after one run of SRPO, and the course of the run."""
    out = ["| | before | after | paired difference |", "| --- | --- | --- | --- |"]
    for label, way in (("greedy", ""), ("sampled", "-as-sampled")):
        for side in SIDES:
            before, after = (rate(runs / f"{one}-{side}{way}") for one in (f"{policy}-before", f"{name}-after"))
            paired = change(read(runs / f"{name}-{side}{way}.json"))
            out.append(f"| {label}, {side} side | {before} | {after} | {paired} |")
    metrics = lines(runs / f"{name}-srpo" / "metrics.jsonl")
    if metrics:
        curve = ", ".join(f"{100 * m['success_rate']:.0f}" for m in metrics)
        updated = [m for m in metrics if m.get("updated")]
        ratios = [abs(m["first_ratio"] - 1) for m in updated if m.get("first_ratio") is not None]
        worst = ""
        if ratios:
            deviation = max(ratios)
            worst = f" The largest deviation of the ratio from 1 in the first mini-batch of an update: {deviation:.1e}."
        far = f" Final KL to the start: {updated[-1]['kl']:.2f} nats per chunk." if updated else ""
        out += ["", f"Sampled success by iteration, %: {curve}.{worst}{far} {time(metrics)}"]
    return [*out, ""]


def greedy(runs: Path, policy: str) -> str:
    """The change of greedy success over both sides, in points."""
    results = [
        [read(runs / f"{policy}-{when}-{side}" / "results.json") for side in SIDES] for when in ("before", "after")
    ]
    if not all(r for both in results for r in both):
        return f"{policy}: not run yet"
    successes = [sum(r["all"]["successes"] for r in both) for both in results]
    episodes = sum(r["all"]["episodes"] for r in results[0])
    points = 100 * (successes[1] - successes[0]) / episodes
    return f"{policy}: {points:+.0f} points ({successes[0]}/{episodes} before, {successes[1]}/{episodes} after)"


def section(runs: Path, policy: str, starts: str) -> list[str]:
    out = [f"## {policy}", "", *tried(runs, policy, starts), ""]
    chosen = runs / f"{policy}-start"
    if not chosen.exists():
        return [*out, "Not complete yet.", ""]
    start, references = chosen.read_text().split()
    demos, steps = start.split(":")
    out += [f"Chosen start: {demos} demonstrations, {steps} steps.", ""]
    if references == "demos":
        out[-2] += " No sampled episode of it succeeded, so the demonstrations are the references of the reward."
    found = sorted(p.name.removesuffix("-srpo") for p in runs.glob(f"{policy}-lr*-srpo"))
    for name in [policy, *found]:
        lr = name.removeprefix(f"{policy}-lr") if name != policy else ""
        if lr:
            out += [f"### Learning rate {lr}", ""]
        out += trained(runs, policy, name)
    return [*out, ""]


def main() -> None:
    runs, env, task, starts, *policies = Path(sys.argv[1]), *sys.argv[2:]
    commit = subprocess.run(["git", "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True).stdout.strip()
    command = "docs/results/openvla.sh" if env == "libero" else f"ENVIRONMENT={env} docs/results/openvla.sh"
    out = [
        f"# {' and '.join(policies).replace('openvla', 'OpenVLA-OFT')}, small and from random weights, on a CPU",
        "",
        "**Question.** Do demonstrations, fine-tuning, SRPO and export work together with the published architectures,",
        "and does SRPO improve the policy? The networks have few parameters and random weights, so the page does not",
        "show what these policies can do.",
        "",
        "**Result.** Greedy success, all start states, after minus before SRPO: "
        f"{'; '.join(greedy(runs, p) for p in policies)}.",
        "",
        f"Made by `{command}` at commit {commit}, seed 0, {os.cpu_count()} cores, {env},",
        f"`{task}`. The head of the script lists what was fixed before any result was seen. In brackets: 95 %",
        "intervals.",
        "",
    ]
    for policy in policies:
        out += section(runs, policy, starts)
    page = Path(__file__).with_name("openvla.md" if env == "libero" else f"openvla-{env}.md")
    if page.exists() and not os.environ.get("SMALL"):
        _, found, text = page.read_text().partition(SEEN)
        out += [found + text] if found else []
    print("\n".join(out), end="")


main()
