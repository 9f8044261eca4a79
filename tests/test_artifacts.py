from __future__ import annotations

import errno
import json
import os
import pickle
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from helpers import artifacts, paths
from helpers.artifacts import DiskSpaceError, is_current, make, recorded_inputs, whole_file, write_bytes
from helpers.errors import CourseError
from helpers.paths import FolderError
from helpers.scenes.training import save_progress


def test_an_interrupt_leaves_the_earlier_file_and_nothing_else(tmp_path):
    target = tmp_path / "graph.onnx"
    target.write_bytes(b"earlier")
    with pytest.raises(KeyboardInterrupt), whole_file(target) as temporary:
        temporary.write_bytes(b"half of the new o")
        raise KeyboardInterrupt
    assert target.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [target]


def test_a_full_disk_is_one_sentence_and_leaves_the_earlier_file(tmp_path):
    target = tmp_path / "graph.onnx"
    target.write_bytes(b"earlier")
    with pytest.raises(DiskSpaceError, match=r"no disk space left while writing .*graph\.onnx: free some space"):
        with whole_file(target) as temporary:
            temporary.write_bytes(b"new")
            raise OSError(errno.ENOSPC, "No space left on device")
    assert target.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [target]


def test_other_operating_system_errors_are_not_renamed(tmp_path):
    with pytest.raises(PermissionError), whole_file(tmp_path / "x"):
        raise PermissionError(errno.EACCES, "no")


def test_the_temporary_name_keeps_the_suffix(tmp_path):
    with whole_file(tmp_path / "weights.pth") as temporary:
        assert temporary.suffix == ".pth"


def builder(content: bytes, calls: list[bytes]):
    def build(path):
        calls.append(content)
        path.write_bytes(content)

    return build


def test_make_builds_once_for_the_same_inputs_and_again_for_others(tmp_path):
    target, calls = tmp_path / "a" / "graph.onnx", []
    for opset in (16, 16, 11):
        make(target, {"opset": opset}, builder(b"%d" % opset, calls), announce=lambda _: None)
    assert calls == [b"16", b"11"]
    assert target.read_bytes() == b"11"
    assert recorded_inputs(target) == {"opset": 11}


@pytest.mark.parametrize("damage", [b"", b"sixteen", b"sixteen, and then other bytes of the same lengt!"])
def test_a_truncated_or_changed_artifact_is_built_again(tmp_path, damage):
    target, calls = tmp_path / "graph.onnx", []
    whole = b"sixteen, and then other bytes of the same length"
    make(target, {}, builder(whole, calls), announce=lambda _: None)
    target.write_bytes(damage)
    assert not is_current(target, {})
    make(target, {}, builder(whole, calls), announce=lambda _: None)
    assert len(calls) == 2
    assert target.read_bytes() == whole


def test_a_damaged_record_means_a_rebuild(tmp_path):
    target, calls = tmp_path / "graph.onnx", []
    make(target, {}, builder(b"x", calls), announce=lambda _: None)
    (tmp_path / "graph.onnx.inputs.json").write_text('{"inputs": {}, "bytes"')
    assert recorded_inputs(target) is None
    make(target, {}, builder(b"x", calls), announce=lambda _: None)
    assert len(calls) == 2


def test_a_failing_builder_leaves_the_earlier_artifact_usable(tmp_path):
    target = tmp_path / "graph.onnx"
    make(target, {"n": 1}, builder(b"one", []), announce=lambda _: None)

    def fail(path):
        path.write_bytes(b"tw")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        make(target, {"n": 2}, fail, announce=lambda _: None)
    assert is_current(target, {"n": 1})
    assert not list(tmp_path.glob(f"{artifacts.SCRATCH}*"))


def test_inputs_are_compared_as_json(tmp_path):
    target = tmp_path / "x"
    make(target, {"shape": (1, 3)}, builder(b"x", []), announce=lambda _: None)
    assert is_current(target, {"shape": [1, 3]})
    assert json.loads((tmp_path / "x.inputs.json").read_text())["bytes"] == 1


