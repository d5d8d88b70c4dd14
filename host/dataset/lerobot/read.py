"""Reads LeRobot data sets (v2.0, v2.1 and v3.0) for srpo: requests on stdin, replies on stdout, one line of JSON each.

    {"open": FOLDER, "success": "auto" | "all" | "none" | FEATURE}
        -> {"version", "fps", "features": {NAME: {"dtype", "shape", "names", "depth"}}, "episodes": [{"id", "task",
            "steps", "success": true, false or null (no label)}], "warnings": [what was left out or split]}
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
import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
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

    def __init__(self, reason, hint="copy the data set again, or remove the file to leave its episodes out"):
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
    """Returns the objects in a .jsonl file. Raises Unusable if it cannot be read.

    Lines end at \\n only: JSON strings can contain other line separators, such as U+2028.
    """
    try:
        return [json.loads(line) for line in Path(path).read_bytes().decode("utf-8").split("\n") if line.strip()]
    except FileNotFoundError:
        raise Unusable(f"{path} is missing") from None
    except ValueError as e:
        raise Unusable(f"{path} cannot be read: {e}") from None


def pq_names(path):
    """Returns the names of a parquet file's columns. Raises Unusable if it cannot be read."""
    try:
        return pq.read_schema(path).names
    except FileNotFoundError:
        raise Unusable(f"{path} is missing") from None
    except (OSError, pa.ArrowException) as e:
        raise Unusable(f"{path} cannot be read: {' '.join(str(e).split())}") from None


def numbers(column, name, path):
    """Returns a column with one number per row as float64 [T]; NaN where there is none."""
    values = column.combine_chunks()
    if any(f(values.type) for f in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)):
        values = pa.array([v[0] if v else None for v in values.to_pylist()])
    kind = values.type
    if not any(f(kind) for f in (pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating, pa.types.is_null)):
        raise Unusable(f"{path}: column {name} is of type {kind}, not numbers", "use a feature of numbers or booleans")
    return values.cast(pa.float64(), safe=False).fill_null(float("nan")).to_numpy(zero_copy_only=False)


def labelled(values, ends_episode):
    """Returns whether a success is recorded in float64 [T], or None if that is not known.

    It is not known if no step has a label, and for a part before the last one, because sets that are true at the last
    step alone do not label it.
    """
    known = values[~np.isnan(values)]
    if (known != 0).any():
        return True
    return False if len(known) and ends_episode else None


def name_of(index):
    return f"episode-{index:06d}"


def stars(path):
    """Returns the glob pattern of a path template, such as data/chunk-*/file-*.parquet."""
    return re.sub(r"{[^{}]*}", "*", path)


