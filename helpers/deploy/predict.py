"""Detections of many pictures by a bundle, with Ray Data on one machine or many; what is finished is kept.

The folder that is written::

    run.json         which bundle and which pictures: a run of others into the folder is refused
    parts/           a file for each finished batch, whole or not at all; a line of JSON for each picture, its
                     detections or why it could not be read. What has a line is not done again
    coco.json        at the end: images, categories, and the detections as annotations with scores and RLE masks
    failures.json    at the end: the pictures that could not be read, and why

Ray hands batches to its workers and starts one again that died; parts are written by the process that asked. So the
workers of a cluster need the pictures and the bundle under the same paths, and nothing to write to. No mmdet is needed.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import warnings
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime
from tqdm import tqdm

from helpers import artifacts, paths
from helpers.deploy import client
from helpers.detector.paste import paste_rle
from helpers.detector.preprocess import PICTURE_ENDINGS, ImageError, read_picture
from helpers.errors import CourseError, first_line

__all__ = ["PredictError", "Predictor", "Summary", "collect", "keep", "list_pictures", "open_run", "predict", "state"]

#: A worker that dies so often on one batch is not started for it again: a picture may be what kills it.
_RETRIES = 3
#: Ray reports no use to its makers, and says on the screen only what it raises.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


class PredictError(CourseError):
    """The pictures, the bundle or the folder cannot be used, or Ray stopped."""


class Summary(NamedTuple):
    """Pictures with detections written (of which there may be none), and pictures that could not be read."""

    done: int
    failed: int


def list_pictures(source: Path) -> dict[str, Path]:
    """Absolute paths by name, in order. source: a folder (all pictures in it and below, named from there), or a text
    file with a path a line, which counts from that file's folder.

    Raises:
        PredictError: there is no such thing, or no picture in it.
    """
    source = Path(source).absolute()
    if source.is_dir():
        files = (path for path in source.rglob("*") if path.suffix.lower() in PICTURE_ENDINGS)
        names = sorted(path.relative_to(source).as_posix() for path in files)
        what = f"put one there ({', '.join(sorted(PICTURE_ENDINGS))})"
    else:
        try:
            text = artifacts.read_regular(source).decode()
        except OSError as error:
            raise PredictError(f"cannot read {source} ({error.strerror})", "name a folder or a list") from None
        except ValueError:
            text = "\0"
        if "\0" in text:
            raise PredictError(f"{source} is no list of pictures", "name a folder, or a text file with a path a line")
        names, what = [name for line in text.splitlines() if (name := line.strip())], "write a path a line into it"
    if not names:
        raise PredictError(f"there is no picture in {source}", what)
    around = source if source.is_dir() else source.parent
    return {name: around / name for name in names}


@contextlib.contextmanager
def open_run(folder: Path, bundle: Path, source: Path) -> Iterator[None]:
    """Hold the folder for one run, made if it is not there.

    Raises:
        PredictError: it is another run's, or holds something else; the bundle is damaged or is none.
        helpers.artifacts.InUseError: a run is going on in it.
        helpers.paths.FolderError: nothing can be written there.
        helpers.artifacts.DiskSpaceError: the disk is full.
    """
    folder, bundle = Path(folder), Path(bundle)
    try:
        client.verify(bundle)
    except client.BundleError as error:
        raise _from_client(error) from None
    about = {"bundle": artifacts.file_input(bundle / "SHA256SUMS"), "pictures": str(Path(source).absolute())}
    paths.make_folder(folder)
    if not (folder / "run.json").exists() and any(path.name[0] != "." for path in folder.iterdir()):
        raise PredictError(f"{folder} is there and holds something else", "name a folder that does not exist")
    with artifacts.lock(folder / ".lock", wait=False):
        artifacts.remove_stale(folder)
        if not (folder / "run.json").exists():
            artifacts.write_text(folder / "run.json", json.dumps(about, indent=1) + "\n")
        try:
            before = artifacts.read_json(folder / "run.json")
        except (OSError, ValueError):
            before = None
        if before != about:
            raise PredictError(f"{folder} is of other pictures, or by another bundle", "name another folder")
        paths.make_folder(folder / "parts")
        yield


def _records(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(the part's name, the record) of each line."""
    for part in sorted((folder / "parts").glob("*.jsonl")):
        try:
            lines = artifacts.read_regular(part).decode().splitlines()
            records = [json.loads(line) for line in lines]
            if any("results" not in record and "error" not in record for record in records):
                raise KeyError("results")
            yield from ((part.name, {**record, "picture": record["picture"]}) for record in records)
        except (OSError, ValueError, KeyError, TypeError):
            raise PredictError(
                f"{part} is damaged", "delete it and run the same command again, which does its pictures again"
            ) from None


