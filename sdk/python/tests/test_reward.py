"""srpo_sdk.reward against a program that stands in for srpo, so that its input and output can be checked."""

import json
import os
import stat
import sys

import numpy as np
import pytest

from srpo_sdk import Error, reward

PROGRAM = """#!{python}
import json, os, sys
folder, source = {folder!r}, sys.argv[2]
text = open(source).read() if os.path.isfile(source) else "null"
seen = {{"argv": sys.argv[1:], "list": json.loads(text)}}
if os.path.isfile(source):
    seen["files"] = sorted(os.listdir(os.path.dirname(source)))
json.dump(seen, open(os.path.join(folder, "seen.json"), "w"))
{body}
"""

ANSWER = """
rows = (seen["list"] or {"attempts": [{"id": "x", "task": "t"}]})["attempts"]
attempts = [{"id": r["id"], "task": r.get("task", "task"), "success": r.get("success"), "reward": 0.5, "distance": None,
             "centre": None, "dropped": True, "reason": "why", "something new": 1} for r in rows]
print(json.dumps({"attempts": attempts, "metrics": {"mean": {}}, "tasks": [], "warnings": ["w"]}))
"""


@pytest.fixture
def srpo(tmp_path):
    def make(body=ANSWER):
        path = tmp_path / "srpo"
        path.write_text(PROGRAM.format(python=sys.executable, folder=str(tmp_path), body=body))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return str(path), lambda: json.loads((tmp_path / "seen.json").read_text())

    return make


def attempts(n=3):
    return [
        {"id": f"a{i}", "task": "t", "success": [True, False, None][i % 3], "embedding": np.arange(4) + i}
        for i in range(n)
    ]


def test_embeddings_travel_as_one_matrix(srpo):
    program, seen = srpo()
    scores = reward.score(attempts(), program=program, reward="minmax", settings={"reward.alpha": 0.5})
    assert [s.id for s in scores] == ["a0", "a1", "a2"]
    assert scores["a1"].reward == 0.5 and scores["a1"].dropped and scores["a1"].reason == "why"
    assert scores["a2"].success is None and len(scores) == 3
    assert scores.warnings == ["w"]
    with pytest.raises(KeyError):
        scores["b"]
    call = seen()
    assert call["argv"][0] == "reward" and call["argv"][2] == "--json"
    assert call["argv"][3:] == [
        *("--reward", "minmax", "--cluster", "auto", "--references", "batch"),
        *("--set", "reward.alpha=0.5"),
    ]
    assert call["list"]["embeddings"] == "embeddings.npy"
    assert call["list"]["attempts"][2] == {"id": "a2", "task": "t"}
    assert call["files"] == ["embeddings.npy", "list.json"]
    assert not os.path.exists(call["argv"][1]), "nothing is left behind"


def test_embeddings_of_several_sizes_are_left_to_the_program_to_check(srpo):
    program, seen = srpo()
    some = attempts(2)
    some[1]["embedding"] = [1.0, float("nan")]
    reward.score(some, program=program)
    rows = seen()["list"]["attempts"]
    assert rows[0]["embedding"] == [0, 1, 2, 3] and len(rows[1]["embedding"]) == 2


def test_frames_videos_and_paths(srpo, tmp_path):
    program, seen = srpo()
    frames = np.zeros((3, 4, 5, 3), np.uint8)[:, ::-1]
    reward.score(
        [
            {"id": 1, "success": np.bool_(True), "frames": frames},
            {"id": 2, "video": "x.mp4", "progress": np.float32(0.5)},
        ],
        program=program,
        encoder="pixel",
        compare=["pixel", "./mine"],
        metrics=True,
        out=tmp_path / "page",
    )
    call = seen()
    assert call["list"]["attempts"] == [
        {"id": 1, "success": True, "video": "000000.npy"},
        {"id": 2, "progress": 0.5, "video": os.path.abspath("x.mp4")},
    ]
    assert call["argv"][-7:] == [
        "--encoder",
        "pixel",
        "--compare",
        "pixel,./mine",
        "--metrics",
        "--out",
        f"{tmp_path}/page",
    ]
    reward.score(str(tmp_path), program=program)
    assert seen()["argv"][1] == str(tmp_path)


@pytest.mark.parametrize(
    "row, message",
    [
        ({"id": "a", "embedding": [1.0], "video": "x"}, "both embedding and video"),
        ({"id": "a", "embedding": np.zeros((2, 2))}, "float64 [2, 2]"),
        ({"id": "a", "embedding": ["x"]}, "the embedding is <U1"),
        ({"id": "a", "sucess": True}, "unknown key 'sucess'"),
    ],
)
def test_malformed_attempts_are_refused(srpo, row, message):
    program, _ = srpo()
    with pytest.raises(Error) as e:
        reward.score([row], program=program)
    assert message in str(e.value) and e.value.kind == "invalid" and e.value.hint


def test_errors_keep_their_parts(srpo):
    error = {"kind": "not found", "message": "no such thing", "place": "here", "hint": "look there", "detail": "d"}
    program, _ = srpo(f"print(json.dumps({{'error': {error!r}}})); sys.exit(3)")
    with pytest.raises(Error) as e:
        reward.score(attempts(), program=program)
    assert (e.value.kind, e.value.message, e.value.place, e.value.hint) == (
        "not found",
        "no such thing",
        "here",
        "look there",
    )


def test_a_program_that_prints_nothing_hangs_or_does_not_exist(srpo):
    program, _ = srpo("print('boom', file=sys.stderr); sys.exit(1)")
    with pytest.raises(Error) as e:
        reward.score(attempts(), program=program)
    assert e.value.kind == "internal" and "status 1" in e.value.message and e.value.detail == "boom"
    program, _ = srpo("import time; time.sleep(60)")
    with pytest.raises(Error) as e:
        reward.score(attempts(), program=program, timeout=0.5)
    assert e.value.kind == "deadline"
    with pytest.raises(Error) as e:
        reward.score(attempts(), program="/nonexistent/srpo")
    assert e.value.kind == "not found" and "SRPO_PROGRAM" in e.value.hint
    with pytest.raises(Error):
        reward.score("x", anchors={"t": [1.0]}, program=sys.executable)
