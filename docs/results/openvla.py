"""Writes docs/results/openvla.md, or openvla-tabletop.md, from the folders of openvla.sh.

Usage: python3 docs/results/openvla.py RUNS ENV TASK STARTS POLICY...; standard library only.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

SIDES = ("train", "test")


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
        "| demonstrations | steps of fine-tuning | loss at its end | seconds | sampled, train side |",
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
    """Where an iteration's time went."""

    def middle(name: str) -> float:
        return statistics.median(m["seconds_by_phase"].get(name, 0) for m in metrics)

    seconds, episodes = statistics.median(m["seconds"] for m in metrics), metrics[0]["episodes"]
    acting = statistics.median(m.get("act_seconds", 0) for m in metrics)
    return (
        f"An iteration of {episodes} episodes took {seconds:.0f} s at the median of {len(metrics)}: "
        f"rollout {middle('rollout'):.0f} s, in which the policy acted for {acting:.0f} s, "
        f"update {middle('update'):.0f} s, commit {middle('commit'):.1f} s."
    )


def trained(runs: Path, policy: str, name: str) -> list[str]:
    """Before and after one run of SRPO, and how it went."""
    out = ["| | before | after | paired difference |", "| --- | --- | --- | --- |"]
    for words, way in (("greedy", ""), ("sampled", "-as-sampled")):
        for side in SIDES:
            before, after = (rate(runs / f"{one}-{side}{way}") for one in (f"{policy}-before", f"{name}-after"))
            paired = change(read(runs / f"{name}-{side}{way}.json"))
            out.append(f"| {words}, {side} side | {before} | {after} | {paired} |")
    metrics = lines(runs / f"{name}-srpo" / "metrics.jsonl")
    if metrics:
        curve = ", ".join(f"{100 * m['success_rate']:.0f}" for m in metrics)
        updated = [m for m in metrics if m.get("updated")]
        ratios = [abs(m["first_ratio"] - 1) for m in updated if m.get("first_ratio") is not None]
        worst = f" The ratio of an update's first mini-batch was 1 within {max(ratios):.1e}." if ratios else ""
        far = f" KL to the start, nats a chunk: {updated[-1]['kl']:.2f} at the end." if updated else ""
        out += ["", f"Sampled success by iteration, %: {curve}.{worst}{far} {time(metrics)}"]
    return [*out, ""]


def section(runs: Path, policy: str, starts: str) -> list[str]:
    out = [f"## {policy}", "", *tried(runs, policy, starts), ""]
    chosen = runs / f"{policy}-start"
    if not chosen.exists():
        return [*out, "Not finished yet.", ""]
    start, references = chosen.read_text().split()
    demos, steps = start.split(":")
    out += [f"The start: demonstrations {demos}, steps {steps}.", ""]
    if references == "demos":
        out[-2] += " It never succeeded when sampled: failures are measured by the demonstrations."
    found = sorted(p.name.removesuffix("-srpo") for p in runs.glob(f"{policy}-lr*-srpo"))
    for name in [policy, *found]:
        lr = name.removeprefix(f"{policy}-lr") if name != policy else ""
        if lr:
            out += [f"### The same with a learning rate of {lr}", ""]
        out += trained(runs, policy, name)
    return [*out, ""]


def main() -> None:
    runs, env, task, starts, *policies = Path(sys.argv[1]), *sys.argv[2:]
    commit = subprocess.run(["git", "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True).stdout.strip()
    command = "docs/results/openvla.sh" if env == "libero" else f"ENVIRONMENT={env} docs/results/openvla.sh"
    out = [
        f"# {' and '.join(policies).replace('openvla', 'OpenVLA-OFT')}, small and from random weights, on a CPU",
        "",
        f"Made by `{command}` at commit {commit}, seed 0, {os.cpu_count()} cores, {env}, `{task}`;",
        "its head says what was fixed before. Networks of the true architectures with few and random weights: what is",
        "shown is that demonstrations, fine-tuning, SRPO and export work together, not what these policies can do.",
        "In brackets: 95 % intervals.",
        "",
    ]
    for policy in policies:
        out += section(runs, policy, starts)
    print("\n".join(out), end="")


main()
