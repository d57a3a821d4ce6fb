"""The run folder's lock: one process at a time, whatever notes lie there."""

import os
import socket
import time
from multiprocessing import get_context

import pytest

from rtseg.core.errors import ConfigError
from rtseg.core.files import keep_known, read_known, sha256_file, write_json
from rtseg.core.run_folder import HOLDER, LOCK, RunBusy, RunFolder, holder
from rtseg.runs.config import load_preset
from rtseg.runs.runner import run


def hold(folder, talk):
    """In another process: wait for a word, try to take the folder, tell how that went, keep it until the next word."""
    talk.recv()
    try:
        with RunFolder(folder).lock():
            talk.send("held")
            talk.recv()
    except RunBusy:
        talk.send("busy")


def start(folder):
    """Another process and the line to it."""
    processes = get_context("fork")
    ours, theirs = processes.Pipe()
    other = processes.Process(target=hold, args=(folder, theirs), daemon=True)
    other.start()
    theirs.close()
    return other, ours


def told(talk):
    """The other process's next word."""
    assert talk.poll(60), "the other process says nothing"
    return talk.recv()


@pytest.fixture
def held(tmp_path):
    other, talk = start(tmp_path)
    talk.send("take it")
    assert told(talk) == "held"
    yield tmp_path, other
    other.kill()
    other.join()


def test_one_line_names_who_holds_it(held):
    folder, other = held
    with pytest.raises(RunBusy, match=f"in use by process {other.pid}, since 20") as refused, RunFolder(folder).lock():
        pass
    assert "\n" not in str(refused.value) and "--out" in str(refused.value)


def test_a_holder_on_another_machine_is_named_and_not_taken_for_dead(held):
    folder, _ = held
    write_json(folder / HOLDER, {"pid": 2**22 + 1, "host": "elsewhere", "since": "now"})  # no such process here
    with pytest.raises(RunBusy, match="process 4194305 on elsewhere"), RunFolder(folder).lock():
        pass


def test_nobody_can_take_it_before_the_note_is_written(held):
    folder, _ = held
    (folder / HOLDER).unlink()
    with pytest.raises(RunBusy, match="which has just taken it"), RunFolder(folder).lock():
        pass


def test_a_dead_process_holds_nothing(held):
    folder, other = held
    other.kill()
    other.join()
    assert holder(folder)["pid"] == other.pid and holder(folder)["host"] == socket.gethostname()
    with RunFolder(folder).lock():
        assert holder(folder)["pid"] != other.pid
    assert holder(folder) is None


@pytest.mark.parametrize(
    "note", ['{"pid": 1, "host": "elsewhere", "since": "long ago"}', "{", "1 0.0", "1", '{"pid": 1}']
)
def test_old_and_damaged_notes_hold_nothing(tmp_path, note):
    (tmp_path / HOLDER).write_text(note)
    (tmp_path / LOCK).write_text("1 0.0")  # what earlier versions wrote
    with RunFolder(tmp_path).lock():
        assert holder(tmp_path)["pid"] > 1


def test_of_several_that_ask_at_once_one_gets_it(tmp_path):
    others = [start(tmp_path) for _ in range(6)]
    for _, talk in others:
        talk.send("now")
    answers = sorted(told(talk) for _, talk in others)
    for other, _ in others:
        other.kill()
        other.join()
    assert answers == ["busy"] * 5 + ["held"]


def test_a_folder_of_somebody_else_is_refused_and_left_as_it_is(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/work.txt").write_text("x")
    with pytest.raises(ConfigError, match="is not empty and no run folder"):
        run(load_preset("smoke"), tmp_path / "mine", say=lambda _: None)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["work.txt"]


def test_a_file_is_read_once_until_it_changes(tmp_path, monkeypatch):
    run, read = RunFolder.create(tmp_path / "run", {}), []
    monkeypatch.setattr("rtseg.core.run_folder.sha256_file", lambda path: read.append(path.name) or sha256_file(path))
    for name in ("old", "young"):
        run.path(name).write_text(name)
    hour_ago = time.time() - 3600
    os.utime(run.path("old"), (hour_ago, hour_ago))
    monkeypatch.setattr("rtseg.core.files.FRESH_SECONDS", -60.0)  # the time of change cannot be set back
    run.record("data", params={}, outputs=["old"])
    assert run.is_current("data", params={}) and run.verify("old") and read == ["old"]
    run.path("old").write_text("new")
    assert not run.is_current("data", params={}) and read == ["old"] * 2
    caches = []
    monkeypatch.setattr("rtseg.core.run_folder.read_known", lambda path: caches.append("read") or read_known(path))
    monkeypatch.setattr("rtseg.core.run_folder.keep_known", lambda *words: caches.append("kept") or keep_known(*words))
    for name in "abc":
        run.path(name).write_text(name)
    run.record("three", params={}, inputs=["old"], outputs="abc")
    assert run.is_current("three", params={}) and caches == ["read", "kept", "read"] and read[2:] == [*"abc"]
    del read[2:]
    monkeypatch.setattr("rtseg.core.files.FRESH_SECONDS", 60.0)  # within a tick of its times a file may change unseen
    run.record("search", params={}, outputs=["young"])
    assert run.is_current("search", params={}) and read[2:] == ["young"] * 2
