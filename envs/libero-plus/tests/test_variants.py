"""The table of variants is complete, correct and fast, and does not import a simulator."""

import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import srpo_sdk as srpo

import archive
import plus_env
import start_states
import variants
from libero_sim import task_table
from paths import PATH
from plus_env import LiberoPlus


@pytest.fixture(scope="module")
def tasks():
    return list(LiberoPlus.tasks(LiberoPlus.info.resolve()))


def test_all_variants_with_dimension_and_level(tasks):
    assert len(tasks) == len({t.id for t in tasks}) == 10030
    assert Counter(t.suite for t in tasks) == {
        "libero_spatial": 2402, "libero_object": 2518, "libero_goal": 2591, "libero_10": 2519
    }  # fmt: skip
    assert Counter(t.tags["dimension"] for t in tasks) == {
        "camera": 1599, "robot": 1550, "language": 1537, "light": 1142, "background": 1076, "noise": 1601,
        "layout": 1525,
    }  # fmt: skip
    assert Counter(t.tags.get("level") for t in tasks)[None] == 121
    assert {t.tags.get("level") for t in tasks} == {"L1", "L2", "L3", "L4", "L5", None}
    assert all(t.tags["dimension"] == "light" for t in tasks if "level" not in t.tags)
    # As published by the authors for the camera dimension.
    camera = Counter(t.tags["level"] for t in tasks if t.tags["dimension"] == "camera")
    assert camera == {"L1": 199, "L2": 360, "L3": 325, "L4": 228, "L5": 487}
    for task in tasks:
        suite, dimension, name = task.id.split("/")
        assert (suite, dimension) == (task.suite, task.tags["dimension"])
        assert name.startswith(task.tags["base"])
        assert task.start_states == 1
        assert task.max_steps == task_table.MAX_STEPS[suite]
    assert len({(t.suite, t.tags["base"]) for t in tasks}) == 40


def test_available_variants_and_reasons_for_the_rest(tasks):
    runs = Counter(t.tags["dimension"] for t in tasks if not t.unavailable)
    assert runs == {"camera": 1599, "robot": 1550, "language": 1537, "noise": 1601, "layout": 696}
    assert sum(runs.values()) == 6983
    assert {t.unavailable for t in tasks if t.unavailable} == {variants.NEEDS_ARCHIVE}
    for task in tasks:
        variant = variants.by_id()[task.id]
        assert variant.bddl.is_file()
        assert variant.needs_archive == bool(task.unavailable)


def test_values_tell_what_changes(tasks):
    by_id = {t.id: t.tags for t in tasks}
    soup = "pick_up_the_alphabet_soup_and_place_it_in_the_basket"
    camera = by_id[f"libero_object/camera/{soup}_view_0_0_100_2_4_initstate_0"]
    assert (camera["turn"], camera["tilt"], camera["distance"], camera["horizontal"]) == ("2", "4", "100", "0")
    fog = by_id[f"libero_object/noise/{soup}_view_0_0_100_0_0_initstate_0_noise_35"]
    assert (fog["kind"], fog["strength"]) == ("fog", "5")
    noises = Counter(t.tags["kind"] for t in tasks if t.tags["dimension"] == "noise")
    assert set(noises) == set(variants.NOISES)
    layouts = Counter(t.tags["kind"] for t in tasks if t.tags["dimension"] == "layout")
    assert layouts == {"moved": 696, "added": 829}
    for bad in ("something", "task_view_0_0_100_0_0_initstate_0"):
        with pytest.raises(ValueError):
            variants.parse("libero_object", 0, bad, 1)


def test_instructions_are_clean_unless_raw(tasks):
    for task in tasks:
        if task.tags["dimension"] != "language":
            assert not any(character.isdigit() or character == "_" for character in task.instruction)
            assert task.instruction in task.id.replace("_", " ")
    raw = {t.id: t.instruction for t in LiberoPlus.tasks(LiberoPlus.info.resolve({"raw_instruction": True}))}
    soup = "pick_up_the_alphabet_soup_and_place_it_in_the_basket"
    name = f"libero_object/robot/{soup}_view_0_0_100_0_0_initstate_11"
    assert raw[name] == soup.replace("_", " ") + " view 0 0 100 0 0 initstate 11"
    clean = {t.id: t for t in tasks}
    rewritten = [t for t in tasks if t.tags["dimension"] == "language"]
    assert all(raw[t.id] == t.instruction for t in rewritten)
    same = sum(t.instruction == t.tags["base"].replace("_", " ") for t in rewritten)
    assert same < 0.01 * len(rewritten)
    assert clean[name].instruction == soup.replace("_", " ")


def test_start_states(tasks):
    several = {t.id: t.start_states for t in LiberoPlus.tasks(LiberoPlus.info.resolve({"start_states": 50}))}
    for task in tasks[::400]:
        variant = variants.by_id()[task.id]
        states = variant.start_states()
        assert states.dtype == np.float64 and len(states) == several[task.id] == variant.start_state_count()


