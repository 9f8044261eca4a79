"""Run the course headlessly on one model and write it as a site of HTML pages.

Every notebook is executed in order from a fresh kernel, in the repository root. A failing chapter does not stop the
others; the failing cell and its traceback are printed last, and the exit status says so.
"""

from __future__ import annotations

import argparse
import atexit
import json
import os
import re
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from helpers import paths
from helpers.artifacts import write_text
from helpers.detector.models import MODEL_NAMES, download_checkpoint, model_spec
from helpers.detector.preprocess import read_picture
from helpers.environment import gpu_available
from helpers.errors import CourseError
from helpers.site import Chapter, chapter_goal, chapter_title, index_page, page


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="run_course.sh", description=__doc__)
    parser.add_argument("--only", help="chapters to run, by number: 03,04 (default: all)")
    parser.add_argument("--model", choices=MODEL_NAMES, default=None, help="default: $COURSE_MODEL, else emoji")
    parser.add_argument("--checkpoint", type=Path, help="a checkpoint file for the model")
    parser.add_argument("--image", type=Path, help="a picture to use beside the demo pictures")
    parser.add_argument("--jobs", type=int, default=1, help="chapters at a time (default: 1)")
    parser.add_argument("--notebooks", type=Path, default=paths.NOTEBOOKS, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, default=None, help="where the site goes (default: build/site)")
    return parser.parse_args(arguments)


def select(folder: Path, only: str | None) -> list[Path]:
    """The notebooks to run. Raises CourseError for a number that no notebook has."""
    found = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not found:
        raise CourseError(f"there are no notebooks in {folder}", "check out the repository again")
    if only is None:
        return found
    wanted = [number.strip().zfill(2) for number in only.split(",") if number.strip()]
    numbers = {path.name[:2] for path in found}
    unknown = [number for number in wanted if number not in numbers]
    if unknown or not wanted:
        raise CourseError(
            f"there is no chapter {', '.join(unknown) or repr(only)}", f"choose from {', '.join(sorted(numbers))}"
        )
    return [path for path in found if path.name[:2] in wanted]


def _gpu_cells(notebook: Any) -> int:
    return sum("gpu" in cell.metadata.get("tags", []) for cell in notebook.cells)


class Running:
    """The notebooks that are being executed, so that an interrupt can end their kernels."""

    def __init__(self) -> None:
        self.clients: set[NotebookClient] = set()
        self.stopping = False

    def stop(self) -> None:
        """Kill every kernel. nbclient then sees a dead kernel, and the thread that waits for it comes to an end.

        Asks again until all have ended: a kernel that is only starting has no process to kill yet.
        """
        self.stopping = True
        while self.clients:
            for client in list(self.clients):
                process = getattr(getattr(client.km, "provisioner", None), "process", None)
                if process is not None:
                    process.kill()
            time.sleep(0.1)


def execute(chapter: Chapter, has_gpu: bool, executed: Path, running: Running) -> tuple[Chapter, Any, str]:
    """Run one notebook; returns the chapter with its outcome, the executed notebook, and what went wrong."""
    notebook = nbformat.read(chapter.path, as_version=4)
    began = time.monotonic()
    trouble = ""
    client = NotebookClient(
        notebook, timeout=1800, kernel_name="python3", resources={"metadata": {"path": str(paths.REPO_ROOT)}}
    )
    running.clients.add(client)
    try:
        if not running.stopping:
            client.execute()
    except CellExecutionError as error:
        trouble = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    except Exception:  # a kernel that died, a time-out: a failed chapter, not a failed course
        trouble = traceback.format_exc()
    finally:
        running.clients.discard(client)
        # Where a kernel ends before it is ready, nbclient leaves a clean-up behind that fails noisily at exit.
        atexit.unregister(client._cleanup_kernel)
    done = replace(
        chapter,
        outcome="failed" if trouble else "ran",
        seconds=time.monotonic() - began,
        skipped=0 if has_gpu else _gpu_cells(notebook),
    )
    if not trouble:
        write_text(executed / chapter.path.name, nbformat.writes(notebook))
    return done, notebook, trouble


