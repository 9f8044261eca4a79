from __future__ import annotations

import errno
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

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
    "name",
    ["requirements.txt", "constraints.txt", "requirements-nodeps.txt", "requirements-gpu.txt", "requirements-ray.txt"],
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


def test_another_locale_does_not_make_it_another_place(tmp_path):
    folder = tmp_path / "Kurs-é" / "scripts"
    folder.mkdir(parents=True)
    shutil.copy(setup.__file__, folder)
    for name in setup.LISTS:
        (folder.parent / name).touch()

    def root(**environment):
        command = [sys.executable, "-c", "import setup_environment as s; print(ascii(s.wanted()['root']))"]
        return subprocess.run(
            command, cwd=folder, env=os.environ | environment, capture_output=True, text=True, check=True
        ).stdout

    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    assert root(PYTHONUTF8="1") == root(**ascii_only)


KEPT = "mmcv_full-1.7.2-cp311-cp311-linux_x86_64.whl"


def test_a_wheel_is_kept_per_torch(monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    first, second = setup.wheel_folder("2.13.0+cpu"), setup.wheel_folder("2.12.0")
    assert first != second
    first.mkdir(parents=True)
    (first / KEPT).touch()
    monkeypatch.setattr(setup, "build", lambda _: pytest.fail("the kept wheel was not used"))
    monkeypatch.setenv("CXX", "no-such-compiler")  # nor is a compiler needed
    with setup.mmcv_wheel("2.13.0+cpu") as finished:
        assert finished().parent == first


@pytest.fixture
def compiling(monkeypatch, tmp_path):
    """``compiling(text)``: pip's work is the Python text, which gets the folder for the wheel as its argument."""
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(setup, "source", lambda into: into)
    monkeypatch.setattr(setup, "merge_sources", lambda _: None)

    def use(text):
        script = tmp_path / "pip.py"
        script.write_text("import pathlib, subprocess, sys, time\ninto = pathlib.Path(sys.argv[-2])\n" + text)
        monkeypatch.setattr(setup, "PIP", [sys.executable, str(script)])
        return setup.wheel_folder("1.0")

    return use


def files(folder):
    return {path.name for path in folder.rglob("*") if path.is_file()} - {".lock"}


def test_it_compiles_while_other_packages_are_installed(compiling, tmp_path, capsys):
    signal_file = tmp_path / "installed"
    wait = f"while not pathlib.Path({str(signal_file)!r}).exists(): time.sleep(0.05)\n"
    folder = compiling(wait + f"(into / {KEPT!r}).write_text('wheel')\n")
    (folder / ".building-old").mkdir(parents=True)
    (folder / ".building-old" / "half.o").touch()
    with setup.mmcv_wheel("1.0") as finished:
        signal_file.touch()  # were it compiled first, it would wait for this forever
        assert finished() == folder / KEPT
    assert files(folder) == {KEPT}
    assert not list(folder.glob(".building-*"))
    assert "compiled mmcv-full in" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("error: expected ;", "could not be compiled"),
        ("No space left on device", "no disk space left"),
        ("c++: fatal error: Killed signal terminated program cc1plus", "ran out of memory"),
    ],
)
def test_a_failed_compilation_is_one_sentence_after_the_compilers_words(compiling, capsys, words, sentence):
    folder = compiling(f"print({words!r}); sys.exit(1)\n")
    with pytest.raises(setup.SetupError, match=sentence):
        with setup.mmcv_wheel("1.0") as finished:
            finished()
    assert words in capsys.readouterr().err
    assert files(folder) == set()


@pytest.mark.parametrize("reason", [KeyboardInterrupt, setup.SetupError])
def test_what_ends_the_installation_ends_the_compilers_too_and_leaves_no_wheel(compiling, tmp_path, reason):
    started = tmp_path / "started"
    folder = compiling(
        f"child = subprocess.Popen(['sleep', '600'])\n(into / {KEPT!r}).touch()\n"
        f"(into / 'pid').write_text(str(child.pid)); (into / 'pid').rename({str(started)!r})\ntime.sleep(600)\n"
    )
    with pytest.raises(reason):
        with setup.mmcv_wheel("1.0"):
            while not started.exists():
                time.sleep(0.02)
            raise reason
    child = Path(f"/proc/{started.read_text()}/stat")
    deadline = time.monotonic() + 20
    while child.exists() and " Z " not in child.read_text() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not child.exists() or " Z " in child.read_text()
    assert files(folder) == set()


