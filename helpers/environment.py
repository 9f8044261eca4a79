"""What is installed here, what will run live, and what to do about the rest."""

from __future__ import annotations

import contextlib
import html
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from helpers import paths
from helpers.compat import ensure_torchvision, torchvision_is_stand_in
from helpers.errors import CourseError

__all__ = ["Finding", "as_html", "as_text", "free_memory", "gpu_available", "gpu_name", "report"]

Status = Literal["ready", "optional", "missing"]
CONTROL_GROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    status: "ready"; "optional" (not here, and the course runs without it); "missing" (the course needs it).
    purpose: what it is for. action: what to do if it is wanted and not ready; empty if nothing.
    """

    name: str
    status: Status
    version: str
    purpose: str
    action: str = ""


def gpu_name() -> str | None:
    """The first NVIDIA GPU as its driver names it, or None. Asks the driver, so no CUDA build of torch is needed."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    command = [tool, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.splitlines()[0].strip() if answer.strip() else None


def gpu_available() -> bool:
    """Whether an NVIDIA GPU answers."""
    return gpu_name() is not None


def _version(*distributions: str) -> str | None:
    for name in distributions:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def _package(
    purpose: str, *distributions: str, required: bool = True, action: str = "run ./scripts/setup.sh"
) -> Finding:
    # Metadata only: importing TensorRT without its libraries can end the process.
    version = _version(*distributions)
    absent: Status = "missing" if required else "optional"
    return Finding(distributions[0], "ready" if version else absent, version or "-", purpose, "" if version else action)


def _tool(name: str, purpose: str, commands: Sequence[str], action: str) -> Finding:
    found = next((path for path in map(shutil.which, commands) if path), None)
    return Finding(name, "ready" if found else "optional", found or "-", purpose, "" if found else action)


def _torchvision() -> Finding:
    ensure_torchvision()
    purpose = "mmcv imports it for the names of its model zoo"
    if torchvision_is_stand_in():
        return Finding("torchvision", "ready", "stand-in", f"{purpose}; the course's empty stand-in serves here")
    return Finding("torchvision", "ready", _version("torchvision") or "?", purpose)


def _weights() -> list[Finding]:
    from helpers.detector.models import model_spec

    findings = []
    for name in ("emoji", "r50"):
        try:
            spec = model_spec(name)
        except CourseError as error:
            findings.append(Finding(f"weights: {name}", "missing", "-", error.problem, error.next_step))
            continue
        present = spec.checkpoint is not None and spec.checkpoint.is_file()
        needed: Status = "missing" if name == "emoji" else "optional"
        action = (
            "check out the repository again"
            if name == "emoji"
            else "only for COURSE_MODEL=r50: run `python -m helpers.detector.models` online, or name a file in "
            "COURSE_CHECKPOINT"
        )
        label = spec.checkpoint.name if present and spec.checkpoint else "-"
        purpose = "the embedded model" if name == "emoji" else "the official COCO model"
        findings.append(
            Finding(f"weights: {name}", "ready" if present else needed, label, purpose, "" if present else action)
        )
    return findings


def _disk() -> Finding:
    root = paths.build_root()
    existing = next(folder for folder in (root, *root.parents) if folder.exists())
    free = shutil.disk_usage(existing).free / 1e9
    action = "" if free > 3 else "free about 3 GB, or point COURSE_BUILD at another disk"
    return Finding(
        "disk", "ready" if free > 3 else "missing", f"{free:.0f} GB free", "everything made goes to build/", action
    )


def free_memory() -> int:
    """Bytes that programs can have: what the machine has free, and no more than a container's limit."""
    free = psutil.virtual_memory().available
    for file in ("memory.max", "memory/memory.limit_in_bytes"):  # control groups, version 2 and 1
        with contextlib.suppress(OSError, ValueError):  # "max": none
            free = min(free, int((CONTROL_GROUPS / file).read_text()))
    return free


def _memory() -> Finding:
    total = psutil.virtual_memory().total / 1e9
    enough = total >= 11
    action = "" if enough else "chapters 04 and 07 may be ended by the system: close other programs before them"
    return Finding(
        "memory", "ready" if enough else "optional", f"{total:.0f} GB", "chapter 04 takes 6.5 GB, 07 9", action
    )


def report() -> list[Finding]:
    """Look at everything the course can use. Nothing is imported that could end the process."""
    gpu = gpu_name()
    gpu_action = "GPU cells show recorded runs instead; nothing else is lost"
    trt_action = "with a GPU that TensorRT supports: pip install -r requirements-gpu.txt"
    return [
        Finding("Python", "ready", platform.python_version(), paths.shown(sys.executable)),
        Finding("CPU", "ready", f"{os.cpu_count()} cores", f"{platform.machine()}, {platform.system()}"),
        _memory(),
        _disk(),
        _package("runs the original model", "torch"),
        _torchvision(),
        _package("RoIAlign and NMS for mmdet, compiled here", "mmcv-full"),
        _package("the model's code", "mmdet"),
        *_weights(),
        _package("reads and writes graphs", "onnx"),
        _package("runs graphs on the CPU", "onnxruntime"),
        _package("runs the custom operators of the mmcv flavour", "onnxruntime-extensions"),
        _package("simplifies graphs", "onnxsim"),
        _package("shows graphs", "netron"),
        _package("a real TensorRT parser that works without a GPU", "tensorrt_rtx_cu13_bindings"),
        _tool("C++ compiler", "builds the plugins' host library", ("c++", "g++", "clang++"), "install g++"),
        _tool("nvcc", "compiles the CUDA kernels", ("nvcc",), "install the CUDA toolkit to compile the kernels"),
        _tool(
            "Chromium",
            "takes fresh pictures of netron",
            ("chromium", "chromium-browser", "google-chrome"),
            "without it the rendered pages show the committed pictures, labelled so",
        ),
        Finding(
            "GPU", "ready" if gpu else "optional", gpu or "-", "TensorRT and CUDA kernels", "" if gpu else gpu_action
        ),
        _package("builds and runs engines", "tensorrt", required=False, action=trt_action),
        _package("device memory and streams", "pycuda", required=False, action=trt_action),
    ]


_MARKS: dict[Status, tuple[str, str]] = {
    "ready": ("✓ ready", "color:#116329;background:#dafbe1"),
    "optional": ("○ not here", "color:#7d4e00;background:#fff8c5"),
    "missing": ("✗ missing", "color:#a40e26;background:#ffebe9"),
}


def as_html(findings: Sequence[Finding]) -> str:
    """The report as an HTML table."""
    rows = []
    for finding in findings:
        mark, colours = _MARKS[finding.status]
        cells = (finding.name, finding.version, finding.purpose, finding.action)
        row = "".join(f"<td style='text-align:left'>{html.escape(cell)}</td>" for cell in cells)
        rows.append(
            f"<tr><td style='text-align:left;white-space:nowrap'><b style='{colours}'>{mark}</b></td>{row}</tr>"
        )
    titles = {"": "auto", "what": "auto", "version": "auto", "for": "35%", "to do": "25%"}
    head = "".join(f"<th style='text-align:left;width:{width}'>{title}</th>" for title, width in titles.items())
    return f"<table style='width:100%'><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def as_text(findings: Sequence[Finding]) -> str:
    """The report as plain lines."""
    width = max(len(finding.name) for finding in findings)
    lines = []
    for finding in findings:
        action = f"  -> {finding.action}" if finding.action else ""
        lines.append(f"{_MARKS[finding.status][0]:<11} {finding.name:<{width}}  {finding.version}{action}")
    return "\n".join(lines)