def shortened(names):
    """Returns a list of names that ends after three."""
    names = list(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


class DataSet:
    """The folder of a data set.

    ``listed`` are the episodes of the metadata: {index: {"steps", "tasks": a list of instructions or None, "data": path
    of the rows, or None, "videos": {feature: (path, start in seconds)}}}.

    ``episodes`` are those whose rows exist, after ``find``: a list of {"id", "index", "first": step of the recorded
    episode at which it starts, "steps", "task", "success": bool or None, "files": paths of the rows, "videos"}.
    ``warnings`` describes what was left out or split.
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
        self.listed, self.episodes, self.warnings = {}, [], []
        self.films = [k for k, f in self.features.items() if f.get("dtype") == "video" and not is_depth(f)]
        if self.version.startswith("3."):
            self.data_path = self.info.get("data_path") or DATA
            self._list_v3()
        elif self.version in ("2.0", "2.1"):
            self.data_path = self.info.get("data_path") or LEGACY_DATA
            self._list_v2()
        else:
            raise Unusable(
                f"codebase_version is {self.info.get('codebase_version')!r}, not v2.0, v2.1 or v3.0",
                "convert the data set with the scripts of lerobot",
            )
        depth = [k for k, f in self.features.items() if is_depth(f)]
        if depth:
            self.warnings.append(f"{', '.join(depth)}: left out, because depth maps are not colours")

    def _add(self, index, steps, tasks, data, videos):
        if index in self.listed:
            raise Unusable(f"meta/episodes lists episode {index} twice")
        self.listed[index] = {"steps": steps, "tasks": tasks, "data": data, "videos": videos}

    def _list_v2(self):
        size, video = self.info.get("chunks_size", 1000), self.info.get("video_path") or LEGACY_VIDEO
        self.tasks = {t["task_index"]: t["task"] for t in lines(self.root / "meta" / "tasks.jsonl")}
        for e in lines(self.root / "meta" / "episodes.jsonl"):
            n = e["episode_index"]
            where = {"episode_chunk": n // size, "episode_index": n}
            videos = {k: (video.format(video_key=k, **where), 0.0) for k in self.films}
            self._add(n, e["length"], e.get("tasks"), self.data_path.format(**where), videos)

    def _list_v3(self):
        video = self.info.get("video_path") or VIDEO
        self.tasks = self._tasks_v3()
        wanted = ["episode_index", "length"]
        for key in self.films:
            wanted += [f"videos/{key}/{x}" for x in ("chunk_index", "file_index", "from_timestamp")]
        files = sorted((self.root / "meta" / "episodes").glob("*/*.parquet"))
        if not files:
            raise Unusable("meta/episodes contains no parquet file")
        for path in files:
            have = pq_names(path)
            missing = [c for c in wanted if c not in have]
            if missing:
                raise Unusable(f"{path} lacks {', '.join(missing)}")
            optional = [c for c in ("tasks", "data/chunk_index", "data/file_index") if c in have]
            for row in table(path, wanted + optional).to_pylist():
                where = {k.removeprefix("data/"): v for k, v in row.items() if k.startswith("data/")}
                data = self.data_path.format(**where) if len(where) == 2 and None not in where.values() else None
                videos = {}
                for key in self.films:
                    chunk, file, start = (row[c] for c in wanted if c.startswith(f"videos/{key}/"))
                    videos[key] = (video.format(video_key=key, chunk_index=chunk, file_index=file), start or 0.0)
                self._add(row["episode_index"], row["length"], row.get("tasks"), data, videos)

    def _tasks_v3(self):
        """Returns {task_index: instruction}. The instruction is the index of a pandas table, whose name can vary."""
        path = self.root / "meta" / "tasks.parquet"
        rows = table(path)
        kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_dictionary)
        texts = [f.name for f in rows.schema if any(is_kind(f.type) for is_kind in kinds)]
        index = [c for c in ((rows.schema.pandas_metadata or {}).get("index_columns") or []) if c in texts]
        columns = index or [c for c in texts if c == "task"] or texts
        if "task_index" not in rows.column_names or len(columns) != 1:
            raise Unusable(
                f"{path} has the columns {', '.join(rows.column_names)}, not task_index and one of instructions",
                "write it as lerobot does: a pandas table with the column task_index whose index is the instruction",
            )
        indexes = rows["task_index"].to_pylist()
        if indexes != list(range(len(indexes))):
            self.warnings.append(
                "meta/tasks.parquet: row N is not task_index N; lerobot takes the row, srpo the task_index"
            )
        return dict(zip(indexes, rows[columns[0]].to_pylist()))

    def find(self, choice):
        """Finds the rows of each episode by their episode_index, and sets ``episodes`` and ``warnings``.

        choice is auto, all, none or the name of a feature: which episodes succeeded.
        """
        if choice == "auto":
            choice = "next.success" if "next.success" in self.features else "all"
        label = None if choice in ("all", "none") else choice
        if label is not None and label not in self.features:
            raise Unusable(
                f"there is no feature {label!r}, only {', '.join(self.features)}",
                "use --set data.success=FEATURE, all or none",
            )
        pieces = {}
        for path, found in self._scan(label):
            for n, *values in found:
                pieces.setdefault(n, []).append((path, *values))
        absent, damaged, without_video, split, parts = [], [], [], [], 0
        has_video = self._cameras_with_videos()
        for n, e in sorted(self.listed.items()):
            of_episode = pieces.pop(n, [])
            if not of_episode:
                absent.append(n)
                continue
            if sum(len(p[1]) for p in of_episode) != e["steps"]:  # a leftover copy, perhaps: use the place in meta
                named = [p for p in of_episode if p[0] == e["data"] and len(p[1]) == e["steps"]]
                if not named:
                    damaged.append(f"{name_of(n)} has {sum(len(p[1]) for p in of_episode)} of {e['steps']} rows")
                    continue
                of_episode = named
            elif len(set(np.concatenate([p[1] for p in of_episode]).tolist())) != e["steps"]:
                damaged.append(f"{name_of(n)} has rows with the same frame_index")
                continue
            gone = [v for k, (v, _) in e["videos"].items() if k in has_video and not self._exists(v)]
            if gone:
                without_video.append(n)
                continue
            found = self._parts(n, e, of_episode, choice)
            self.episodes += found
            if len(found) > 1:
                split.append(n)
                parts += len(found)
        total = len(self.listed)
        if absent:
            self._warn(absent, total, f"no file {stars(self.data_path)} contains their rows")
        if without_video:
            self._warn(without_video, total, "their videos are missing")
        if damaged:
            self.warnings.append(f"{len(damaged)} of {total} episodes left out: {shortened(damaged)}")
        if split:
            names = shortened(name_of(n) for n in split)
            self.warnings.append(
                f"{len(split)} of {total} episodes have several tasks and are split where task_index changes, into "
                f"{parts} parts: {names}"
            )
        if pieces:
            names = shortened(name_of(n) for n in sorted(pieces))
            self.warnings.append(f"rows of {len(pieces)} episodes that meta/episodes lacks are ignored: {names}")
        if total and not self.episodes:
            raise Unusable("; ".join(self.warnings), "copy the data set again, with the files of its episodes")

    def _warn(self, episodes, total, why):
        names = shortened(name_of(n) for n in episodes)
        self.warnings.append(f"{len(episodes)} of {total} episodes left out, because {why}: {names}")

    def _exists(self, path):
        if path not in self.present:
            self.present[path] = (self.root / path).is_file()
        return self.present[path]

    def _cameras_with_videos(self):
        """Returns the cameras of which at least one video exists. Without videos, others can still be read."""
        self.present = {}
        cameras = {k for e in self.listed.values() for k in e["videos"]}
        return {k for k in cameras if any(self._exists(e["videos"][k][0]) for e in self.listed.values())}

    def _scan(self, label):
        """Yields (path, [(episode, frames, tasks, labels)...]) of every file of rows.

        frames, tasks and labels are arrays [rows of the episode] in the order of frame_index: int64, int64 (-1 without
        the column task_index) and float64 (NaN without a label).
        """
        paths = sorted(str(p.relative_to(self.root)) for p in self.root.glob(stars(self.data_path)))

        def scan(path):
            have = pq_names(self.root / path)
            columns = ["episode_index", "frame_index"] + ([label] if label else [])
            missing = [c for c in columns if c not in have]
            if missing:
                raise Unusable(f"{path} has no column {', '.join(missing)}, only {', '.join(have)}")
            has_task = "task_index" in have
            rows = table(self.root / path, list(dict.fromkeys(columns + ["task_index"] * has_task)))
            episodes, frames = (numbers(rows[c], c, path).astype(np.int64) for c in columns[:2])
            nothing = np.full(len(episodes), np.nan)
            tasks = numbers(rows["task_index"], "task_index", path) if has_task else nothing
            tasks = np.nan_to_num(tasks, nan=-1).astype(np.int64)
            labels = numbers(rows[label], label, path) if label else nothing
            order = np.lexsort((frames, episodes))
            found, starts = np.unique(episodes[order], return_index=True)
            cuts = np.split(order, starts[1:])
            return path, [(int(n), frames[c], tasks[c], labels[c]) for n, c in zip(found, cuts)]

        with ThreadPoolExecutor(4) as pool:
            yield from pool.map(scan, paths)

    def _parts(self, n, e, pieces, choice):
        """Returns an episode as a list of episodes with one task each."""
        frames, tasks, labels = (np.concatenate([p[i] for p in pieces]) for i in (1, 2, 3))
        order = np.argsort(frames, kind="stable")
        tasks, labels = tasks[order], labels[order]
        starts = [0, *(np.flatnonzero(np.diff(tasks)) + 1).tolist()]
        ends = [*starts[1:], len(tasks)]
        out = []
        for k, (first, end) in enumerate(zip(starts, ends)):
            success = choice == "all"
            if choice not in ("all", "none"):
                success = labelled(labels[first:end], ends_episode=end == len(tasks))
            out.append(
                {
                    "id": name_of(n) + (f"-part-{k + 1}" if len(starts) > 1 else ""),
                    "index": n,
                    "first": first,
                    "steps": end - first,
                    "length": len(tasks),
                    "task": self._instruction(n, int(tasks[first]), e["tasks"]),
                    "success": success,
                    "files": [p[0] for p in pieces],
                    "videos": e["videos"],
                }
            )
        return out

    def _instruction(self, n, task, listed):
        """Returns the instruction of a task_index; -1 means that the rows have none."""
        if task in self.tasks and self.tasks[task] is not None:
            return self.tasks[task]
        if task == -1 and isinstance(listed, list) and len(listed) == 1:
            return listed[0]
        what = f"has task_index {task}, which meta/tasks lacks" if task != -1 else "has rows without task_index"
        raise Unusable(f"{name_of(n)} {what}: its instruction is not known", "add the instruction to meta/tasks")

    def rows(self, episode, columns):
        """Returns a pyarrow table of the episode's rows in the order of frame_index."""
        found = []
        for name in episode["files"]:
            have = pq_names(self.root / name)
            missing = [c for c in columns if c not in have]
            if missing:
                raise Unusable(f"{name} has no column {', '.join(missing)}, only {', '.join(have)}")
            wanted = list(dict.fromkeys([*columns, "frame_index"]))
            found.append(table(self.root / name, wanted, [("episode_index", "=", episode["index"])]))
        out = pa.concat_tables(found)
        if out.num_rows != episode["length"]:
            raise Unusable(f"{', '.join(episode['files'])} has {out.num_rows} of {episode['length']} rows")
        return out.sort_by("frame_index").slice(episode["first"], episode["steps"])

    def column(self, rows, name):
        """Returns a column as float32 [T, D]. Raises Unusable if a value is not finite."""
        values = np.asarray(rows[name].to_pylist(), np.float32)
        values = values.reshape(len(values), -1)
        if not np.isfinite(values).all():
            raise Unusable(f"column {name} contains NaN or infinity", "remove the episode with the tools of lerobot")
        return values

    def images(self, episode, rows, name, every):
        """Returns every ``every``-th frame of a camera, uint8 [ceil(T / every), H, W, 3]."""
        if name in episode["videos"]:
            path, start = episode["videos"][name]
            return self.video(path, start + episode["first"] / self.fps, episode["steps"], every)
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
                picture = Image.open(io.BytesIO(raw))
                mode = picture.mode
                picture = np.asarray(picture.convert("RGB"))
            except Exception as e:  # Pillow raises many types for broken images
                raise Unusable(f"an image of {name} does not decode: {e}") from None
            if mode.startswith(("I", "F")):  # 16 and 32 bits per pixel
                raise no_colours(name)
            out.append(picture)
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
                if is_deep_grey(stream.format):
                    raise no_colours(name)
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


def is_depth(feature):
    """Reports whether a feature contains depth maps, by the marks that lerobot writes."""
    marks = [feature.get("info") or {}, feature.get("video_info") or {}, feature]
    return any(m.get("is_depth_map") or m.get("video.is_depth_map") for m in marks)


def is_deep_grey(pixels):
    """Reports whether a video format has one component of more than 8 bits, as depth maps have."""
    return pixels is not None and len(pixels.components) == 1 and pixels.components[0].bits > 8


def no_colours(name):
    """Returns the error for pictures of more than 8 bits in one channel."""
    return Unusable(
        f"the pictures of {name} have one channel of more than 8 bits, as depth maps have, not colours",
        "name a camera with colours: --set 'data.cameras=[\"CAMERA=FEATURE\"]'",
    )


def open_data_set(request):
    """Returns the data set and the reply to {"open"}."""
    data = DataSet(request["open"])
    data.find(request["success"])
    episodes = [{k: e[k] for k in ("id", "task", "steps", "success")} for e in data.episodes]
    features = {}
    for k, f in data.features.items():
        features[k] = {"dtype": f.get("dtype"), "shape": f.get("shape"), "names": names(f), "depth": is_depth(f)}
    reply = {"version": data.version, "fps": data.fps, "features": features, "episodes": episodes}
    return data, {**reply, "warnings": data.warnings}


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
        raise Unusable(f"its {e['steps']} steps are {size >> 20} MiB of images", "use a data set of shorter episodes")
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
