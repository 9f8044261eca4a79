"""Run the course headlessly on one model and write it as a site.

Every notebook is executed from a fresh kernel, in the repository root. A failing chapter does not stop the others; the
failing cell and its traceback are printed last, and the exit status says so: 0, 1 if a chapter failed or the run was
interrupted, 2 if it could not begin as it was asked to. For CI systems run.json and junit.xml say it too; beside them a
failed notebook is kept with what its cells had shown.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import fasteners
import nbformat
import psutil
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from traitlets.config import Config

from helpers import artifacts, paths
from helpers.artifacts import sha256_file, write_text
from helpers.detector.models import MODEL_NAMES, download_checkpoint, load_detector, model_spec, require_published
from helpers.detector.preprocess import read_picture
from helpers.environment import free_memory, gpu_available, gpu_name
from helpers.errors import CourseError
from helpers.run_report import RunReport, State
from helpers.site import Chapter, Site, SiteRecordError, Source, chapter_goal, chapter_title

#: What two chapters at a time can take: 04 and 07 together.
MEMORY_GB = 16


class ArgumentError(CourseError):
    """An argument asks for what cannot be."""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="run_course.sh", description=__doc__)
    parser.add_argument("--only", help="chapters to run, by number: 03,04 (default: all)")
    parser.add_argument("--model", choices=MODEL_NAMES, default=None, help="default: $COURSE_MODEL, else emoji")
    parser.add_argument("--checkpoint", type=Path, help="a checkpoint file for the model")
    parser.add_argument("--image", type=Path, help="a picture to use beside the demo pictures")
    parser.add_argument(
        "--jobs", type=int, help=f"chapters at a time (default: 2 where two cores and {MEMORY_GB} GB are free, else 1)"
    )
    parser.add_argument("--notebooks", type=Path, default=paths.NOTEBOOKS, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, default=None, help="where the site goes (default: build/site)")
    parser.add_argument("--report", type=Path, help="where run.json and junit.xml go (default: build/run)")
    options = parser.parse_args(arguments)
    if options.jobs is None:
        options.jobs = 2 if (os.cpu_count() or 1) >= 2 and free_memory() >= MEMORY_GB * 1e9 else 1
    return options


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


def _named_cell(notebook: Any, index: int) -> dict[str, Any]:
    """A cell as a report names it: its number among the code cells, from 1, and its first line."""
    number = sum(one.cell_type == "code" for one in notebook.cells[: index + 1])
    line = next((line for line in notebook.cells[index].source.splitlines() if line.strip()), "")
    return {"number": number, "begins": line[:60]}


def _skipped(notebook: Any, source: Source) -> list[dict[str, Any]]:
    """The cells that do not run live here, and why."""
    tagged = [index for index, cell in enumerate(notebook.cells) if "gpu" in cell.metadata.get("tags", [])]
    return [] if source.gpu else [{**_named_cell(notebook, index), "why": "no GPU"} for index in tagged]


@dataclass(frozen=True)
class Course:
    """What a call asks for, looked through. every: all chapters as they are before they run; chosen: those to run."""

    site: Site
    every: tuple[Chapter, ...]
    chosen: tuple[Chapter, ...]
    jobs: int
    executed: Path
    report: RunReport


def _settle(options: argparse.Namespace) -> None:
    """Put what the arguments say into the environment that the kernels get, each path as it is for the caller: the
    kernels run in another folder.
    """
    given = {"COURSE_MODEL": options.model, "COURSE_CHECKPOINT": options.checkpoint, "COURSE_IMAGE": options.image}
    os.environ.update({name: str(value) for name, value in given.items() if value})
    for name in ("COURSE_BUILD", "COURSE_CHECKPOINT", "COURSE_CLASSES", "COURSE_CONFIG", "COURSE_IMAGE"):
        if os.environ.get(name):
            os.environ[name] = str(Path(os.environ[name]).resolve())
    # A live viewer in a page would be a frame with nothing behind it.
    os.environ.pop("COURSE_NETRON", None)
    os.environ.setdefault("PYTHONWARNINGS", "ignore::UserWarning:mmcv,ignore::UserWarning:mmdet.datasets.utils")
    # torch's exporter says once per node that it cannot infer mmcv's operators; that is known and fills the pages.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    # The C library gives the memory of each feature map back to the system, which has to clear it for the next one: a
    # third of the time of mmdet's inference on a virtual machine (seen: 9.4 s a picture, and 5.7 s with these). Blocks
    # of up to 4 GiB, those of a hundred masks too, are kept instead.
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(4 << 30))
    os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(8 << 30))
    if options.jobs > 1:  # Threads that wait for their core keep it busy.
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // options.jobs)))


def _named(path: Path) -> str:
    return f"{path.name} ({sha256_file(path)[:12]})"


def _require_checkpoint() -> None:
    """The chosen model's checkpoint is there and can be used; else each chapter would find out by itself."""
    spec = model_spec()
    if spec.checkpoint is None:
        download_checkpoint(spec.name)
        spec = model_spec()
    if spec.sha256 is None:
        load_detector(spec.name)  # nobody has promised what is in it
    else:
        require_published(spec)


