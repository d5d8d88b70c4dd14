"""Writes trajectories of srpo as a LeRobot data set, v3.0.

    write.py --from FOLDER --out FOLDER --fps N [--successes] [--robot NAME]

FOLDER contains trajectories/: space.json, and NAME.npz (actions float32 [T, A], proprio float32 [T, P], image.CAMERA
uint8 [T, H, W, 3]) with NAME.json. The folder --out must be missing or empty; it gets its name when
it is complete. Progress and result are lines of JSON on the descriptor SRPO_REPORT_FD: {"phase", "done", "total"},
{"result"} or {"error"}.
"""

import argparse
import json
import os
import shutil
import sys
import threading
import zipfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FILE_MB, VIDEO_MB, CHUNK = 100, 200, 1000  # the defaults of lerobot
QUANTILES = (1, 10, 50, 90, 99)
DEFAULTS = {
    "timestamp": {"dtype": "float32", "shape": [1], "names": None},
    "frame_index": {"dtype": "int64", "shape": [1], "names": None},
    "episode_index": {"dtype": "int64", "shape": [1], "names": None},
    "index": {"dtype": "int64", "shape": [1], "names": None},
    "task_index": {"dtype": "int64", "shape": [1], "names": None},
}


class Refused(Exception):
    """A failure that the user can fix. kind is a kind of plugins.Error."""

    def __init__(self, kind, message, hint, place=""):
        super().__init__(message)
        self.kind, self.hint, self.place = kind, hint, place


def reporter():
    """Returns a function that writes an object to SRPO_REPORT_FD, or to stderr without it."""
    fd = os.environ.pop("SRPO_REPORT_FD", "")
    out = os.fdopen(int(fd), "w", buffering=1, encoding="utf-8") if fd.isdigit() else sys.stderr
    return lambda line: print(json.dumps(line), file=out, flush=True)


def watch_lifeline():
    """Ends the program when srpo ends, that is, when the pipe SRPO_LIFELINE_FD is closed."""
    fd = os.environ.pop("SRPO_LIFELINE_FD", "")
    if fd.isdigit():
        threading.Thread(target=lambda: (os.read(int(fd), 1), os._exit(1)), daemon=True).start()


def statistics(values):
    """Returns min, max, mean, std and quantiles of numbers [N, D], each [D], and the count N as [1]."""
    flat = values.astype(np.float64)
    out = {"min": flat.min(0), "max": flat.max(0), "mean": flat.mean(0), "std": flat.std(0)}
    out.update({f"q{q:02d}": np.percentile(flat, q, axis=0) for q in QUANTILES})
    out["count"] = np.array([len(values)])
    return out


def picture_statistics(pictures):
    """Returns the statistics of images uint8 [N, H, W, 3] per channel, scaled to 0..1, each [3, 1, 1].

    They are computed from counts of the 256 values, because sorting millions of pixels takes longer than encoding the
    video.
    """
    value = np.arange(256.0)
    channels = []
    for c in range(3):
        counts = np.bincount(pictures[..., c].reshape(-1), minlength=256)
        cumulative, total = counts.cumsum(), counts.sum()
        present = value[counts > 0]
        mean = (counts * value).sum() / total
        one = {"min": present[0], "max": present[-1], "mean": mean}
        one["std"] = np.sqrt((counts * (value - mean) ** 2).sum() / total)
        for q in QUANTILES:  # linear interpolation between ranks, as in numpy.percentile
            rank = (total - 1) * q / 100
            low, high = (np.searchsorted(cumulative, r, "right") for r in (np.floor(rank), np.ceil(rank)))
            one[f"q{q:02d}"] = low + (high - low) * (rank - np.floor(rank))
        channels.append(one)
    out = {k: np.array([one[k] for one in channels]).reshape(3, 1, 1) / 255 for k in channels[0]}
    out["count"] = np.array([len(pictures)])
    return out