def test_write_bytes_reports_a_full_disk(tmp_path, monkeypatch):
    def full(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(artifacts.Path, "write_bytes", full)
    with pytest.raises(DiskSpaceError):
        write_bytes(tmp_path / "x", b"y")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("write", [lambda path: write_bytes(path, b"x"), lambda path: make(path, {}, print)])
def test_a_folder_that_cannot_be_made_or_written_in_is_one_sentence(tmp_path, monkeypatch, write):
    (tmp_path / "file").touch()
    with pytest.raises(FolderError, match=r"the folder .*file/build cannot be made \(Not a directory\): name a folder"):
        write(tmp_path / "file" / "build" / "x")

    def read_only(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(artifacts.tempfile, "mkstemp", read_only)
    monkeypatch.setattr(artifacts.os, "open", read_only)
    with pytest.raises(FolderError, match=r"nothing can be written in .* \(Read-only file system\): name a folder"):
        write(tmp_path / "x")


def test_a_lock_file_is_not_opened_through_a_symbolic_link(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / ".graph.onnx.lock").symlink_to(victim)
    with pytest.raises(FolderError, match=r"the lock file .* is a symbolic link: delete it"):
        make(tmp_path / "graph.onnx", {}, builder(b"x", []), announce=lambda _: None)
    assert victim.read_text() == "precious"


def test_two_that_want_the_same_artifact_build_it_once(tmp_path):
    calls = []

    def build(path):
        time.sleep(0.2)
        builder(b"x", calls)(path)

    def want(_):
        return make(tmp_path / "graph.onnx", {}, build, announce=lambda _: None)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(want, range(3)))
    assert len(calls) == 1


KILLED = """
import os, signal, sys
from pathlib import Path
from helpers import artifacts
folder = Path(sys.argv[1])
with artifacts.whole_file(folder / "graph.onnx") as temporary, artifacts.whole_folder(folder / "bundle") as made:
    temporary.write_bytes(b"half")
    (made / "model.onnx").write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_is_removed_and_what_is_in_use_is_not(tmp_path):
    command = [sys.executable, "-c", KILLED, str(tmp_path / "a")]
    subprocess.run(command, cwd=paths.REPO_ROOT, check=False)
    left = sorted((tmp_path / "a").iterdir())
    assert [path.is_dir() for path in left] == [True, False]
    (tmp_path / f"{artifacts.SCRATCH}link").symlink_to(tmp_path / "other")
    with artifacts.scratch_file(tmp_path / "b.npz") as in_use, artifacts.whole_folder(tmp_path / "c") as folder:
        assert artifacts.remove_stale(tmp_path, below=False) == []
        assert artifacts.remove_stale(tmp_path) == left
        assert in_use.exists()
        assert in_use.suffix == ".npz"
        (folder / "file").touch()
    assert not any(path.exists() for path in left)
    assert not in_use.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{artifacts.SCRATCH}link", "a", "c"]


def test_who_makes_an_artifact_removes_what_a_killed_process_left_beside_it(tmp_path):
    (tmp_path / f"{artifacts.SCRATCH}graph-x.onnx").touch()
    make(tmp_path / "graph.onnx", {}, builder(b"x", []), announce=lambda _: None)
    assert not list(tmp_path.glob(f"{artifacts.SCRATCH}*"))


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_folder_takes_its_place_whole_or_not_at_all(tmp_path, error):
    target = tmp_path / "bundle"
    for content in ("one", "two"):
        with artifacts.whole_folder(target) as made:
            (made / content).touch()
        assert [path.name for path in target.iterdir()] == [content]
    with pytest.raises(DiskSpaceError if isinstance(error, OSError) else KeyboardInterrupt):
        with artifacts.whole_folder(target) as made:
            (made / "three").touch()
            raise error
    assert [path.name for path in target.iterdir()] == ["two"]
    assert list(tmp_path.iterdir()) == [target]


WRITERS = {
    "text": lambda path: artifacts.write_text(path, "x"),
    "onnx": lambda path: onnx.save(onnx.ModelProto(ir_version=8), path),
    "numpy": lambda path: np.savez(path, a=np.zeros(1)),
    "numpy, compressed": lambda path: np.savez_compressed(path, a=np.random.default_rng(0).random(50_000)),
    "torch's exporter": lambda path: torch.onnx.export(torch.nn.ReLU(), (torch.zeros(1),), str(path), dynamo=False),
    "training": lambda path: save_progress(path, torch.nn.Linear(300, 300), torch.nn.ReLU(), 1),
}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.filterwarnings("ignore")
def test_what_a_library_raises_on_a_full_disk_is_that_sentence(tmp_path, monkeypatch, writer):
    """Scratch files on Linux's own disk that is always full."""

    def scratch(prefix, suffix, dir):
        path = Path(dir, f"{prefix}x{suffix}")
        path.symlink_to("/dev/full")
        return os.open(path, os.O_RDWR), str(path)

    monkeypatch.setattr(artifacts.tempfile, "mkstemp", scratch)
    target = tmp_path / "x.npz"
    with pytest.raises(DiskSpaceError, match=r"no disk space left while writing .*x\.npz"):
        if writer in ("text", "training"):
            WRITERS[writer](target)
        else:
            with whole_file(target) as temporary:
                WRITERS[writer](temporary)
    assert list(tmp_path.iterdir()) == []


def test_a_relative_build_folder_counts_from_the_repository(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COURSE_BUILD", "here")
    assert paths.build_root() == paths.REPO_ROOT / "here"
    monkeypatch.setenv("COURSE_BUILD", str(tmp_path))
    assert paths.build_root() == tmp_path


def test_errors_survive_the_way_between_processes():
    error = pickle.loads(pickle.dumps(DiskSpaceError("the disk is full", "free some space")))
    assert isinstance(error, CourseError)
    assert str(error) == "the disk is full: free some space."


def test_a_modules_sources_are_its_own_and_those_that_it_imports_in_any_way(tmp_path, monkeypatch):
    import patches

    monkeypatch.setattr(patches, "__path__", [*patches.__path__, str(tmp_path)])
    texts = {
        "first": "import json, patches.second as other\nfrom patches import third",
        "second": "def late():\n    import helpers.operators.limits",
        "third": "from .fourth import VALUE",
        "fourth": "VALUE = 1",
        "fifth": "import patches.first",
    }
    for name, text in texts.items():
        (tmp_path / f"{name}.py").write_text(text)

    def sources():
        return artifacts.module_sources("patches.first")

    before = sources()
    own = {name for name in before if (tmp_path / f"{name.removeprefix('patches.')}.py").is_file()}
    assert own == {"patches.first", "patches.second", "patches.third", "patches.fourth"}
    assert "helpers.operators.limits" in before
    assert not {"json", "patches.fourth.VALUE"} & set(before)
    (tmp_path / "fourth.py").write_text("VALUE = 2")
    assert {name for name in before if sources()[name] != before[name]} == {"patches.fourth"}
