from __future__ import annotations

import logging
import shutil
import subprocess
import sys
import tempfile
from types import SimpleNamespace

import pytest

from helpers import environment, paths
from helpers.compat import ensure_torchvision
from helpers.environment import Finding, as_html, as_text, report


def test_every_line_that_is_not_ready_says_what_to_do():
    findings = report()
    names = [finding.name for finding in findings]
    assert {"torch", "mmcv-full", "weights: emoji", "GPU", "C++ compiler"} <= set(names)
    for finding in findings:
        assert (finding.status == "ready") or finding.action, finding.name
    assert all(
        finding.status == "ready" for finding in findings if finding.name in ("torch", "mmdet", "weights: emoji")
    )


def test_a_wrong_setting_is_a_line_of_the_report(monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_CHECKPOINT", str(paths.MODELS / "emoji" / "mask_rcnn_emoji.pth"))
    monkeypatch.setenv("COURSE_CLASSES", str(tmp_path / "no such file"))
    found = next(finding for finding in report() if finding.name == "weights: emoji")
    assert found.status == "missing"
    assert "no such file" in found.purpose
    assert found.action


def test_paths_are_shown_without_the_folders_of_this_machine(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(sys, "prefix", "/opt/python")
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setattr(sys, "executable", str(paths.REPO_ROOT / ".venv" / "bin" / "python"))
    assert next(finding for finding in report() if finding.name == "Python").purpose == ".venv/bin/python"
    frames = f"/opt/python/lib/torch.py(1): f\n{tmp_path}/cell.py(2): g\n/home/somebody/h.py(3): /usr/bin/c++"
    assert paths.shown(frames) == ".../lib/torch.py(1): f\n.../cell.py(2): g\n~/h.py(3): /usr/bin/c++"


def test_a_missing_package_is_missing():
    found = environment._package("nothing", "no-such-distribution")
    assert (found.status, found.version) == ("missing", "-")
    assert environment._package("nothing", "no-such-distribution", required=False).status == "optional"


def test_the_gpu_is_what_the_driver_says(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert environment.gpu_name() is None
    monkeypatch.setattr(shutil, "which", lambda _: "nvidia-smi")
    answer = subprocess.CompletedProcess([], 0, stdout="NVIDIA T4, 535.1\nNVIDIA T4, 535.1\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: answer)
    assert environment.gpu_name() == "NVIDIA T4, 535.1"

    def broken(*_, **__):
        raise subprocess.CalledProcessError(9, "nvidia-smi")

    monkeypatch.setattr(subprocess, "run", broken)
    assert not environment.gpu_available()


def test_tables_show_the_action_and_escape_markup():
    findings = [Finding("a<b", "missing", "-", "for", "do this"), Finding("c", "ready", "1", "for")]
    assert "a&lt;b" in as_html(findings)
    assert "do this" in as_html(findings)
    assert as_text(findings).count("->") == 1


def test_a_toolkit_without_a_gpu_is_not_said_at_the_head_of_every_chapter(monkeypatch):
    logger = logging.getLogger("torch.utils.cpp_extension")
    monkeypatch.setattr(logger, "level", logging.NOTSET)
    logger.manager._clear_cache()
    ensure_torchvision()
    assert not logger.isEnabledFor(logging.WARNING)
    assert logger.isEnabledFor(logging.ERROR)


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, 9e9),
        ({"memory.max": "max\n"}, 9e9),
        ({"memory.max": "5000000000\n"}, 5e9),
        ({"memory.max": "50000000000\n"}, 9e9),
        ({"memory/memory.limit_in_bytes": "4000000000"}, 4e9),
    ],
)
def test_a_container_has_no_more_memory_than_its_limit(tmp_path, monkeypatch, files, free):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(environment, "CONTROL_GROUPS", tmp_path)
    monkeypatch.setattr(environment.psutil, "virtual_memory", lambda: SimpleNamespace(available=int(9e9)))
    assert environment.free_memory() == free
