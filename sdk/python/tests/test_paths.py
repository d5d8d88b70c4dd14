"""Paths in settings."""

import os

import srpo_sdk as srpo


def test_a_path_is_relative_to_the_users_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("SRPO_WORKING_FOLDER", str(tmp_path))
    monkeypatch.setenv("HOME", "/somebody")
    assert srpo.path("runs/../model") == str(tmp_path / "model")
    assert srpo.path("/a/b") == "/a/b"
    assert srpo.path("~/model") == "/somebody/model"
    assert srpo.path("") == ""
    monkeypatch.delenv("SRPO_WORKING_FOLDER")  # started by hand
    assert srpo.path("model") == os.path.join(os.getcwd(), "model")