def combine(parts):
    """Combines the statistics of several episodes.

    Quantiles up to the median become the minimum over episodes and others the maximum, so they are bounds.
    """
    count = np.array([p["count"][0] for p in parts], np.float64)
    weight = (count / count.sum()).reshape(-1, *[1] * parts[0]["mean"].ndim)
    means = np.stack([p["mean"] for p in parts])
    mean = (means * weight).sum(0)
    spread = np.stack([p["std"] ** 2 for p in parts]) + (means - mean) ** 2
    out = {
        "min": np.min([p["min"] for p in parts], 0),
        "max": np.max([p["max"] for p in parts], 0),
        "mean": mean,
        "std": np.sqrt((spread * weight).sum(0)),
        "count": np.array([int(count.sum())]),
    }
    for q in QUANTILES:
        key = f"q{q:02d}"
        out[key] = (np.min if q <= 50 else np.max)([p[key] for p in parts], 0)
    return out


class VideoWriter:
    """Writes the video files of one camera. Each file contains the frames of whole episodes in sequence."""

    def __init__(self, root, key, fps):
        self.root, self.key, self.fps = root, key, fps
        self.file, self.frames, self.container = -1, 0, None

    def path(self):
        return self.root / "videos" / self.key / f"chunk-{self.file // CHUNK:03d}" / f"file-{self.file % CHUNK:03d}.mp4"

    def add(self, pictures):
        """Encodes an episode, uint8 [T, H, W, 3], and returns the columns of meta/episodes that locate it."""
        if self.container is not None and self.path().stat().st_size > VIDEO_MB << 20:
            self.close()
        height, width = pictures.shape[1:3]
        if self.container is None:
            self.file, self.frames = self.file + 1, 0
            self.path().parent.mkdir(parents=True, exist_ok=True)
            self.container = av.open(str(self.path()), "w")
            self.stream = self.container.add_stream("libx264", rate=Fraction(self.fps))
            self.stream.width, self.stream.height = width, height
            self.stream.pix_fmt = "yuv420p" if width % 2 == 0 and height % 2 == 0 else "yuv444p"
            self.stream.codec_context.gop_size = 2
            self.stream.codec_context.max_b_frames = 0
            self.stream.options = {"crf": "16", "preset": "veryfast"}
            self.stream.codec_context.thread_count = 1
        start = self.frames / self.fps
        for picture in pictures:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = self.frames, 1 / Fraction(self.fps)
            self.container.mux(self.stream.encode(frame))
            self.frames += 1
        where = f"videos/{self.key}/"
        return {
            where + "chunk_index": self.file // CHUNK,
            where + "file_index": self.file % CHUNK,
            where + "from_timestamp": start,
            where + "to_timestamp": self.frames / self.fps,
        }

    def close(self):
        if self.container is not None:
            self.container.mux(self.stream.encode())
            self.container.close()
            self.container = None

    def feature(self, shape):
        return {
            "dtype": "video",
            "shape": list(shape),
            "names": ["height", "width", "channels"],
            "info": {
                "video.height": shape[0],
                "video.width": shape[1],
                "video.codec": "h264",
                "video.pix_fmt": self.stream.pix_fmt,
                "is_depth_map": False,
                "video.fps": self.fps,
                "video.channels": 3,
                "has_audio": False,
            },
        }


class RowWriter:
    """Writes the parquet files of the steps, one row group per episode as lerobot does."""

    def __init__(self, root):
        self.root, self.file, self.writer, self.index = root, -1, None, 0

    def path(self):
        return self.root / "data" / f"chunk-{self.file // CHUNK:03d}" / f"file-{self.file % CHUNK:03d}.parquet"

    def add(self, columns, schema):
        """Writes an episode and returns the columns of meta/episodes that locate it."""
        if self.writer is not None and self.path().stat().st_size > FILE_MB << 20:
            self.close()
        if self.writer is None:
            self.file += 1
            self.path().parent.mkdir(parents=True, exist_ok=True)
            self.writer = pq.ParquetWriter(self.path(), schema, compression="snappy", use_dictionary=True)
        table = pa.table(columns, schema=schema)
        self.writer.write_table(table)
        start, self.index = self.index, self.index + table.num_rows
        return {
            "data/chunk_index": self.file // CHUNK,
            "data/file_index": self.file % CHUNK,
            "dataset_from_index": start,
            "dataset_to_index": self.index,
        }

    def close(self):
        if self.writer is not None:
            self.writer.close()
            self.writer = None