def test_two_at_once_compile_once(compiling, tmp_path):
    count = tmp_path / "count"
    folder = compiling(f"open({str(count)!r}, 'a').write('x')\ntime.sleep(0.2)\n(into / {KEPT!r}).touch()\n")

    def wheel(_):
        with setup.mmcv_wheel("1.0") as finished:
            return finished()

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(wheel, range(2))) == [folder / KEPT] * 2
    assert count.read_text() == "x"


def test_all_sources_are_merged_once_each_in_an_order_that_compiles(tmp_path):
    folder = tmp_path / "mmcv/ops/csrc/pytorch"
    (folder / "cpu").mkdir(parents=True)
    interfaces = ["nms", "psamask", "pybind", "roi_align"]
    loops = ["nms", "psamask", "roi_align", "roi_align_rotated", "rotated_feature_align", "voxelization"]
    for name in (*interfaces, *(f"cpu/{name}" for name in loops)):
        (folder / f"{name}.cpp").write_text(f"// {name}")
    setup.merge_sources(tmp_path)
    assert sorted(path.name for path in folder.rglob("*.cpp")) == ["unity_a.cpp", "unity_b.cpp"]
    first, second = (re.findall(r'"(.*)\.inc"', (folder / f"unity_{name}.cpp").read_text()) for name in "ab")
    assert sorted(first + second) == sorted([*interfaces, *(f"cpu/{name}" for name in loops)])
    assert "cpu/roi_align" in second
    assert {"cpu/roi_align_rotated", "cpu/rotated_feature_align"} <= set(first), "they name their functions alike"
    assert second[-1] == "cpu/psamask", "its macros min and max would change what follows"
    assert all((folder / f"{name}.inc").read_text() == f"// {name}" for name in first + second)


#: As in mmcv-full 1.7.2's setup.py.
VERSION = """
def get_version():
    version_file = 'version.py'
    with open(version_file, encoding='utf-8') as f:
        exec(compile(f.read(), version_file, 'exec'))
    return locals()['__version__']
print(get_version())
"""


@pytest.mark.parametrize("stopped", [False, True])
def test_only_the_published_source_is_unpacked(monkeypatch, tmp_path, stopped):
    """In Python 3.13 pip stops in its setup.py, and leaves no archive but what it unpacked."""

    def download(*arguments, temporary, unless):
        wanted = Path(arguments[arguments.index("-r") + 1]).read_text()
        assert re.fullmatch(r"mmcv-full==1\.7\.2 --hash=sha256:[0-9a-f]{64}\n", wanted)
        assert {"--require-hashes", "--no-clean"} <= set(arguments)
        unpacked = temporary / ("pip-download-x/mmcv-full_0123" if stopped else "mmcv-full-1.7.2")
        unpacked.mkdir(parents=True)
        (unpacked / "setup.py").write_text(VERSION)
        (unpacked / "version.py").write_text("__version__ = '1.7.2'")
        if not stopped:
            shutil.make_archive(str(unpacked), "gztar", temporary, unpacked.name)
            shutil.rmtree(unpacked)

    monkeypatch.setattr(setup, "run_pip", download)
    tree = setup.source(tmp_path)
    asked = subprocess.run([sys.executable, "setup.py"], cwd=tree, capture_output=True, text=True, check=True)
    assert asked.stdout.strip() == "1.7.2"
    assert "locals()" not in (tree / "setup.py").read_text()


def test_a_failure_of_pip_is_none_only_if_it_is_the_one_expected(capsys):
    setup.run_pip("no-such-command", unless="no-such-command")
    assert not capsys.readouterr().err
    with pytest.raises(setup.SetupError, match="pip failed"):
        setup.run_pip("no-such-command", unless="another")
    assert "no-such-command" in capsys.readouterr().err


