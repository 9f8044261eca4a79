from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys

import pytest

from helpers import paths

_spec = importlib.util.spec_from_file_location(
    "setup_environment", paths.REPO_ROOT / "scripts" / "setup_environment.py"
)
setup = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(setup)


def lines(name):
    text = (paths.REPO_ROOT / name).read_text()
    return [line for line in text.splitlines() if line and not line.startswith(("#", "-"))]


@pytest.mark.parametrize(
    "name", ["requirements.txt", "constraints.txt", "requirements-nodeps.txt", "requirements-gpu.txt"]
)
def test_every_version_is_pinned(name):
    for line in lines(name):
        assert re.fullmatch(r"[\w.\-]+==[\w.+]+", line), line


def test_the_conda_file_points_at_the_one_list():
    text = (paths.REPO_ROOT / "environment.yml").read_text()
    assert "-r requirements.txt" in text
    assert "==" not in text


def test_this_environment_has_the_pinned_versions():
    for line in lines("requirements.txt") + lines("requirements-nodeps.txt"):
        name, version = line.split("==")
        assert (setup.installed(name) or "").split("+")[0] == version, name
    assert setup.installed("mmcv-full") == setup.MMCV


def test_a_second_run_has_nothing_to_do_and_a_changed_list_has(monkeypatch, tmp_path):
    monkeypatch.setattr(setup, "STAMP", tmp_path / "stamp.json")
    assert not setup.is_done()
    setup.STAMP.write_text("{")
    assert not setup.is_done()
    setup.STAMP.write_text(setup.json.dumps(setup.wanted()))
    assert setup.is_done()
    monkeypatch.setattr(setup, "pip", lambda *_: pytest.fail("nothing had to be installed"))
    assert setup.main([]) == 0
    monkeypatch.setattr(setup, "LISTS", setup.LISTS[:-1])
    assert not setup.is_done()


def test_a_wheel_is_kept_per_torch(monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    first, second = setup.wheel_folder("2.13.0+cpu"), setup.wheel_folder("2.12.0")
    assert first != second
    first.mkdir(parents=True)
    (first / "mmcv_full-1.7.2-cp311-cp311-linux_x86_64.whl").touch()
    monkeypatch.setattr(setup, "build_wheel", lambda _: pytest.fail("the kept wheel was not used"))
    assert setup.mmcv_wheel("2.13.0+cpu").parent == first


def test_an_interrupted_build_leaves_no_wheel(monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))

    def interrupted(into):
        (into / "mmcv_full-1.7.2-half.whl").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(setup, "build_wheel", interrupted)
    with pytest.raises(KeyboardInterrupt):
        setup.mmcv_wheel("1.0")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_without_a_compiler_it_says_so_before_anything_is_built(monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(setup.SetupError, match=r"'no-such-compiler' was not found: install g\+\+"):
        setup.mmcv_wheel("1.0")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("OSError: [Errno 28] No space left on device", "no disk space left"),
        ("NewConnectionError: Temporary failure in name resolution", "go online"),
        ("something else", "pip failed"),
    ],
)
def test_pip_failures_become_one_sentence_after_pips_own_words(monkeypatch, capsys, words, sentence):
    answer = subprocess.CompletedProcess([], 1, stdout="", stderr=words)
    monkeypatch.setattr(setup.subprocess, "run", lambda *_, **__: answer)
    with pytest.raises(setup.SetupError, match=sentence):
        setup.pip("torch")
    assert words in capsys.readouterr().err


def test_an_interrupt_is_one_sentence(monkeypatch, capsys):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(setup, "is_done", interrupted)
    assert setup.main([]) == 130
    assert "interrupted; run the same command again" in capsys.readouterr().err


def test_the_shell_part_refuses_another_python(tmp_path):
    fake = tmp_path / "bin"
    fake.mkdir()
    (fake / "python").write_text("#!/bin/sh\nexit 1\n")
    (fake / "python").chmod(0o755)
    environment = {**os.environ, "VIRTUAL_ENV": str(tmp_path)}
    command = ["bash", str(paths.REPO_ROOT / "scripts" / "setup.sh")]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 1
    assert "no Python 3.11" in finished.stderr


def test_the_shell_part_prints_the_interpreter(monkeypatch):
    if not setup.is_done():
        pytest.skip("this environment was not made by scripts/setup.sh")
    command = ["bash", str(paths.REPO_ROOT / "scripts" / "setup.sh")]
    environment = {**os.environ, "VIRTUAL_ENV": sys.prefix}
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == f"{sys.prefix}/bin/python"
