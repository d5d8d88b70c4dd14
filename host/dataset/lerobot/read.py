"""Reads LeRobot data sets (v2.0, v2.1 and v3.0) for srpo: requests on stdin, replies on stdout, one line of JSON each.

    {"open": FOLDER, "success": "auto" | "all" | "none" | FEATURE}
        -> {"version", "fps", "features": {NAME: {"dtype", "shape", "names"}}, "episodes": [{"id", "task", "steps",
            "success"}]}
    {"episode": N, "columns": [NAME...], "images": [NAME...], "every": K}
        -> {"arrays": [{"name", "dtype", "shape"}...]} and their bytes: columns float32 [T, D], images uint8
           [ceil(T / K), H, W, 3], every K-th frame starting with the first
    -> {"problem": REASON, "hint": REMEDY} instead, if the request fails

The program ends when stdin is closed.
"""

import io
import json
import os
import queue
import sys
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

MAX_BYTES = 4 << 30  # of the arrays of one reply
LEGACY_DATA = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
LEGACY_VIDEO = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"


class Unusable(Exception):
    """A request that fails. The message is the reason, the hint a remedy."""

    def __init__(self, reason, hint="copy the data set again, or leave the episode out"):
        super().__init__(reason)
        self.hint = hint


def table(path, columns=None, filters=None):
    """Returns a pyarrow table of a parquet file. Raises Unusable if it cannot be read."""
    try:
        return pq.read_table(path, columns=columns, filters=filters, partitioning=None)
    except FileNotFoundError:
        raise Unusable(f"{path} is missing") from None
    except (OSError, pa.ArrowException) as e:
        raise Unusable(f"{path} cannot be read: {' '.join(str(e).split())}") from None


def lines(path):
    """Returns the objects in a .jsonl file. Raises Unusable if it cannot be read."""
    try:
        return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    except FileNotFoundError:
        raise Unusable(f"{path} is missing") from None
    except ValueError as e:
        raise Unusable(f"{path} cannot be read: {e}") from None