def state(folder: Path) -> dict[str, tuple[str, bool]]:
    """For each picture that was done: the last part with a line about it, and whether it could be read.

    Raises:
        PredictError: a part is damaged.
    """
    return {record["picture"]: (part, "error" not in record) for part, record in _records(folder)}


def keep(folder: Path, batches: Iterable[Sequence[str]]) -> Iterator[int]:
    """Write the lines of each batch as a part; yields how many there were, once they are safe.

    Raises:
        helpers.artifacts.DiskSpaceError: the disk is full; the parts that are there stay.
    """
    parts = Path(folder) / "parts"
    first = 1 + max((int(part.stem) for part in parts.glob("*.jsonl")), default=0)
    for number, lines in enumerate(batches, first):
        artifacts.write_text(parts / f"{number:08}.jsonl", "".join(f"{line}\n" for line in lines))
        yield len(lines)


def collect(folder: Path, names: Iterable[str], classes: Sequence[str]) -> Summary:
    """Write coco.json and failures.json from the parts.

    names: of all pictures; an image's id is its place among them, a category's id that of its class, from 1 on.

    Raises:
        PredictError: a part is damaged.
        helpers.artifacts.DiskSpaceError: the disk is full.
    """
    folder = Path(folder)
    ids = {name: number for number, name in enumerate(names, 1)}
    last = state(folder)
    images, failures, count = [], [], 0
    with artifacts.whole_file(folder / "coco.json") as temporary, temporary.open("w") as stream:
        # One picture's detections in memory at a time: there may be more of them than memory.
        stream.write('{"annotations": [')
        for part, record in _records(folder):
            name = record["picture"]
            if name not in ids or last[name][0] != part:
                continue
            if "error" in record:
                failures.append({"file_name": name, "error": record["error"]})
                continue
            size = {"width": record["width"], "height": record["height"]}
            images.append({"id": ids[name], "file_name": name, **size})
            for result in record["results"]:
                count += 1
                entry = {"id": count, "image_id": ids[name], **result}
                stream.write(f"{',' if count > 1 else ''}\n{json.dumps(entry)}")
        categories = [{"id": number, "name": name} for number, name in enumerate(classes, 1)]
        stream.write(f'\n], "images": {json.dumps(images)}, "categories": {json.dumps(categories)}}}\n')
    artifacts.write_text(folder / "failures.json", json.dumps(failures, indent=1) + "\n")
    return Summary(len(images), len(failures))