def vectors(values):
    """Converts float32 [T, D] to an arrow array of lists of length D, or of numbers if D is 1."""
    flat = pa.array(values.reshape(-1), pa.float32())
    return flat if values.shape[1] == 1 else pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def tasks_table(tasks):
    """Returns meta/tasks.parquet for {instruction: index}: a pandas table whose index is the instruction."""
    types = {"task_index": ("int64", "int64"), "task": ("unicode", "object")}
    meta = {
        "index_columns": ["task"],
        "column_indexes": [],
        "columns": [
            {"name": n, "field_name": n, "pandas_type": p, "numpy_type": q, "metadata": None}
            for n, (p, q) in types.items()
        ],
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.0.0",
    }
    schema = pa.schema([("task_index", pa.int64()), ("task", pa.string())], {"pandas": json.dumps(meta)})
    return pa.table({"task_index": list(tasks.values()), "task": list(tasks)}, schema=schema)


def write(args, report):
    """Writes the data set and returns the result to report. Raises Refused."""
    source = Path(args.source) / "trajectories"
    space = json.loads((source / "space.json").read_text(encoding="utf-8"))
    labels = []
    for path in sorted(source.glob("*.json")):
        if path.name != "space.json" and not path.name.startswith("."):
            label = json.loads(path.read_text(encoding="utf-8"))
            if label["success"] or not args.successes:
                labels.append((label, path.with_suffix(".npz")))
    if not labels:
        raise Refused(
            "invalid", "there is no episode to write", "record episodes, or run without --successes", str(source)
        )
    labels.sort(key=lambda x: x[0]["id"])
    out = Path(args.out)
    if out.exists() and any(out.iterdir()):
        raise Refused(
            "invalid", "the folder is not empty", "give a folder that is empty or does not exist", f"--out {out}"
        )
    root = out.parent / f".tmp-{out.name}-{os.getpid()}"
    try:
        result = fill(root, space, labels, args, report)
        if out.exists():
            out.rmdir()
        root.rename(out)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return result


