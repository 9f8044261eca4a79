"""What Ray costs and gains for many pictures, and what a killed worker loses: one table, one JSON.

    pip install -r requirements-ray.txt
    python scripts/measure_predict.py --output evidence/predict_emoji.json

Generated scenes (helpers/scenes) through the bundle of chapter 08: a plain loop over one session, ``predict`` with one
worker of as many threads, ``predict`` with two workers that share them. Each writes the same parts. The rate is
counted from the first part (by two workers, the second) to the last, since Ray starts once, however many pictures there
are; the seconds of all are beside it. Then ``predict`` by two workers, one of which is killed when the first part is
there. Needs a quiet machine, and no mmdet.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cv2
import onnxruntime
import pandas as pd
import psutil
from tqdm import tqdm

from helpers import artifacts, evidence, paths
from helpers.deploy import predict, turns
from helpers.errors import CourseError
from helpers.scenes.emoji_art import load_sprites, sprite_archive
from helpers.scenes.render import render_scene

PLAIN, ONE, TWO = "plain loop", "predict, 1 worker", "predict, 2 workers"
#: Neither of training nor of the validation set.
FIRST_SEED = 600_000


def make_scenes(folder: Path, count: int, classes: Sequence[str]) -> Path:
    """So many scenes as JPEG files; those that are there are not drawn again."""
    missing = [i for i in range(count) if not (folder / f"{i:04}.jpg").exists()]
    sprites = load_sprites(sprite_archive(paths.build_root() / "emoji_sprites.npz")) if missing else []
    for i in tqdm(missing, desc="scenes", unit="scene"):
        picture = render_scene(FIRST_SEED + i, sprites, classes).picture
        artifacts.write_bytes(folder / f"{i:04}.jpg", cv2.imencode(".jpg", picture)[1].tobytes())
    return folder


def rate(folder: Path, workers: int = 1) -> float:
    """Pictures a second from when each worker has handed over a part, as it were, to the last part."""
    parts = sorted((folder / "parts").glob("*.jsonl"), key=lambda part: part.stat().st_mtime_ns)
    if len(parts) <= workers:
        raise CourseError("there is no more than one batch for each worker", "take more pictures")
    pictures = sum(len(part.read_text().splitlines()) for part in parts[workers:])
    return pictures / ((parts[-1].stat().st_mtime_ns - parts[workers - 1].stat().st_mtime_ns) / 1e9)


def plain_loop(bundle: Path, source: Path, folder: Path, threads: int, batch: int) -> None:
    """What ``predict`` does, without Ray. For a process that ends with it: it begins a session."""
    # Ray's workers have one of their own, and Linux shares processors out by sessions.
    os.setsid()
    pictures = predict.list_pictures(source)
    rows = [json.dumps([name, str(path)]) for name, path in pictures.items()]
    with predict.open_run(folder, bundle, source):
        worker = predict.Predictor(str(bundle), threads)
        batches = (worker({"picture": rows[i : i + batch]})["line"] for i in range(0, len(rows), batch))
        for _ in tqdm(predict.keep(folder, batches), desc=PLAIN, total=-(-len(rows) // batch), unit="batch"):
            pass
        predict.collect(folder, pictures, [])


def plain_process(*arguments: Any) -> None:
    """:func:`plain_loop` in a process."""
    process = multiprocessing.get_context("spawn").Process(target=plain_loop, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        raise CourseError("the plain loop failed", "its message is above")


def run_and_kill(bundle: Path, source: Path, folder: Path, threads: int, batch: int) -> int:
    """``predict`` by two workers, one of which is killed when the first part is there; the exit code."""
    words = [sys.executable, "-m", "helpers.cli", "predict", bundle, source, "--output", folder]
    words += ["--workers", 2, "--threads", threads, "--batch", batch]
    with subprocess.Popen(list(map(str, words)), cwd=paths.REPO_ROOT) as process:
        while not list(folder.glob("parts/0*")) and process.poll() is None:
            time.sleep(0.05)
        below = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        workers = [one for one in below if one.name().startswith("ray::MapWorker")]
        if not workers:
            raise CourseError("no worker was there to be killed", "take more pictures")
        workers[0].send_signal(signal.SIGKILL)
    return process.returncode


def lost_and_twice(folder: Path, source: Path) -> dict[str, Any]:
    """How many pictures have no line in the parts, and how many have more than one."""
    lines = [line for part in (folder / "parts").glob("*.jsonl") for line in part.read_text().splitlines()]
    names = [json.loads(line)["picture"] for line in lines]
    return {"lost": len(predict.list_pictures(source).keys() - set(names)), "twice": len(names) - len(set(names))}


def detections(folder: Path) -> dict[int, int]:
    """How many each picture has, by its id."""
    content = artifacts.read_json(folder / "coco.json")
    counts = {image["id"]: 0 for image in content["images"]}
    for entry in content["annotations"]:
        counts[entry["image_id"]] += 1
    return counts


def table(seconds: Mapping[str, list[float]], rates: Mapping[str, list[float]], pictures: int) -> list[dict[str, Any]]:
    """One row a way; the overhead is of a picture's time, against the plain loop in the same round."""
    rows = []
    for way, own in rates.items():
        overheads = [plain / one - 1 for plain, one in zip(rates[PLAIN], own, strict=True)]
        rows.append(
            {
                "way": way,
                "pictures a second": round(statistics.median(own), 3),
                "overhead": round(statistics.median(overheads), 4),
                "seconds in all": round(statistics.median(seconds[way]), 1),
                "pictures a second, start and end included": round(pictures / statistics.median(seconds[way]), 3),
                "each round": [round(one, 3) for one in own],
            }
        )
    return rows


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    default = paths.build_root() / "emoji" / "bundle"
    parser.add_argument("--bundle", type=Path, default=default, help="a detector's folder (default: chapter 08's)")
    parser.add_argument("--pictures", type=int, default=200, help="how many scenes (200)")
    parser.add_argument("--batch", type=int, default=8, help="pictures of a batch (8)")
    parser.add_argument("--rounds", type=int, default=1, help="how often each way is measured (1)")
    parser.add_argument("--note", default="", help="what else the machine did, say")
    arguments = parser.parse_args(words)
    if min(arguments.rounds, arguments.batch, arguments.pictures) < 1:
        raise CourseError("no rounds, batches or pictures measure nothing", "give 1 or more")
    bundle, batch = arguments.bundle, arguments.batch
    if not (bundle / "bundle.json").is_file():
        raise CourseError(f"there is no bundle {bundle}", "run chapter 08, which makes one, or name another")
    import ray

    folder = paths.build_root() / "predict"
    classes = artifacts.read_json(bundle / "bundle.json")["classes"]
    source = make_scenes(folder / f"scenes-{arguments.pictures}", arguments.pictures, classes)
    cores = len(os.sched_getaffinity(0))
    each = max(1, cores // 2)
    out = {name: folder / name.replace(", ", "-").replace(" ", "-") for name in (PLAIN, ONE, TWO, "killed")}
    ways: dict[str, Callable[[], object]] = {
        PLAIN: lambda: plain_process(bundle, source, out[PLAIN], cores, batch),
        ONE: lambda: predict.predict(bundle, source, out[ONE], threads=cores, batch=batch),
        TWO: lambda: predict.predict(bundle, source, out[TWO], workers=2, threads=each, batch=batch),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    rates: dict[str, list[float]] = {name: [] for name in ways}
    busy = os.getloadavg()[0]
    for _ in range(arguments.rounds):
        for name, way in ways.items():
            shutil.rmtree(out[name], ignore_errors=True)
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
            rates[name].append(rate(out[name], workers=2 if name == TWO else 1))
    shutil.rmtree(out["killed"], ignore_errors=True)
    code = run_and_kill(bundle, source, out["killed"], each, batch)
    counts = {name: detections(one) for name, one in out.items()}
    machine = {**turns.busy_machine(busy), "ray": ray.__version__, "onnxruntime": onnxruntime.__version__}
    record = {
        **evidence.head("many pictures on one machine, with Ray Data and in a plain loop; see the script", machine),
        "bundle": artifacts.file_input(bundle / "SHA256SUMS"),
        "pictures": arguments.pictures,
        "batch": batch,
        "note": arguments.note,
        "threads of a worker": {PLAIN: cores, ONE: cores, TWO: each},
        "rows": table(seconds, rates, arguments.pictures),
        "one of two workers killed": {"exit code": code, **lost_and_twice(out["killed"], source)},
        "as many detections in each picture as the plain loop": {
            name: own == counts[PLAIN] for name, own in counts.items() if name != PLAIN
        },
        "detections": sum(counts[PLAIN].values()),
    }
    evidence.save(arguments.output, record)
    print(pd.DataFrame(record["rows"]).drop(columns="each round").to_string(index=False))
    print(record["one of two workers killed"])


if __name__ == "__main__":
    try:
        main()
    except CourseError as error:
        sys.exit(str(error))
