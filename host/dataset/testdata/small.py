"""Writes small LeRobot data sets with the faults of real ones: small.py OUT SPEC.

SPEC is JSON: {"version": "v2.1" | "v3.0", "instructions": [...], "episodes": [{"tasks": [task_index per frame] (none:
no such column), "labels": [next.success per frame], "listed": [instructions in the metadata]}], "files": [[[episode,
first, end]...]...]: the rows of each file, "named": [the file of each episode in the metadata], "depth": "mark" |
"tiff" | "video", "videos": bool}. By default file N has episode N. Action and state of frame T of episode N are [N, T];
a video has the brightness 10 T. The feature depth is an image column, marked or not, or (in v3.0) a video of 12 bits.
"""

import io
import json
import sys
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

out, spec = Path(sys.argv[1]), json.loads(sys.argv[2])
v3 = spec["version"] == "v3.0"
episodes = spec["episodes"]
files = spec.get("files") or [[[n, 0, len(e["labels"])]] for n, e in enumerate(episodes)]
named = spec.get("named") or list(range(len(episodes)))
DATA = "data/chunk-000/" + ("file-{:03d}.parquet" if v3 else "episode_{:06d}.parquet")
VIDEO = "videos/{}/chunk-000/file-{:03d}.mp4" if v3 else "videos/chunk-000/{}/episode_{:06d}.mp4"
depth = spec.get("depth")
films = ["front"] * bool(spec.get("videos")) + ["depth"] * (depth == "video")


def tiff(value):
    b = io.BytesIO()
    Image.fromarray(np.full((8, 8), 1000 + value, np.uint16)).save(b, "tiff")
    return {"bytes": b.getvalue(), "path": None}


def rows(n, first, end):
    e, steps = episodes[n], range(first, end)
    vectors = [[float(n), float(t)] for t in steps]
    columns = {
        "action": pa.array(vectors, pa.list_(pa.float32(), 2)),
        "observation.state": pa.array(vectors, pa.list_(pa.float32(), 2)),
        "next.success": pa.array([e["labels"][t] for t in steps], pa.bool_()),
        "frame_index": pa.array(steps, pa.int64()),
        "episode_index": pa.array([n for _ in steps], pa.int64()),
    }
    if "tasks" in e:
        columns["task_index"] = pa.array([e["tasks"][t] for t in steps], pa.int64())
    if depth in ("mark", "tiff"):
        columns["depth"] = pa.array([tiff(t) for t in steps])
    return pa.table(columns)


def video(path, brightness, deep):
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="matroska" if deep else "mp4") as c:
        stream = c.add_stream("ffv1" if deep else "libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "gray12le" if deep else "yuv420p"
        stream.options = {} if deep else {"crf": "4", "g": "2"}
        for b in brightness:
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), b, np.uint8), format="rgb24")
            c.mux(stream.encode(frame.reformat(format=stream.pix_fmt)))
        c.mux(stream.encode())


(out / "data/chunk-000").mkdir(parents=True)
(out / "meta/episodes/chunk-000").mkdir(parents=True)
for k, parts in enumerate(files):
    pq.write_table(pa.concat_tables([rows(*p) for p in parts]), out / DATA.format(k))
lengths = [len(e["labels"]) for e in episodes]
starts = [sum(lengths[:n]) for n in range(len(lengths))]
meta = [{"episode_index": n, "length": lengths[n]} for n in range(len(episodes))]
for n, e in enumerate(episodes):
    if "listed" in e:
        meta[n]["tasks"] = e["listed"]
if v3:
    for n, m in enumerate(meta):
        m |= {"data/chunk_index": 0, "data/file_index": named[n]}
        place = {"chunk_index": 0, "file_index": 0, "from_timestamp": starts[n] / 10}
        m |= {f"videos/{film}/{k}": v for k, v in place.items() for film in films}
    pq.write_table(pa.Table.from_pylist(meta), out / "meta/episodes/chunk-000/file-000.parquet")
    tasks = {"task_index": list(range(len(spec["instructions"]))), "task": spec["instructions"]}
    pq.write_table(pa.table(tasks), out / "meta/tasks.parquet")
else:
    tasks = [{"task_index": i, "task": t} for i, t in enumerate(spec["instructions"])]
    for name, objects in (("tasks", tasks), ("episodes", meta)):
        text = "".join(json.dumps(x, ensure_ascii=False) + "\n" for x in objects)
        (out / f"meta/{name}.jsonl").write_text(text, encoding="utf-8")
for film in films:
    parts = [lengths] if v3 else [[n] for n in lengths]
    for k, part in enumerate(parts):
        video(out / VIDEO.format(film, k), [10 * t for n in part for t in range(n)], film == "depth")
numbers = {"dtype": "float32", "shape": [2], "names": None}
features = {"action": numbers, "observation.state": numbers, "next.success": {"dtype": "bool", "shape": [1]}}
features |= {film: {"dtype": "video", "shape": [32, 32, 3]} for film in films}
if depth in ("mark", "tiff"):
    features["depth"] = {"dtype": "image", "shape": [8, 8, 1], "info": {"is_depth_map": depth == "mark"}}
info = {"codebase_version": spec["version"], "fps": 10, "features": features}
(out / "meta/info.json").write_text(json.dumps(info))
