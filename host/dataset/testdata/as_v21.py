"""Converts a LeRobot data set from v3.0 to v2.1: as_v21.py FROM TO. One camera becomes a column of images."""

import io
import json
import sys
from pathlib import Path

import av
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

source, out = Path(sys.argv[1]), Path(sys.argv[2])
info = json.loads((source / "meta/info.json").read_text())
(out / "meta").mkdir(parents=True)
(out / "data/chunk-000").mkdir(parents=True)
tasks = pq.read_table(source / "meta/tasks.parquet").to_pylist()
episodes = pq.read_table(source / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
with open(out / "meta/tasks.jsonl", "w") as f:
    f.writelines(json.dumps(t) + "\n" for t in tasks)
with open(out / "meta/episodes.jsonl", "w") as f:
    f.writelines(json.dumps({k: e[k] for k in ("episode_index", "tasks", "length")}) + "\n" for e in episodes)
rows = pq.read_table(source / "data/chunk-000/file-000.parquet")
cameras = [k for k, f in info["features"].items() if f["dtype"] == "video"]
frames = {}
for key in cameras:
    with av.open(str(source / f"videos/{key}/chunk-000/file-000.mp4")) as c:
        frames[key] = [f.to_ndarray(format="rgb24") for f in c.decode(video=0)]
pictures, film = cameras[0], cameras[1]
info["features"][pictures]["dtype"] = "image"


def png(a):
    b = io.BytesIO()
    Image.fromarray(a).save(b, "png")
    return {"bytes": b.getvalue(), "path": None}


for e in episodes:
    n, span = e["episode_index"], slice(e["dataset_from_index"], e["dataset_to_index"])
    part = rows.slice(span.start, e["length"])
    part = part.append_column(pictures, pa.array([png(a) for a in frames[pictures][span]]))
    pq.write_table(part, out / f"data/chunk-000/episode_{n:06d}.parquet")
    path = out / f"videos/chunk-000/{film}/episode_{n:06d}.mp4"
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as c:
        height, width, _ = frames[film][0].shape
        stream = c.add_stream("libx264", rate=info["fps"])
        stream.width, stream.height, stream.pix_fmt, stream.options = width, height, "yuv420p", {"crf": "10"}
        for a in frames[film][span]:
            c.mux(stream.encode(av.VideoFrame.from_ndarray(a, format="rgb24")))
        c.mux(stream.encode())
info["codebase_version"] = "v2.1"
info["data_path"] = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
info["video_path"] = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
(out / "meta/info.json").write_text(json.dumps(info))