class DataSet:
    """The folder of a data set.

    ``episodes`` locates the rows and frames of each episode: a list of {"index", "steps", "task", "data": path of the
    rows, "videos": {feature: (path, start in seconds)}}.
    """

    def __init__(self, folder):
        self.root = Path(folder)
        try:
            self.info = json.loads((self.root / "meta" / "info.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as e:
            raise Unusable(f"meta/info.json cannot be read: {e}") from None
        self.version = str(self.info.get("codebase_version", "")).lstrip("v")
        self.features = self.info.get("features")
        self.fps = self.info.get("fps") or 0
        if not isinstance(self.features, dict) or not self.fps > 0:
            raise Unusable("meta/info.json lacks features or fps", "give the folder of a LeRobot data set")
        if self.version.startswith("3."):
            self._episodes_v3()
        elif self.version in ("2.0", "2.1"):
            self._episodes_v2()
        else:
            raise Unusable(
                f"codebase_version is {self.info.get('codebase_version')!r}, not v2.0, v2.1 or v3.0",
                "convert the data set with the scripts of lerobot",
            )
        self.files = {}  # parquet tables kept open: path -> table

    def _episodes_v2(self):
        size = self.info.get("chunks_size", 1000)
        data, video = self.info.get("data_path") or LEGACY_DATA, self.info.get("video_path") or LEGACY_VIDEO
        self.tasks = {t["task_index"]: t["task"] for t in lines(self.root / "meta" / "tasks.jsonl")}
        self.episodes = []
        for e in lines(self.root / "meta" / "episodes.jsonl"):
            n = e["episode_index"]
            where = {"episode_chunk": n // size, "episode_index": n}
            videos = {
                key: (video.format(video_key=key, **where), 0.0) for key, f in self.features.items() if is_video(f)
            }
            task = (e.get("tasks") or [""])[0]
            self.episodes.append(
                {"index": n, "steps": e["length"], "task": task, "data": data.format(**where), "videos": videos}
            )

    def _episodes_v3(self):
        data, video = self.info.get("data_path") or DATA, self.info.get("video_path") or VIDEO
        self.tasks = {}
        rows = table(self.root / "meta" / "tasks.parquet").to_pylist()
        for row in rows:  # the instruction is the index of a pandas table, whose name can vary
            instructions = [v for k, v in row.items() if k != "task_index"]
            self.tasks[row["task_index"]] = instructions[0] if instructions else ""
        keys = [key for key, f in self.features.items() if is_video(f)]
        wanted = ["episode_index", "length", "tasks", "data/chunk_index", "data/file_index"]
        for key in keys:
            wanted += [f"videos/{key}/{x}" for x in ("chunk_index", "file_index", "from_timestamp")]
        self.episodes = []
        files = sorted((self.root / "meta" / "episodes").glob("*/*.parquet"))
        if not files:
            raise Unusable("meta/episodes contains no parquet file")
        for path in files:
            have = set(pq.read_schema(path).names)
            missing = [c for c in wanted if c not in have and c != "tasks"]
            if missing:
                raise Unusable(f"{path} lacks {', '.join(missing)}")
            for row in table(path, [c for c in wanted if c in have]).to_pylist():

                def place(prefix, row=row):
                    return {"chunk_index": row[prefix + "/chunk_index"], "file_index": row[prefix + "/file_index"]}

                videos = {
                    key: (
                        video.format(video_key=key, **place(f"videos/{key}")),
                        row[f"videos/{key}/from_timestamp"] or 0.0,
                    )
                    for key in keys
                }
                self.episodes.append(
                    {
                        "index": row["episode_index"],
                        "steps": row["length"],
                        "task": (row.get("tasks") or [""])[0],
                        "data": data.format(**place("data")),
                        "videos": videos,
                    }
                )
        self.episodes.sort(key=lambda e: e["index"])

    def rows(self, episode, columns):
        """Returns a pyarrow table of the episode's rows in the order of frame_index."""
        path = self.root / episode["data"]
        if not path.is_file():
            raise Unusable(f"{episode['data']} is missing")
        have = pq.read_schema(path).names
        missing = [c for c in columns if c not in have]
        if missing:
            raise Unusable(f"{episode['data']} has no column {', '.join(missing)}, only {', '.join(have)}")
        out = table(path, [*columns, "frame_index"], [("episode_index", "=", episode["index"])])
        if out.num_rows != episode["steps"]:
            raise Unusable(f"{episode['data']} has {out.num_rows} of {episode['steps']} rows")
        return out.sort_by("frame_index")

    def successes(self, choice):
        """Returns {episode index: success}. choice is auto, all, none or the name of a feature."""
        if choice == "auto":
            choice = "next.success" if "next.success" in self.features else "all"
        if choice in ("all", "none"):
            return {e["index"]: choice == "all" for e in self.episodes}
        if choice not in self.features:
            raise Unusable(
                f"there is no feature {choice!r}, only {', '.join(self.features)}",
                "use --set data.success=FEATURE, all or none",
            )
        out = {e["index"]: False for e in self.episodes}
        for path in sorted({e["data"] for e in self.episodes}):
            t = table(self.root / path, ["episode_index", choice])
            for n, v in zip(t["episode_index"].to_pylist(), t[choice].to_pylist()):
                v = v[0] if isinstance(v, list) else v
                out[n] = out.get(n, False) or bool(v)
        return out

    def column(self, rows, name):
        """Returns a column as float32 [T, D]. Raises Unusable if a value is not finite."""
        values = np.asarray(rows[name].to_pylist(), np.float32)
        values = values.reshape(len(values), -1)
        if not np.isfinite(values).all():
            raise Unusable(f"column {name} contains NaN or infinity", "leave the episode out")
        return values

    def images(self, episode, rows, name, every):
        """Returns every ``every``-th frame of a camera, uint8 [ceil(T / every), H, W, 3]."""
        if name in episode["videos"]:
            path, start = episode["videos"][name]
            return self.video(path, start, episode["steps"], every)
        from PIL import Image

        out = []
        for cell in rows[name].to_pylist()[::every]:
            raw = cell.get("bytes") if isinstance(cell, dict) else None
            if raw is None and isinstance(cell, dict) and cell.get("path"):
                path = self.root / cell["path"]
                if not path.is_file():
                    raise Unusable(f"{cell['path']} is missing")
                raw = path.read_bytes()
            if raw is None:
                raise Unusable(f"column {name} contains no images")
            try:
                out.append(np.asarray(Image.open(io.BytesIO(raw)).convert("RGB")))
            except Exception as e:  # Pillow raises many types for broken images
                raise Unusable(f"an image of {name} does not decode: {e}") from None
        return np.stack(out)

    def video(self, name, start, steps, every):
        """Returns the frames 0, every, 2 * every, ... of an episode, uint8 [ceil(steps / every), H, W, 3].

        The episode begins at ``start`` seconds of the video file ``name``. Frames are found by their time and the rate
        of the data set.
        """
        import av

        path = self.root / name
        if not path.is_file():
            raise Unusable(f"{name} is missing")
        found = {}
        last = (steps - 1) // every * every
        try:
            with av.open(str(path)) as container:
                stream = container.streams.video[0]
                stream.codec_context.thread_count = 1
                if start > 0:
                    container.seek(int(start / stream.time_base), stream=stream)
                for frame in container.decode(stream):
                    k = round((float(frame.pts * stream.time_base) - start) * self.fps)
                    if k > last:
                        break
                    if k >= 0 and k % every == 0:
                        found[k] = frame.to_ndarray(format="rgb24")
        except (OSError, IndexError, av.FFmpegError) as e:
            raise Unusable(f"{name} does not decode: {' '.join(str(e).split()) or type(e).__name__}") from None
        missing = [k for k in range(0, steps, every) if k not in found]
        if missing:
            raise Unusable(f"{name} lacks frame {missing[0]} of the episode that begins at {start:g} s")
        return np.stack([found[k] for k in range(0, steps, every)])


def is_video(feature):
    return feature.get("dtype") == "video"


def open_data_set(request):
    """Returns the data set and the reply to {"open"}."""
    data = DataSet(request["open"])
    success = data.successes(request["success"])
    episodes = []
    for e in data.episodes:
        episodes.append(
            {
                "id": f"episode-{e['index']:06d}",
                "task": e["task"],
                "steps": e["steps"],
                "success": success[e["index"]],
            }
        )
    features = {}
    for k, f in data.features.items():
        features[k] = {"dtype": f.get("dtype"), "shape": f.get("shape"), "names": names(f)}
    return data, {"version": data.version, "fps": data.fps, "features": features, "episodes": episodes}


def names(feature):
    """Returns a feature's names as a list of str, or None. Some data sets have them in an object of lists."""
    n = feature.get("names")
    if isinstance(n, dict):
        n = next(iter(n.values()), None)
    return [str(x) for x in n] if isinstance(n, list) else None


def episode(data, request):
    """Returns the arrays of {"episode"} as a list of (name, array)."""
    e = data.episodes[request["episode"]]
    in_rows = [c for c in request["images"] if c not in e["videos"]]
    rows = data.rows(e, [*request["columns"], *in_rows])
    arrays = [(c, data.column(rows, c)) for c in request["columns"]]
    size = sum(int(np.prod(data.features[c]["shape"])) * e["steps"] // request["every"] for c in request["images"])
    if size > MAX_BYTES:
        raise Unusable(f"its {e['steps']} steps are {size >> 20} MiB of images", "leave the episode out")
    arrays += [(c, data.images(e, rows, c, request["every"])) for c in request["images"]]
    return arrays


def main():
    out = os.fdopen(os.dup(1), "wb", buffering=1 << 20)
    os.dup2(2, 1)  # replies go to a copy of stdout; what libraries print goes to stderr
    requests = queue.Queue()

    def read():
        for line in sys.stdin.buffer:
            requests.put(line)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    data = None
    while True:
        request = json.loads(requests.get())
        try:
            if "open" in request:
                data, reply = open_data_set(request)
                arrays = []
            else:
                arrays = episode(data, request)
                reply = {"arrays": [{"name": n, "dtype": a.dtype.name, "shape": list(a.shape)} for n, a in arrays]}
        except Unusable as e:
            reply, arrays = {"problem": str(e), "hint": e.hint}, []
        except (KeyError, TypeError, ValueError, pa.ArrowException) as e:
            reply, arrays = {"problem": f"the data set is malformed: {type(e).__name__}: {e}"}, []
            reply["hint"] = "load it with lerobot to see whether it is complete"
        out.write(json.dumps(reply).encode() + b"\n")
        for _, a in arrays:
            out.write(np.ascontiguousarray(a).tobytes())
        out.flush()


if __name__ == "__main__":
    main()
