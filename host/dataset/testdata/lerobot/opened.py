"""In lerobot's environment: opens what srpo exported with lerobot's reader, and reads with srpo's what lerobot wrote.

    opened.py RECORDING EXPORTED READ.PY WORK COMMIT

RECORDING is a folder of `srpo record --trajectories`, EXPORTED what `srpo data export` made of it, READ.PY srpo's
reader, WORK an empty folder. Prints docs/results/parity-datasets.md; 1 at the end: something differs.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset

recording, exported, reader, work, commit = sys.argv[1:]
NAMES = {"actions": "action", "proprio": "observation.state"}  # ours, theirs
FPS = json.loads((Path(exported) / "meta/info.json").read_text())["fps"]
PIXELS = 8.0  # most mean difference of a frame from what was recorded, of 255: videos lose some
rows, failed = [], 0


def episodes():
    """What was recorded: a list of dicts with actions, proprio, image.CAMERA, instruction and success."""
    out = []
    for file in sorted(Path(recording, "trajectories").glob("*.npz")):
        told = json.loads(file.with_suffix(".json").read_text())
        out.append({**np.load(file), "instruction": told["instruction"], "success": bool(told["success"])})
    return out


def check(what, largest, most):
    global failed
    failed += not largest <= most
    rows.append(f"| {what} | {largest:.2g} | {most:.2g} |")


def same(what, ours, theirs):
    check(what, 0 if ours == theirs else float("inf"), 0)


def apart(ours, theirs):
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    return float(np.abs(ours - theirs).max()) if ours.shape == theirs.shape else float("inf")


def pixels(ours, theirs):
    """Mean difference of the worst frame, uint8 [T, H, W, 3] both."""
    if ours.shape != theirs.shape:
        return float("inf")
    return float(np.abs(ours.astype(np.float64) - theirs).mean((1, 2, 3)).max())


def find(recorded, actions):
    """The recorded episode with these actions: export and recording need not have one order."""
    for e in recorded:
        if e["actions"].shape == actions.shape and np.array_equal(e["actions"], actions):
            return e
    raise SystemExit("an episode of the data set has actions that were not recorded")


recorded = episodes()
cameras = [k.removeprefix("image.") for k in recorded[0] if k.startswith("image.")]

# lerobot opens what srpo wrote.
theirs = LeRobotDataset("local/exported", root=exported, video_backend="pyav", return_uint8=True)
same("episodes", theirs.num_episodes, len(recorded))
same("frames", len(theirs), sum(len(e["actions"]) for e in recorded))
worst = dict.fromkeys(["action", "observation.state", "timestamp", *cameras], 0.0)
tasks = successes = True
for n in range(theirs.num_episodes):
    span = theirs.meta.episodes[n]
    frames = [theirs[i] for i in range(span["dataset_from_index"], span["dataset_to_index"])]
    e = find(recorded, np.stack([f["action"].numpy() for f in frames]))
    for own, name in NAMES.items():
        worst[name] = max(worst[name], apart(e[own], np.stack([f[name].numpy() for f in frames])))
    worst["timestamp"] = max(
        worst["timestamp"], apart(np.arange(len(frames)) / FPS, [float(f["timestamp"]) for f in frames])
    )
    for camera in cameras:
        seen = np.stack([f[f"observation.images.{camera}"].numpy().transpose(1, 2, 0) for f in frames])
        worst[camera] = max(worst[camera], pixels(e[f"image.{camera}"], seen))
    tasks &= all(f["task"] == e["instruction"] for f in frames)
    successes &= any(bool(f["next.success"]) for f in frames) == e["success"]
check("actions", worst["action"], 0)
check("proprio", worst["observation.state"], 0)
check("times, s", worst["timestamp"], 1e-4)  # lerobot's own tolerance
for camera in cameras:
    check(f"frames of {camera}, mean of 255", worst[camera], PIXELS)
same("tasks", tasks, True)
same("successes", successes, True)
every = np.concatenate([e["actions"] for e in recorded]).astype(np.float64)
stats = theirs.meta.stats["action"]
check(
    "statistics: mean and std of actions",
    max(apart(every.mean(0), stats["mean"]), apart(every.std(0), stats["std"])),
    1e-5,
)
# A chunk of actions, as a policy's training asks for it.
chunk = LeRobotDataset(
    "local/exported", root=exported, video_backend="pyav", delta_timestamps={"action": [t / FPS for t in range(8)]}
)
check("a chunk of 8 actions", apart(theirs.hf_dataset[:8]["action"][7], chunk[0]["action"][7]), 0)
first = len(rows)

# srpo reads what lerobot wrote.
_, height, width, _ = recorded[0][f"image.{cameras[0]}"].shape
features = {
    theirs_: {"dtype": "float32", "shape": (recorded[0][own].shape[1],), "names": None}
    for own, theirs_ in NAMES.items()
}
features |= {
    f"observation.images.{c}": {"dtype": "video", "shape": (height, width, 3), "names": ["height", "width", "channels"]}
    for c in cameras
}
features["next.success"] = {"dtype": "bool", "shape": (1,), "names": None}
made = LeRobotDataset.create("local/made", fps=FPS, features=features, root=Path(work) / "made")
for e in recorded:
    steps = len(e["actions"])
    for t in range(steps):
        frame = {name: e[own][t] for own, name in NAMES.items()} | {
            f"observation.images.{c}": e[f"image.{c}"][t] for c in cameras
        }
        made.add_frame(frame | {"next.success": np.array([e["success"] and t == steps - 1]), "task": e["instruction"]})
    made.save_episode()
made.finalize()

ours = subprocess.Popen([sys.executable, reader], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def ask(**request):
    ours.stdin.write(json.dumps(request).encode() + b"\n")
    ours.stdin.flush()
    answer = json.loads(ours.stdout.readline())
    if "problem" in answer:
        raise SystemExit(f"srpo's reader: {answer}")
    arrays = {}
    for a in answer.get("arrays", []):
        kind, shape = np.dtype(a["dtype"]), a["shape"]
        size = kind.itemsize * int(np.prod(shape))
        arrays[a["name"]] = np.frombuffer(ours.stdout.read(size), kind).reshape(shape)
    return answer, arrays


told, _ = ask(open=str(Path(work) / "made"), success="auto")
same("episodes", len(told["episodes"]), len(recorded))
worst = dict.fromkeys([*NAMES, *cameras], 0.0)
tasks = successes = True
for n, (e, episode) in enumerate(zip(recorded, told["episodes"], strict=False)):
    _, got = ask(episode=n, columns=list(NAMES.values()), images=[f"observation.images.{c}" for c in cameras], every=1)
    for own, name in NAMES.items():
        worst[own] = max(worst[own], apart(e[own], got[name]))
    for camera in cameras:
        worst[camera] = max(worst[camera], pixels(e[f"image.{camera}"], got[f"observation.images.{camera}"]))
    tasks &= episode["task"] == e["instruction"]
    successes &= episode["success"] == e["success"]
ours.stdin.close()
check("actions", worst["actions"], 0)
check("proprio", worst["proprio"], 0)
for camera in cameras:
    check(f"frames of {camera}, mean of 255", worst[camera], PIXELS)
same("tasks", tasks, True)
same("successes", successes, True)

head = "| what | difference | allowed |\n| --- | ---: | ---: |\n"
print(
    "# LeRobot data sets compared with lerobot\n\n**Question.** Does lerobot read what srpo writes, and does srpo read "
    f"what lerobot writes?\n\n**Result.** {len(rows) - failed} of {len(rows)} differences are within the allowed "
    f"difference.\n\nMade by `make parity` at commit {commit}, lerobot 0.6.1, {len(recorded)} episodes of tabletop, "
    f"{sum(e['success'] for e in recorded)} successes.\n\n## lerobot reads what `srpo data export` wrote\n\n{head}"
    + "\n".join(rows[:first])
    + f"\n\n## srpo reads what lerobot wrote\n\n{head}"
    + "\n".join(rows[first:])
    + "\n\n## Limits\n\nThe videos are compressed, so frames differ slightly. Other versions of lerobot were not tried."
)
sys.exit(failed > 0)