def fill(root, space, labels, args, report):
    """Writes the data set into an existing folder and returns the result to report."""
    fps = int(args.fps) if float(args.fps).is_integer() else args.fps
    (root / "meta" / "episodes" / "chunk-000").mkdir(parents=True)
    videos = {c: VideoWriter(root, f"observation.images.{c}", fps) for c in space["cameras"]}
    rows, tasks, episodes, all_stats, features = RowWriter(root), {}, [], {}, None
    for n, (label, path) in enumerate(labels):
        report({"phase": "write episodes", "done": n, "total": len(labels)})
        arrays = load(path)
        columns = {"action": arrays["actions"]}
        if "proprio" in arrays:
            columns["observation.state"] = arrays["proprio"]
        place = {}
        for camera, video in videos.items():
            place.update(video.add(arrays[f"image.{camera}"]))
        if features is None:
            features = describe(space, columns, {v: arrays[f"image.{c}"] for c, v in videos.items()})
        task = tasks.setdefault(label["instruction"], len(tasks))
        scalars = step_columns(len(arrays["actions"]), fps, n, rows.index, task, label["success"])
        table = {k: vectors(v) for k, v in columns.items()}
        table.update({k: pa.array(v) for k, v in scalars.items()})
        place.update(rows.add(table, pa.schema([(k, v.type) for k, v in table.items()])))
        stats = {k: statistics(v) for k, v in columns.items()}
        stats.update({k: statistics(v.reshape(-1, 1).astype(np.float64)) for k, v in scalars.items()})
        for camera, video in videos.items():
            stats[video.key] = picture_statistics(sample(arrays[f"image.{camera}"]))
        for k, s in stats.items():
            all_stats.setdefault(k, []).append(s)
        flat = {f"stats/{k}/{name}": v.tolist() for k, s in stats.items() for name, v in s.items()}
        head = {"episode_index": n, "tasks": [label["instruction"]], "length": len(arrays["actions"])}
        episodes.append({**head, **place, **flat, "meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0})
    for video in videos.values():
        video.close()
    rows.close()
    pq.write_table(
        pa.Table.from_pylist(episodes), root / "meta/episodes/chunk-000/file-000.parquet", compression="snappy"
    )
    pq.write_table(tasks_table(tasks), root / "meta" / "tasks.parquet")
    info = {
        "codebase_version": "v3.0",
        "fps": fps,
        "features": features,
        "total_episodes": len(labels),
        "total_frames": rows.index,
        "total_tasks": len(tasks),
        "chunks_size": CHUNK,
        "data_files_size_in_mb": FILE_MB,
        "video_files_size_in_mb": VIDEO_MB,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4" if videos else None,
        "robot_type": args.robot or space["env"],
        "splits": {"train": f"0:{len(labels)}"},
    }
    stats = {k: {name: v.tolist() for name, v in combine(s).items()} for k, s in all_stats.items()}
    for name, value in (("info.json", info), ("stats.json", stats)):
        (root / "meta" / name).write_text(json.dumps(value, indent=4) + "\n", encoding="utf-8")
    return {
        "out": str(args.out),
        "episodes": len(labels),
        "steps": rows.index,
        "tasks": len(tasks),
        "cameras": list(videos),
    }


def load(path):
    """Returns the arrays of a trajectory by name. Raises Refused if the file is damaged."""
    try:
        with np.load(path) as arrays:
            return {k: arrays[k] for k in arrays.files}
    except (OSError, ValueError, zipfile.BadZipFile) as e:
        hint = "remove it and its .json to leave the episode out"
        raise Refused("corrupt", f"cannot be read: {e}", hint, str(path)) from None


def describe(space, columns, images):
    """Returns the features of info.json, given the columns float32 [T, D] and {VideoWriter: uint8 [T, H, W, 3]}."""
    features = {video.key: video.feature(frames.shape[1:]) for video, frames in images.items()}
    names = {"action": space["action"]["names"], "observation.state": space["proprio"]}
    for k, v in columns.items():
        features[k] = {"dtype": "float32", "shape": [v.shape[1]], "names": names[k]}
    features["next.success"] = {"dtype": "bool", "shape": [1], "names": None}
    return {**features, **DEFAULTS}


def step_columns(steps, fps, episode, first, task, success):
    """Returns the columns with one number per step, each [steps]. first is the index of the episode's first step."""
    succeeded = np.zeros(steps, bool)
    succeeded[-1] = bool(success)
    return {
        "next.success": succeeded,
        "timestamp": (np.arange(steps) / fps).astype(np.float32),
        "frame_index": np.arange(steps),
        "episode_index": np.full(steps, episode),
        "index": np.arange(first, first + steps),
        "task_index": np.full(steps, task),
    }


def sample(frames):
    """Returns at most 100 evenly spaced frames."""
    steps = len(frames)
    return frames[np.unique(np.linspace(0, steps - 1, min(steps, 100)).round().astype(int))]


def main():
    report = reporter()
    watch_lifeline()
    p = argparse.ArgumentParser()
    p.add_argument("--from", dest="source", required=True)
    p.add_argument("--out", required=True)
    p.add_argument("--fps", type=float, required=True)
    p.add_argument("--successes", action="store_true")
    p.add_argument("--robot", default="")
    try:
        report({"result": write(p.parse_args(), report)})
    except Refused as e:
        report({"error": {"kind": e.kind, "message": str(e), "place": e.place, "hint": e.hint}})
        sys.exit(1)
    except OSError as e:
        kind = "exhausted" if e.errno in (28, 122) else "internal"
        report(
            {
                "error": {
                    "kind": kind,
                    "message": str(e),
                    "place": "",
                    "hint": "free space on the disk, or give another --out",
                }
            }
        )
        sys.exit(1)


if __name__ == "__main__":
    main()
