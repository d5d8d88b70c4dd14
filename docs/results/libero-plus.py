"""Prints docs/results/libero-plus.md from the results of docs/results/libero-plus.sh so far.

Usage: python3 docs/results/libero-plus.py RUN-FOLDER; standard library only.
"""

import glob
import json
import os
import re
import sys

VARIANTS, MEAN_STEPS = 10030, 331  # variants of the full benchmark, and the mean of their maximum steps
HELD = """The contact sheet shows what each dimension changes. Cameras turn and rise. Sentences change nothing in the
picture. Objects move. The five kinds of noise differ. In robot variants the arm starts in another position, visibly
from the third one on.

The tests of envs/libero-plus check:

- `tests/test_equality.py`: 12 random actions after 3 waiting steps on libero_object's alphabet soup, both cameras at
  256 x 256. Joint positions, velocities, proprio, success and every rendered frame equal those of the benchmark's own
  environment bit for bit, for a camera, a robot (with the arm's start kept, and overwritten as in the benchmark), a
  language, a motion blur, a fog and a layout variant, executed by one process.
- `tests/test_noise.py`: motion, gaussian, zoom and fog at all ten strengths and glass at three equal the benchmark's
  functions pixel by pixel, given the same random numbers.
- `tests/test_variants.py`: 10,030 variants are listed, and 6,983 of them run from packages."""


def read(path: str) -> str:
    if not os.path.exists(path):
        return ""
    with open(path) as file:
        return file.read()


def about(path: str) -> str:
    """The commit and the load at which a part was measured."""
    return read(path + ".about").strip()


def last_line(path: str) -> dict:
    lines = read(path).strip().splitlines()
    return json.loads(lines[-1]) if lines else {}