def prepare(arguments: list[str] | None = None) -> Course:
    """Check all that can be checked before the first chapter. Raises CourseError, and the report says so too."""
    options = parse(arguments)
    _settle(options)
    report = RunReport((options.report or paths.build_root() / "run").resolve())
    try:
        return _checked(options, report)
    except (CourseError, KeyboardInterrupt) as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        report.end("interrupted" if interrupted else "did not begin", str(error) or "before the first chapter")
        raise


def _checked(options: argparse.Namespace, report: RunReport) -> Course:
    if options.jobs < 1:
        raise ArgumentError(f"{options.jobs} chapters at a time would never end", "give --jobs a number from 1 on")
    chosen = select(options.notebooks, options.only)
    for picture in paths.own_pictures():
        read_picture(picture)
    _require_checkpoint()
    folder = (options.output or paths.build_root() / "site").resolve()
    executed = paths.make_folder(paths.build_dir(model_spec().name) / "notebooks")
    for place in (paths.build_root(), folder):
        with artifacts.scratch_file(place / "test"):  # that it can be written to
            artifacts.remove_stale(place, below=place != folder)  # a site may lie in a folder of other things
    made = Source(date=date.today().isoformat(), gpu=gpu_available())
    every = tuple(_chapter(path, made) for path in select(options.notebooks, None))
    site = Site(folder, every)
    try:
        site.records()
    except SiteRecordError as error:
        print(error, file=sys.stderr)
    report.begin([path.stem for path in chosen], {"model": model_spec().name, "gpu": gpu_name()})
    return Course(site, every, tuple(one for one in every if one.path in chosen), options.jobs, executed, report)


def _chapter(path: Path, made: Source) -> Chapter:
    """A chapter before it runs, with what it will be made from. Its notebook's metadata says where that is not what the
    learner chose: ``course.model``, the one model that it uses; ``course.brings_model``, true if it makes its own;
    ``course.own_picture``, true if it takes one.
    """
    notebook = nbformat.read(path, as_version=4)
    own = notebook.metadata.get("course", {})
    spec = model_spec(own.get("model"))
    brought = own.get("brings_model", False)
    made = replace(
        made,
        model="its own" if brought else spec.name,
        checkpoint=_named(spec.checkpoint) if spec.checkpoint and not brought else "",
        picture=", ".join(map(_named, paths.own_pictures())) if own.get("own_picture") else "",
    )
    return Chapter(path, chapter_title(notebook, path.stem), chapter_goal(notebook), source=made)


