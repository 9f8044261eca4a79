"""Several pictures in one run: stacked, detected, taken apart again, and what it costs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from helpers.detections import Detections
from helpers.errors import CourseError
from helpers.ort_runner import OnnxRunner
from helpers.paths import REPO_ROOT

__all__ = ["BatchCost", "BatchError", "detect_batch", "measure_batch", "stack"]


class BatchError(CourseError):
    """Tensors that do not make a batch, a batch that the graph does not take, or a measurement that failed."""


@dataclass(frozen=True)
class BatchCost:
    """One run in a process of its own. seconds: the run alone. peak_mb: most resident memory of the process, in MB."""

    batch: int
    seconds: float
    peak_mb: float


def stack(tensors: Sequence[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    """Prepared pictures (1, 3, H, W) as one batch (N, 3, H, W).

    Raises:
        BatchError: there is none, or they have different shapes.
    """
    if not tensors:
        raise BatchError("a batch of 0 pictures cannot be run", "give at least one picture")
    if shapes := {tensor.shape for tensor in tensors} - {tensors[0].shape}:
        raise BatchError(
            f"pictures of {tensors[0].shape} and {min(shapes)} make no batch", "prepare all of them in the same way"
        )
    return np.concatenate(tensors)


def detect_batch(runner: OnnxRunner, tensors: Sequence[npt.NDArray[np.float32]]) -> list[Detections]:
    """Detections of each picture, in pixels of the network's input, from one run of the graph.

    Raises:
        BatchError: no batch, or the graph is static at another batch.
    """
    batch = stack(tensors)
    size = runner.input_shape[0]
    if isinstance(size, int) and size != len(batch):
        raise BatchError(
            f"{runner.name} is static at a batch of {size}, got {len(batch)} pictures",
            "export it with helpers.export.dynamic_options",
        )
    raw = runner.run(batch)
    return [
        Detections.from_raw(dets, labels, masks)
        for dets, labels, masks in zip(raw["dets"], raw["labels"], raw["masks"], strict=True)
    ]


# A child process, because a process never gives its peak of resident memory back. Linux's ru_maxrss begins with what
# the parent held when it started the child; VmHWM counts from the child's own program on.
_MEASURE = """
import json, resource, sys, time
import numpy as np
import onnxruntime as ort
path, tensor, threads = sys.argv[1], np.load(sys.argv[2]), int(sys.argv[3])
options = ort.SessionOptions()
options.intra_op_num_threads = threads
session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
begun = time.perf_counter()
session.run(None, {"input": tensor})
seconds = time.perf_counter() - begun
if sys.platform == "linux":
    peak = 1024 * next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
else:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps([seconds, peak / 1e6]))
"""


def measure_batch(path: Path, batch: npt.NDArray[Any], workplace: Path, *, threads: int = 2) -> BatchCost:
    """Time and peak memory of the first run of a ``standard`` graph, in a fresh process.

    ``workplace`` is a folder for a temporary file.

    Raises:
        BatchError: the process failed, for want of memory for example.
    """
    saved = Path(workplace) / f"batch-{len(batch)}.npy"
    np.save(saved, batch)
    try:
        command = [sys.executable, "-c", _MEASURE, str(Path(path).resolve()), str(saved.resolve()), str(threads)]
        done = subprocess.run(command, cwd=REPO_ROOT, capture_output=True, text=True, check=False)
    finally:
        saved.unlink()
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise BatchError(f"the run of a batch of {len(batch)} failed ({last})", "try a smaller batch")
    seconds, peak = json.loads(done.stdout)
    return BatchCost(len(batch), seconds, peak)