def bench(b: dict) -> list[str]:
    out = [
        f"{b['variants']} variants of one task, {b['steps']} steps each after 10 waiting steps, frames of "
        f"{b['size']} x {b['size']}. This plugin renders one frame every {b['chunk']} steps, and the benchmark's "
        "environment renders every step. The times include resets and the loading of scenes, not imports. Load "
        f"{b['load']} before, {b['load_after']} after, {b['cores']} cores.",
        "",
        "| processes | this plugin, s | benchmark, s | ratio | episodes per hour | benchmark |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for r in b["rows"]:
        hourly = f"{r['ours_episodes_an_hour']} | {r['theirs_episodes_an_hour']}"
        out.append(f"| {r['processes']} | {r['ours_s']} | {r['theirs_s']} | {r['ratio']} | {hourly} |")
    least = min(r["ratio"] for r in b["rows"])
    out += ["", f"A ratio of at least 3 was required: {'met' if least >= 3 else 'missed'}."]
    r = b["rows"][-1]
    hours = VARIANTS * MEAN_STEPS / b["steps"] / r["ours_episodes_an_hour"] * r["processes"]
    out += [
        "",
        f"Estimate for the full benchmark, from the last row, with one process per core and without the policy's time "
        f"({VARIANTS:,} episodes of {MEAN_STEPS} steps on average if none succeeds): "
        + ", ".join(f"{hours / n:.1f} hours on {n} cores" for n in (2, 8, 32, 128))
        + ".",
    ]
    return out


def rate(results: dict) -> str:
    """Episodes per hour of an evaluation that ran without an interruption."""
    if not results or results.get("rolled") != results["all"]["episodes"] or not results["seconds"]:
        return ""
    hourly = 3600 * results["rolled"] / results["seconds"]
    return f"\n\n{results['rolled']} episodes in {results['seconds']:.0f} s: {hourly:.0f} per hour, policy included."


def conclusion(runs: str) -> str:
    """One sentence: the speed, and the change on held-out variants."""
    parts = []
    if rows := last_line(os.path.join(runs, "bench.json")).get("rows"):
        ratios = [r["ratio"] for r in rows]
        parts.append(f"This plugin is {min(ratios)} to {max(ratios)} times as fast as the benchmark's environment")
    for path in sorted(glob.glob(os.path.join(runs, "learn-*.txt"))):
        name = os.path.basename(path)[len("learn-") : -len(".txt")]
        if found := re.search(r"^[AB] is ahead of [AB] by .*?\)", read(path), re.M):
            parts.append(f"on held-out {name} variants, before (A) and after (B) SRPO: {found[0]}")
    return "; ".join(parts) + "." if parts else "Not measured yet."


def main(runs: str) -> None:
    out = [
        "# LIBERO-Plus on the CPU",
        "",
        "**Question.** How fast is LIBERO-Plus on a CPU, and which of its dimensions does SRPO improve?",
        "",
        f"**Result.** {conclusion(runs)}",
        "",
        "Made by `docs/results/libero-plus.sh`, seed 0. The head of the script lists what was fixed before any result",
        "was seen. Each part names its commit and the load of the machine.",
    ]
    if os.path.exists("docs/img/libero-plus.jpg"):
        out += ["", "![variants of one task in the dimensions that run from packages](../img/libero-plus.jpg)"]
    out += ["", HELD]
    out += ["", "## Time against the benchmark's own environment", ""]
    path = os.path.join(runs, "bench.json")
    out += [*bench(last_line(path)), "", f"({about(path)})"] if read(path) else ["Not run yet."]
    out += ["", "## Memory over resets of mixed variants", ""]
    path = os.path.join(runs, "memory.json")
    if read(path):
        m = last_line(path)
        out += ["| resets | scenes loaded | resident, MB |", "| --- | --- | --- |"]
        out += [f"| {r['resets']} | {r['scenes_loaded']} | {r['mb']} |" for r in m["rows"]]
        out += ["", f"One lane, `keep_scenes = {m['scenes']}`, {m['seconds']} s ({about(path)})."]
    else:
        out += ["Not run yet."]
    out += ["", "## A one-shot policy on a stratified sample", ""]
    path = os.path.join(runs, "sample.txt")
    if read(path):
        results = json.loads(read(os.path.join(runs, "sample", "results.json")) or "{}")
        out += [f"```\n{read(path).rstrip()}\n```{rate(results)}", "", f"({about(path)})"]
    else:
        out += ["Not run yet."]
    trained = sorted(glob.glob(os.path.join(runs, "learn-*.txt"))) or [os.path.join(runs, "learn-camera.txt")]
    for path in trained:
        name = os.path.basename(path)[len("learn-") : -len(".txt")]
        out += ["", f"## SRPO on {name} variants, held-out variants before (A) and after (B)", ""]
        text = read(path).replace(os.path.abspath(runs), "runs/libero-plus").rstrip()
        out += [f"```\n{text}\n```", "", f"({about(path)})"] if text else ["Not run yet."]
        if rows := read(os.path.join(runs, f"learn-{name}", "metrics.jsonl")).splitlines():
            out += ["", "| iteration | sampled success, % | episodes |", "| --- | --- | --- |"]
            for line in rows:
                r = json.loads(line)
                if r.get("iteration"):
                    out.append(f"| {r['iteration']} | {100 * r['success_rate']:.1f} | {r['episodes']} |")
    for path in sorted(glob.glob(os.path.join(runs, "transfer-*.txt"))):
        name = os.path.basename(path)[len("transfer-") : -len(".txt")]
        text = read(path).replace(os.path.abspath(runs), "runs/libero-plus").rstrip()
        out += ["", f"## The sample's episodes, one-shot (A) and after learning on {name} variants (B)", ""]
        out += [f"Some of the {name} variants were trained on, and no variant of the other dimensions.", ""]
        results = json.loads(read(os.path.join(runs, f"transfer-{name}", "results.json")) or "{}")
        out += [f"```\n{text}\n```{rate(results)}", "", f"({about(path)})"]
    out += ["", "## Limits", ""]
    out += ["One task, one seed and one policy. Two dimensions need an archive of assets and were not run."]
    out += ["The published numbers come from other weights and machines."]
    print("\n".join(out))


if __name__ == "__main__":
    main(sys.argv[1])