@dataclass
class Progress:
    """How far a notebook came. cell: the one that runs, or ran last, as a report names it. kernel: its process.
    peak_memory_mib: the most that the kernel held; None where the system does not say.
    """

    cell: dict[str, Any] | None = None
    kernel: int | None = None
    peak_memory_mib: float | None = None

    def __str__(self) -> str:
        if self.cell is None:
            return "before its first cell"
        return f"in its code cell {self.cell['number']}, which begins {self.cell['begins']!r}"

    def look(self) -> None:
        """Ask the system for the kernel's peak: it keeps it as long as the process lives."""
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{self.kernel}/status").read_text()
            if found := re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE):
                self.peak_memory_mib = round(int(found[1]) / 1024, 1)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Look twice a second: a kernel that dies, of too little memory say, leaves nothing to ask."""
        over = threading.Event()

        def watch() -> None:
            while not over.wait(0.5):
                self.look()

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


class Running:
    """The notebooks that are being executed, so that an interrupt can end their kernels, how far each came, and whose
    turn it is: a cell with the tag ``alone`` measures time or memory, and no other chapter runs then.
    """

    def __init__(self) -> None:
        self.turns = fasteners.ReaderWriterLock()
        self.clients: set[NotebookClient] = set()
        self.progress: dict[str, Progress] = {}
        self.stopping = False

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM raise KeyboardInterrupt here, and what ends from that moment on is no result. Once is
        enough: another does not disturb the clearing up.
        """

        def interrupt(*_: object) -> None:
            if not self.stopping:
                self.stopping = True
                raise KeyboardInterrupt

        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, interrupt)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def stop(self) -> None:
        """Kill every kernel. nbclient then sees a dead kernel, and the thread that waits for it comes to an end.

        Asks again until all have ended: a kernel that is only starting has no process to kill yet.
        """
        self.stopping = True
        while self.clients:
            for client in list(self.clients):
                if (kernel := kernel_of(client)) is not None:
                    kill_all(kernel)
            time.sleep(0.1)


def kernel_of(client: NotebookClient) -> int | None:
    """The process of a client's kernel, if it has started."""
    process = getattr(getattr(client.km, "provisioner", None), "process", None)
    return None if process is None else int(process.pid)


def kill_all(kernel: int) -> None:
    """Kill a kernel's process with all that it started: a compiler, a browser."""
    family: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(kernel)
        process.suspend()  # so that it starts no more
        family = [*process.children(recursive=True), process]
    for one in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    # A kernel leads a session and a group of its own; what lost its parent is in it still.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(kernel, signal.SIGKILL)


def execute(chapter: Chapter, executed: Path, running: Running) -> tuple[Chapter, Any, str]:
    """Run one notebook; returns the chapter with its outcome, the executed notebook, and what went wrong.

    An interrupt while it runs leaves it "not run".
    """
    notebook = nbformat.read(chapter.path, as_version=4)
    began = time.monotonic()
    trouble = ""
    progress = running.progress[chapter.path.stem] = Progress()

    def note_cell(cell: Any, cell_index: int) -> None:
        progress.kernel = kernel_of(client)
        if cell.cell_type == "code":
            progress.cell = _named_cell(notebook, cell_index)

    def wait_for_turn(cell: Any, **_: Any) -> None:
        turn.close()
        alone = "alone" in cell.metadata.get("tags", [])
        turn.enter_context(running.turns.write_lock() if alone else running.turns.read_lock())

    client = NotebookClient(
        notebook,
        timeout=1800,
        kernel_name="python3",
        resources={"metadata": {"path": str(paths.REPO_ROOT)}},
        on_cell_start=note_cell,
        on_cell_execute=wait_for_turn,
        on_cell_executed=lambda **_: progress.look(),
        # What a kernel prints goes over sockets that any process on this machine could listen to.
        config=Config({"KernelManager": {"transport_encryption": "required"}}),
    )
    running.clients.add(client)
    try:
        with contextlib.ExitStack() as turn:
            turn.enter_context(running.turns.read_lock())
            if not running.stopping:
                with progress.watched():
                    client.execute()
    except CellExecutionError as error:
        trouble = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    except (DeadKernelError, CellTimeoutError) as error:
        what = "took longer than half an hour" if isinstance(error, CellTimeoutError) else "lost its kernel"
        trouble = f"{chapter.path.stem} {what} {progress}: run it alone, with --only {chapter.path.name[:2]}."
        if progress.kernel is not None:
            kill_all(progress.kernel)
    except Exception:  # not a failed course either
        trouble = traceback.format_exc()
    finally:
        running.clients.discard(client)
        # Where a kernel ends before it is ready, nbclient leaves a clean-up behind that fails noisily at exit.
        atexit.unregister(client._cleanup_kernel)
    if running.stopping:
        return chapter, notebook, ""
    done = replace(
        chapter,
        outcome="failed" if trouble else "ran",
        seconds=time.monotonic() - began,
        skipped=len(_skipped(notebook, chapter.source)),
    )
    if not trouble:
        write_text(executed / chapter.path.name, nbformat.writes(notebook))
    return done, notebook, trouble