def test_a_pickle_with_other_names_is_refused(tmp_path):
    import io
    import pickle
    import zipfile

    class Evil:
        def __reduce__(self):
            return print, ("run",)

    path = tmp_path / "x.pruned_init"
    for content, text in ((pickle.dumps(Evil()), "does not need"), (pickle.dumps([1]), "does not contain an array")):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as file:
            file.writestr("archive/data.pkl", content)
        path.write_bytes(buffer.getvalue())
        with pytest.raises((ValueError, pickle.UnpicklingError), match=text):
            start_states.read(path)
    path.write_bytes(b"no zip")
    with pytest.raises(ValueError, match="x.pruned_init is not a file of start states"):
        start_states.read(path)


def test_listing_imports_no_simulator():
    code = (
        "import srpo_sdk, sys; from plus_env import LiberoPlus;"
        "s = LiberoPlus.info.resolve(); LiberoPlus.describe(s).check(); list(LiberoPlus.tasks(s));"
        "loaded = {'mujoco', 'robosuite', 'numba', 'matplotlib', 'skimage', 'gym', 'cv2'} & set(sys.modules);"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": PATH, "PATH": ""})


def test_the_package_tree_replaces_the_installed_package():
    code = (
        "import importlib, importlib.util, os, package_tree, variants;"
        "installed = variants.package_root();"
        "root = package_tree.make(package_tree.libero_assets()); package_tree.enter(root); package_tree.enter(root);"
        "assert importlib.util.find_spec('liberoplus') is not None;"  # another lane of the process calls it
        "style = importlib.import_module('liberoplus.liberoplus.envs.arenas.style');"
        "assert style.__file__.startswith(str(root)), style.__file__;"
        "assert os.path.isdir(os.path.join(root, 'liberoplus', 'liberoplus', 'assets', 'scenes'));"
        "assert package_tree.make(package_tree.libero_assets()) == root;"
        "assert not (installed / 'assets').exists(), 'the installed package was changed'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": PATH})


def test_without_imagemagick_only_motion_blur_is_missing(tasks, monkeypatch):
    monkeypatch.setattr(plus_env, "_has_magick", lambda: False)
    without = list(LiberoPlus.tasks(LiberoPlus.info.resolve()))
    missing = [t for t, before in zip(without, tasks) if t.unavailable and not before.unavailable]
    assert missing and {t.tags["kind"] for t in missing} == {"motion"}
    assert "apt-get install libmagickwand" in missing[0].unavailable


def make_archive(folder):
    """Create an archive whose parts exist and are empty."""
    for part in archive.PARTS:
        path = folder / part
        if "." in part:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("<mujoco/>")
        else:
            path.mkdir(parents=True, exist_ok=True)
    return folder


def test_an_incomplete_archive_is_refused_with_the_first_missing_part(tmp_path):
    with pytest.raises(srpo.Error) as refused:
        list(LiberoPlus.tasks({"assets": str(tmp_path / "nowhere")}))
    assert "there is no folder" in str(refused.value) and refused.value.hint
    folder = make_archive(tmp_path / "a" / "b" / "assets")
    (folder / "wall.xml").unlink()
    (folder / "scenes" / "lights").rmdir()
    with pytest.raises(srpo.Error) as refused:
        list(LiberoPlus.tasks({"assets": str(tmp_path)}))
    assert "lacks scenes/lights and 1 more" in str(refused.value)
    assert refused.value.place.startswith("env.libero-plus.assets")


def test_a_relative_path_starts_in_the_users_folder(tmp_path, monkeypatch):
    folder = make_archive(tmp_path / "assets")
    monkeypatch.setenv("SRPO_WORKING_FOLDER", str(tmp_path))
    assert archive.Archive("assets").root == folder
    with pytest.raises(srpo.Error) as refused:
        archive.Archive("asets")
    assert str(tmp_path / "asets") in str(refused.value), "the error names the full path"


def test_with_an_archive_variants_with_their_files_are_available(tmp_path, tasks):
    folder = make_archive(tmp_path / "somebody" / "else" / "assets")
    settings = LiberoPlus.info.resolve({"assets": str(tmp_path)})
    listed = {t.id: t for t in LiberoPlus.tasks(settings)}
    assert sum(not t.unavailable for t in listed.values()) == 6983
    found = archive.Archive(str(tmp_path))
    assert found.root == folder
    chosen = {}
    for task in tasks:
        if task.unavailable:
            chosen.setdefault((task.tags["dimension"], task.tags.get("kind"), task.suite), variants.by_id()[task.id])
    assert len(chosen) == 16
    for variant in chosen.values():
        needs = found.needs(variant)
        assert needs, variant.id
        assert listed[variant.id].unavailable.endswith(f"lacks {needs[0]}")
        for name in needs:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("")
    listed = {t.id: t for t in LiberoPlus.tasks(settings)}
    for variant in chosen.values():
        assert listed[variant.id].unavailable == "", variant.id


def test_every_added_object_is_known(tasks):
    found = archive.Archive.__new__(archive.Archive)
    for task in tasks:
        variant = variants.by_id()[task.id]
        if variant.needs_archive:
            assert found.needs(variant), variant.id


def test_unknown_variants_are_refused():
    lane = LiberoPlus(srpo.EnvConfig(settings=LiberoPlus.info.resolve(), cameras={}))
    with pytest.raises(srpo.Error) as refused:
        lane.reset("libero_object/camera/nothing", 0, seed=0)
    assert refused.value.kind == "not found" and refused.value.hint