def test_without_a_compiler_it_says_so_before_anything_is_built(monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(setup.SetupError, match=r"'no-such-compiler' was not found: install g\+\+"):
        with setup.mmcv_wheel("1.0"):
            pass


def test_the_check_names_everything_that_is_missing_and_downloads_nothing(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(setup, "is_done", lambda: False)
    monkeypatch.setattr(setup, "run_pip", lambda *_: pytest.fail("nothing was to be installed"))
    monkeypatch.setattr(setup, "answers", lambda _: True)
    monkeypatch.setattr(setup, "memory_gb", lambda: 16.0)
    monkeypatch.setattr(setup.shutil, "disk_usage", lambda _: SimpleNamespace(free=50e9))
    monkeypatch.setattr(setup, "no_compiler", lambda: "")
    monkeypatch.setattr(setup.shutil, "which", lambda _: None)
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "not made yet"))
    assert setup.main(["--check"]) == 0
    assert "nothing is missing" in capsys.readouterr().out
    monkeypatch.setattr(setup.shutil, "disk_usage", lambda _: SimpleNamespace(free=6e9))
    assert setup.main(["--check"]) == 0
    monkeypatch.setattr(setup, "answers", lambda address: "pytorch" not in address)
    assert setup.main(["--check"]) == 1
    assert "6.0 GB of disk are free" in capsys.readouterr().out, "the CUDA build of torch needs more"
    monkeypatch.setattr(setup, "answers", lambda _: False)
    monkeypatch.setattr(setup, "memory_gb", lambda: 0.7)
    monkeypatch.setattr(setup.shutil, "disk_usage", lambda _: SimpleNamespace(free=1e9))
    monkeypatch.setattr(setup, "no_compiler", lambda: "the C++ compiler 'c++' was not found: install g++.")
    monkeypatch.setattr(setup, "PYTHONS", ((3, 8), (3, 9)))
    monkeypatch.setenv("COURSE_CACHE", f"{__file__}/cache")
    monkeypatch.setenv("PIP_INDEX_URL", "https://someone:secret@pypi.example/simple/")
    assert setup.main(["--check"]) == 1
    said = capsys.readouterr().out
    for words in ("this is Python 3", "c++", "1.0 GB of disk", "0.7 GB of memory", "https://pypi.example/simple/ does"):
        assert words in said
    assert f"nothing can be written in {__file__}: use a folder of your own" in said
    assert "secret" not in said


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "no disk space left"), (errno.EROFS, "kept cannot be written"), (errno.EIO, "")],
)
def test_a_place_that_cannot_be_written_is_one_sentence(monkeypatch, capsys, number, words):
    def refuse():
        raise OSError(number, os.strerror(number), "kept")

    monkeypatch.setattr(setup, "is_done", refuse)
    if not words:
        with pytest.raises(OSError, match="kept"):
            setup.main([])
    else:
        assert setup.main([]) == 1
        assert f"set-up: {words}" in capsys.readouterr().err


def test_an_index_that_does_not_answer_is_no_error():
    assert not setup.answers("http://127.0.0.1:9/simple/")
    assert not setup.answers("no address")


@pytest.mark.parametrize(
    ("answering", "gpu", "there"), [(True, False, True), (False, False, False), (True, True, False)]
)
def test_the_cpu_build_of_torch_is_asked_for_only_where_it_can_be_had(monkeypatch, capsys, answering, gpu, there):
    monkeypatch.setattr(setup, "installed", lambda _: None)
    monkeypatch.setattr(setup, "answers", lambda _: answering)
    monkeypatch.setattr(setup.platform, "system", lambda: "Linux")
    monkeypatch.setattr(setup.shutil, "which", lambda name: "/usr/bin/nvidia-smi" if gpu else None)
    calls = []

    def pip(*arguments):
        calls.append(setup.CPU_TORCH in arguments)
        if calls[-1]:
            raise setup.SetupError("no such version there")

    monkeypatch.setattr(setup, "pip", pip)
    setup.install_torch("torch==2.13.0")
    # And where that index fails after all, the usual one has its turn.
    assert calls == ([True, False] if there else [False])
    said = capsys.readouterr().out
    assert ("torch's CPU build, from" in said) == there
    assert ("now from the usual index" in said) == there
    assert ("does not answer" in said) == (not answering)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("OSError: [Errno 28] No space left on device", "no disk space left"),
        ("NewConnectionError: Temporary failure in name resolution", "go online"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE", "is not the published file"),
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
    assert "no Python 3.11, 3.12 or 3.13" in finished.stderr


def test_the_shell_part_and_the_packages_accept_the_same_pythons():
    shell = (paths.REPO_ROOT / "scripts" / "setup.sh").read_text()
    least, below = setup.PYTHONS
    assert f"{least} <= sys.version_info[:2] < {below}" in shell
    assert 'requires-python = ">=3.11,<3.14"' in (paths.REPO_ROOT / "pyproject.toml").read_text()
    assert setup.PYTHONS == ((3, 11), (3, 14))


def test_the_shell_part_prints_the_interpreter(monkeypatch):
    if not setup.is_done():
        pytest.skip("this environment was not made by scripts/setup.sh")
    command = ["bash", str(paths.REPO_ROOT / "scripts" / "setup.sh")]
    environment = {**os.environ, "VIRTUAL_ENV": sys.prefix}
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == f"{sys.prefix}/bin/python"