def progress_line(chapter: Chapter) -> str:
    skipped = f", {chapter.skipped} GPU cells found no GPU" if chapter.skipped else ""
    return f"{chapter.path.stem:<34} {chapter.outcome:<7} {chapter.seconds:6.1f} s{skipped}"


def earlier_runs(site: Path) -> dict[str, dict[str, Any]]:
    """What earlier calls recorded about the pages that lie in ``site``."""
    try:
        content = json.loads((site / "chapters.json").read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    site = options.output or paths.build_root() / "site"
    if options.model:
        os.environ["COURSE_MODEL"] = options.model
    if options.checkpoint:
        os.environ["COURSE_CHECKPOINT"] = str(options.checkpoint.resolve())
    if options.image:
        read_picture(options.image)
        os.environ["COURSE_IMAGE"] = str(options.image.resolve())
    os.environ.setdefault("PYTHONWARNINGS", "ignore::UserWarning:mmcv,ignore::UserWarning:mmdet.datasets.utils")
    # torch's exporter says once per node that it cannot infer mmcv's operators; that is known and fills the pages.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    spec = model_spec()
    if spec.checkpoint is None:
        download_checkpoint(spec.name)
    chosen = select(options.notebooks, options.only)
    every = select(options.notebooks, None)
    remembered = earlier_runs(site)
    chapters: dict[Path, Chapter] = {}
    for path in every:
        notebook = nbformat.read(path, as_version=4)
        chapter = Chapter(path, chapter_title(notebook, path.stem), chapter_goal(notebook), model=spec.name)
        past = remembered.get(path.stem)
        if path not in chosen and past and past["model"] == spec.name and (site / chapter.page_name).is_file():
            chapter = replace(chapter, outcome="ran", seconds=past["seconds"], skipped=past["skipped"])
        chapters[path] = chapter
    has_gpu = gpu_available()
    gpu = "with a GPU" if has_gpu else "no GPU: GPU cells show records"
    print(f"running {len(chosen)} chapters on the model {spec.name}, {gpu}", flush=True)
    troubles: list[tuple[Chapter, str]] = []
    executed = paths.build_dir(spec.name) / "notebooks"

    running = Running()

    def run(path: Path) -> None:
        if running.stopping:
            return
        # A page of an earlier run would look like this run's result if the chapter fails now.
        (site / chapters[path].page_name).unlink(missing_ok=True)
        print(f"{path.stem} ...", flush=True)
        done, notebook, trouble = execute(chapters[path], has_gpu, executed, running)
        if running.stopping:
            return
        chapters[path] = done
        print(progress_line(done), flush=True)
        if trouble:
            troubles.append((done, trouble))
            return
        place = every.index(path)
        before = chapters[every[place - 1]] if place else None
        after = chapters[every[place + 1]] if place + 1 < len(every) else None
        write_text(site / done.page_name, page(notebook, done, before, after))

    try:
        with ThreadPoolExecutor(max(1, options.jobs)) as pool:
            futures = [pool.submit(run, path) for path in chosen]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                running.stop()
                raise
    finally:
        # Also after an interrupt: the pages that are there are whole, and the index says what is true of them.
        note = f"{date.today().isoformat()}, {'with' if has_gpu else 'without'} a GPU."
        write_text(site / "index.html", index_page(list(chapters.values()), spec.name, note))
        record = {
            chapter.path.stem: {"model": spec.name, "seconds": chapter.seconds, "skipped": chapter.skipped}
            for chapter in chapters.values()
            if chapter.outcome == "ran"
        }
        write_text(site / "chapters.json", json.dumps(record, indent=1))
    print(f"site: {site / 'index.html'}", flush=True)
    for chapter, trouble in troubles:
        print(f"\n{chapter.path.name} failed:\n{trouble}", file=sys.stderr)
    return 1 if troubles else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except CourseError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("interrupted; finished chapters are in the site, the others are marked as not run")