def progress_line(chapter: Chapter) -> str:
    skipped = f", GPU cells without a GPU: {chapter.skipped}" if chapter.skipped else ""
    return f"{chapter.path.stem:<34} {chapter.outcome:<7} {chapter.seconds:6.1f} s{skipped}"


def run_chapter(course: Course, chapter: Chapter, running: Running) -> str:
    """Run one chapter, add its page to the site and what became of it to the report; returns what went wrong."""
    done, notebook, failing = replace(chapter, outcome="failed"), None, None
    try:
        course.site.begin(chapter)
        print(f"{chapter.path.stem} ...", flush=True)
        done, notebook, trouble = execute(chapter, course.executed, running)
        if done.outcome == "ran":
            course.site.finish(done, notebook)
        elif done.outcome == "failed":
            failing = running.progress[chapter.path.stem].cell
            course.site.finish(done)
    except CourseError as error:  # the disk is full, say
        done, trouble = replace(done, outcome="failed"), str(error)
    if not running.stopping:
        print(progress_line(done), flush=True)
        peak = running.progress.get(chapter.path.stem, Progress()).peak_memory_mib
        try:
            _report(course.report, done, notebook, error=trouble or None, failing_cell=failing, peak_memory_mib=peak)
        except CourseError as error:
            trouble = trouble or str(error)
    return trouble


def _report(report: RunReport, done: Chapter, notebook: Any, **known: Any) -> None:
    """Report a chapter that has ended, and keep its notebook if it failed."""
    name = done.path.stem
    if notebook is not None:
        known["skipped"] = _skipped(notebook, done.source)
        if done.outcome == "failed":
            write_text(report.notebook(name), nbformat.writes(notebook))
            known["notebook"] = report.notebook(name).name
    report.chapter(name, state=done.outcome, seconds=round(done.seconds, 3), **known)


def in_order(chapters: Sequence[Chapter], jobs: int) -> list[Chapter]:
    """As they are numbered; several at a time begin with those that take long (``course.long`` in a notebook's
    metadata), so that none of them is left to the end, beside which a core would have nothing to do.
    """
    if jobs == 1:
        return list(chapters)
    return sorted(
        chapters, key=lambda one: not nbformat.read(one.path, as_version=4).metadata.get("course", {}).get("long")
    )


def run_chapters(course: Course, running: Running) -> dict[Chapter, str]:
    """Run the chosen chapters; returns those that failed, with what went wrong."""
    with ThreadPoolExecutor(course.jobs) as pool:
        futures = {
            chapter: pool.submit(lambda one: "" if running.stopping else run_chapter(course, one, running), chapter)
            for chapter in in_order(course.chosen, course.jobs)
        }
        try:
            troubles = {chapter: future.result() for chapter, future in futures.items()}
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            running.stop()
            raise
    return {chapter: trouble for chapter, trouble in troubles.items() if trouble}


def main(arguments: list[str] | None = None) -> int:
    """Raises CourseError where the run cannot begin as it was asked to."""
    course = prepare(arguments)
    first = course.chosen[0].source
    gpu = "with a GPU" if first.gpu else "no GPU: GPU cells show records"
    print(f"running {len(course.chosen)} chapters, chosen model {model_spec().name}, {gpu}", flush=True)
    running = Running()
    troubles: dict[Chapter, str] = {}
    state: State = "ran"
    with running.interruptible(), contextlib.suppress(KeyboardInterrupt):
        with contextlib.suppress(KeyboardInterrupt):
            troubles = run_chapters(course, running)
            state = "failed" if troubles else "ran"
        try:
            course.site.build()  # after an interrupt too: what has run can be read
            print(f"site: {course.site.folder / 'index.html'}", flush=True)
        except CourseError as error:
            print(error, file=sys.stderr)
            state = "failed"
    if running.stopping:
        state = "interrupted"
        print("interrupted; finished chapters are in the site, the others are marked as not run", file=sys.stderr)
    for chapter, trouble in troubles.items():
        if (kept := course.report.notebook(chapter.path.stem)).is_file():
            print(f"\n{kept} is {chapter.path.name} as far as it came", file=sys.stderr)
        print(f"\n{chapter.path.name} failed:\n{trouble}", file=sys.stderr)
    try:
        course.report.end(state)
    except CourseError as error:
        print(error, file=sys.stderr)
        return 1
    return 0 if state == "ran" else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except CourseError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit("interrupted before the first chapter")
