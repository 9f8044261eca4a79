"""What a batch costs: time and memory of one run, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from helpers import artifacts
from helpers.graph.detect import BatchError
from helpers.paths import REPO_ROOT

__all__ = ["BatchCost", "measure_batch"]


@dataclass(frozen=True)
class BatchCost:
    """Two runs in a process of its own. first_seconds: the first, which finds no memory set aside. seconds: the second.
    peak_mb: most resident memory of the process, in MB."""

    batch: int
    first_seconds: float
    seconds: float
    peak_mb: float


# A child process, because a process never gives its peak of resident memory back. Linux's ru_maxrss begins with what
# the parent held when it started the child; VmHWM counts from the child's own program on.
_MEASURE = """
import json, resource, sys, time
import numpy as np
import onnxruntime as ort
path, feeds, threads = sys.argv[1], dict(np.load(sys.argv[2])), int(sys.argv[3])
options = ort.SessionOptions()
options.intra_op_num_threads = threads
session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
feeds = {value.name: feeds[value.name] for value in session.get_inputs()}
taken = []
for _ in range(2):
    begun = time.perf_counter()
    session.run(None, feeds)
    taken.append(time.perf_counter() - begun)
if sys.platform == "linux":
    peak = 1024 * next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
else:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps([*taken, peak / 1e6]))
"""


def measure_batch(path: Path, feeds: Mapping[str, npt.NDArray[Any]], workplace: Path, *, threads: int = 2) -> BatchCost:
    """Times and peak memory of the first two runs of a ``standard`` graph, in a fresh process.

    Feeds that the graph does not have are left out. ``workplace`` is a folder for a temporary file.

    Raises:
        BatchError: the process failed, for want of memory for example.
    """
    size = len(next(iter(feeds.values())))
    with artifacts.scratch_file(Path(workplace) / f"batch-{size}.npz") as saved:
        np.savez(saved, allow_pickle=False, **dict(feeds))
        command = [sys.executable, "-c", _MEASURE, str(Path(path).resolve()), str(saved.resolve()), str(threads)]
        done = subprocess.run(command, cwd=REPO_ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise BatchError(f"the run of a batch of {size} failed ({last})", "try a smaller batch")
    return BatchCost(size, *json.loads(done.stdout))
