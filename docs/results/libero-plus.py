"""The page docs/results/libero-plus.md, from what docs/results/libero-plus.sh has measured so far.

python3 docs/results/libero-plus.py RUN-FOLDER
"""

import glob
import json
import os
import sys

VARIANTS, MEAN_STEPS = 10030, 331  # the whole benchmark, and the mean of its variants' most steps
HELD = """The contact sheet, looked at: cameras turn and rise, sentences change nothing in the picture, objects
move, the five kinds of noise differ, and the arm begins elsewhere in robot variants, visibly from the
third one on.

What tests hold, without any time worth a number:

- `tests/test_equality.py` of envs/libero-plus: 12 random actions after 3 waiting steps, libero_object's alphabet
  soup, both cameras at 256 x 256: joint positions, velocities, proprio, success and every drawn frame equal the
  benchmark's own environment to the last bit for a camera, a robot (with the arm's start kept, and overwritten as
  the benchmark does), a language, a motion blur, a fog and a layout variant, played by one process.
- `tests/test_noise.py`: motion, gaussian, zoom and fog at all ten strengths and glass at three equal the
  benchmark's functions pixel by pixel, given the same random numbers.
- `tests/test_variants.py`: 10,030 variants are listed, 6,983 of them run from packages."""


def read(path: str) -> str:
    if not os.path.exists(path):
        return ""
    with open(path) as file:
        return file.read()


def about(path: str) -> str:
    """At which commit and under which load a part was measured."""
    return read(path + ".about").strip()


def last_line(path: str) -> dict:
    lines = read(path).strip().splitlines()
    return json.loads(lines[-1]) if lines else {}


def bench(b: dict) -> list[str]:
    out = [
        f"{b['variants']} variants of one task, {b['steps']} steps each after 10 waiting steps, frames of "
        f"{b['size']} x {b['size']}: this plugin draws one every {b['chunk']} steps, the benchmark's environment "
        "one every step, as it always does. Resets and loading of scenes included; imports not. Load "
        f"{b['load']} before, {b['load_after']} after, {b['cores']} cores.",
        "",
        "| processes at once | this plugin, s | the benchmark's, s | times | episodes an hour | the benchmark's |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for r in b["rows"]:
        hourly = f"{r['ours_episodes_an_hour']} | {r['theirs_episodes_an_hour']}"
        out.append(f"| {r['processes']} | {r['ours_s']} | {r['theirs_s']} | {r['ratio']} | {hourly} |")
    least = min(r["ratio"] for r in b["rows"])
    out += ["", f"At least 3 times was asked for: {'met' if least >= 3 else 'missed'}."]
    r = b["rows"][-1]
    hours = VARIANTS * MEAN_STEPS / b["steps"] / r["ours_episodes_an_hour"] * r["processes"]
    out += [
        "",
        f"The full benchmark, {VARIANTS:,} episodes of {MEAN_STEPS} steps in the mean if none succeeds, is estimated "
        "from the last row, a process a core, without the policy's own time: "
        + ", ".join(f"{hours / n:.1f} hours on {n} cores" for n in (2, 8, 32, 128))
        + ".",
    ]
    return out


def rate(results: dict) -> str:
    """Episodes an hour of an evaluation that was rolled in one go."""
    if not results or results.get("rolled") != results["all"]["episodes"] or not results["seconds"]:
        return ""
    hourly = 3600 * results["rolled"] / results["seconds"]
    return f"\n\n{results['rolled']} episodes in {results['seconds']:.0f} s: {hourly:.0f} an hour, policy included."


def main(runs: str) -> None:
    out = [
        "# LIBERO-Plus on the CPU",
        "",
        "Made by `docs/results/libero-plus.sh`; what was fixed before any result was seen is in its head. Each part "
        "says at which commit, and how loaded the machine was.",
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
    learned = sorted(glob.glob(os.path.join(runs, "learn-*.txt"))) or [os.path.join(runs, "learn-camera.txt")]
    for path in learned:
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
        out += [f"Some of the {name} variants were trained on; of the other dimensions, none.", ""]
        results = json.loads(read(os.path.join(runs, f"transfer-{name}", "results.json")) or "{}")
        out += [f"```\n{text}\n```{rate(results)}", "", f"({about(path)})"]
    print("\n".join(out))


if __name__ == "__main__":
    main(sys.argv[1])