class Predictor:
    """What a worker holds: the bundle's session. A call takes and gives a batch as Ray Data has it."""

    def __init__(self, bundle: str, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.detector = client.Detector(bundle, sess_options=options)
        self.session = self.detector.session
        self.inputs = [given.name for given in self.session.get_inputs()]
        self.free_batch = isinstance(self.session.get_inputs()[0].shape[0], str)

    def __call__(self, batch: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
        """picture: JSON of a name and a path, since Arrow takes no file name that is not UTF-8; line: a part's line."""
        lines, readable = [], []
        for name, path in map(json.loads, batch["picture"]):
            try:
                picture = read_picture(path)
                readable.append((name, picture.shape[:2], *self.detector.prepare(picture)))
            except (ImageError, client.BundleError, cv2.error) as error:
                lines.append(json.dumps({"picture": name, "error": " ".join(str(error).split())}))
        size = len(readable) if self.free_batch else 1
        for start in range(0, len(readable), size or 1):
            together = readable[start : start + size]
            feeds = {name: np.concatenate([inputs[name] for _, _, inputs, _ in together]) for name in self.inputs}
            outputs = self.session.run(["dets", "labels", "masks"], feeds)
            for (name, shape, _, scale), found in zip(together, zip(*outputs, strict=True), strict=True):
                results = self._results(found, scale, shape)
                record = {"picture": name, "width": shape[1], "height": shape[0], "results": results}
                lines.append(json.dumps(record))
        return {"line": lines}

    def _results(
        self, outputs: Sequence[npt.NDArray[Any]], scale: npt.NDArray[np.float32], shape: tuple[int, int]
    ) -> list[dict[str, Any]]:
        """COCO result entries of one picture, as client.Detector.detect finds them, but one whole mask at a time."""
        dets, labels, masks = (array[outputs[0][:, 4] > 0] for array in outputs)
        boxes = dets[:, :4] / scale
        encoded = paste_rle(masks, boxes, shape, threshold=self.detector.about["thresholds"]["mask"])
        inside = np.clip(boxes, 0, np.array(shape[::-1] * 2, np.float32)).astype(float)
        return [
            {
                "category_id": int(label) + 1,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": float(score),
                "segmentation": {"size": list(shape), "counts": mask["counts"].decode()},
            }
            for (x1, y1, x2, y2), score, label, mask in zip(inside.tolist(), dets[:, 4], labels, encoded, strict=True)
        ]


def predict(
    bundle: Path,
    source: Path,
    folder: Path,
    *,
    workers: int = 1,
    threads: int | None = None,
    batch: int = 8,
    address: str | None = None,
    retry: bool = False,
) -> Summary:
    """Detections of ``source`` (as for :func:`list_pictures`) into ``folder``; what is there is not done again.

    workers: processes with a session each, of so many ``threads`` (default: the processors of this machine, shared
    among them). batch: pictures that a worker takes at a time, and a part holds. address: of a Ray cluster to join;
    without it Ray is started here, and ends with the run. retry: the pictures that could not be read, once more.

    Raises:
        PredictError: as for :func:`list_pictures` and :func:`open_run`; Ray is not installed, or stopped.
        Others: as for :func:`open_run`.
    """
    pictures = list_pictures(source)
    with open_run(folder, bundle, source):
        before = state(folder)
        done = {name for name in pictures if name in before and (before[name][1] or not retry)}
        left = [json.dumps([name, str(path)]) for name, path in pictures.items() if name not in done]
        threads = threads or max(1, len(os.sched_getaffinity(0)) // workers)
        bar = tqdm(total=len(pictures), initial=len(done), desc="detecting", unit="picture", mininterval=1)
        batches = _batches(bundle, left, workers, threads, batch, address)
        # What became of workers Ray prints to standard output, some of it as it shuts down.
        with contextlib.redirect_stdout(io.StringIO()), bar, contextlib.closing(batches):
            for count in keep(folder, batches):
                bar.update(count)
        # Ray promises that there is none.
        if lost := pictures.keys() - state(folder).keys():
            raise PredictError(f"{len(lost)} pictures have no result", "run the same command again")
        about = artifacts.read_json(Path(bundle) / "bundle.json")
        return collect(folder, pictures, about["classes"])


def _batches(
    bundle: Path, rows: Sequence[str], workers: int, threads: int, batch: int, address: str | None
) -> Generator[list[str]]:
    """The lines of one batch of pictures after the other, from Ray Data's workers."""
    if not rows:
        return
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.data
    except ImportError:
        raise PredictError("Ray is not installed", "pip install -r requirements-ray.txt") from None
    _start(ray, address, workers * threads)
    try:
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        context.raise_original_map_exception = True
        # To be replaced before Ray 2.64; without it a picture that kills its worker is tried for ever.
        warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
        items = [{"picture": row} for row in rows]
        # One block is one task of one worker, and comes back as one block.
        data = ray.data.from_items(items, override_num_blocks=-(-len(items) // batch)).map_batches(
            Predictor,
            batch_size=None,
            fn_constructor_args=(str(Path(bundle).absolute()), threads),
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=threads,
            max_task_retries=_RETRIES,
        )
        for block in data.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            lines: Any = block["line"]
            yield lines.to_pylist()
    except ray.exceptions.RayError as error:
        raise PredictError(f"Ray stopped ({_reason(error)})", "what was finished is kept; run it again") from error
    finally:
        ray.shutdown()


def _start(ray: Any, address: str | None, processors: int) -> None:
    options: dict[str, Any] = {"logging_level": "CRITICAL", "log_to_driver": False}
    if address is None:
        options |= {"num_cpus": processors, "include_dashboard": False}
        options["runtime_env"] = {"env_vars": {"PYTHONPATH": str(paths.REPO_ROOT)}}
    else:
        options["runtime_env"] = {"py_modules": [str(paths.REPO_ROOT / "helpers")]}
    try:
        with _silent():
            ray.init(address or "local", **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise PredictError(f"Ray could not begin ({_reason(error)})", "check the address and the versions") from error
    if (there := int(ray.cluster_resources().get("CPU", 0))) < processors:
        ray.shutdown()
        raise PredictError(
            f"the cluster has {there} processors, and {processors} are asked for", "take fewer workers or threads"
        )


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep what compiled code writes to standard error off the screen: that the level of its log was set, say."""
    screen = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(screen, 2)
        os.close(screen)


def _reason(error: Exception) -> str:
    """The worker's own error where Ray hands it over: it puts advice of its own behind the message. Else the last line,
    which ends a worker's traceback."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, Exception):
        return f"{type(cause).__name__}: {first_line(cause)}"
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip().rstrip(".")


def _from_client(error: client.BundleError) -> PredictError:
    problem, _, step = str(error).rstrip(".").rpartition(": ")
    return PredictError(problem, step)
