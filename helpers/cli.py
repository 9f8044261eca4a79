"""The course's tools as one command, for models and graphs of one's own: ``maskrcnn-course``, or
``python -m helpers.cli``.

``prove`` and ``search`` need mmdet; ``predict`` needs a bundle, ``hunt``, ``plan`` and ``ranges`` an ONNX file and its
inputs.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np

from helpers import artifacts
from helpers.errors import CourseError

__all__ = ["main"]

AGREE, DISAGREE, BAD_ARGUMENTS, INTERRUPTED = 0, 1, 2, 130
_FILE = click.Path(path_type=Path, dir_okay=False)
_PATH = click.Path(path_type=Path)
_GRAPH = click.argument("graph", type=_FILE)
_FEEDS = click.argument("feeds", type=_FILE)
_JSON = click.option("--json", "as_json", is_flag=True, help="Write the result as JSON.")
_CONFIG = click.option("--config", type=_FILE, required=True, help="The model's mmdet config, a Python file.")
_CHECKPOINT = click.option("--checkpoint", type=_FILE, required=True, help="Its weights.")
_CLASSES = click.option(
    "--classes", type=_FILE, help="Class names, one a line (default: the checkpoint's, the config's)."
)
_TRUST = click.option(
    "--trust", is_flag=True, help="Let the checkpoint run code while it is opened. Only for files of people you trust."
)


class InputFileError(CourseError):
    """A file of inputs is missing, damaged, or holds more than arrays."""


class _Shape(click.ParamType):
    """800x1216, a height and a width."""

    name = "HxW"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, int]:
        sides = str(value).lower().split("x")
        if len(sides) != 2 or not all(side.isdigit() and int(side) > 0 for side in sides):
            self.fail(f"{value!r} is no height and width such as 800x1216", param, ctx)
        return int(sides[0]), int(sides[1])


def _one_sentence(function: Callable[..., int]) -> Callable[..., None]:
    """A command that exits with what the function returns; what can be put right is one sentence and exit code 2."""

    @functools.wraps(function)
    def command(*arguments: Any, **options: Any) -> None:
        try:
            sys.exit(function(*arguments, **options))
        except CourseError as error:
            click.echo(f"error: {error}", err=True)
        except MemoryError:
            click.echo("error: there is not enough memory: close programs, or take a smaller --input-shape.", err=True)
        except KeyboardInterrupt:
            click.echo("interrupted: what was finished is kept, run the same command again.", err=True)
            sys.exit(INTERRUPTED)
        sys.exit(BAD_ARGUMENTS)

    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def main() -> None:
    """Prove, search and measure models and graphs of your own."""
    # Each import of mmcv 1 says it, in a paragraph before the one sentence.
    warnings.filterwarnings("ignore", message="On January 1, 2023, MMCV")


@main.command()
@_CONFIG
@_CHECKPOINT
@_CLASSES
@click.option(
    "--flavour",
    type=click.Choice(["standard", "mmcv"]),
    default="standard",
    show_default=True,
    help="ONNX operators only, or mmcv's for runtimes with plugins.",
)
@click.option("--input-shape", type=_Shape(), help="Height x width of the input (default: the config's).")
@click.option("--images", type=_PATH, multiple=True, help="A picture or a folder; repeatable (default: demo scenes).")
@click.option("--annotations", type=_FILE, help="A COCO file about pictures beside it or in --images: AP of both.")
@click.option(
    "--batch",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="From 2 on: a dynamic batch, and batches of so many pictures compared.",
)
@click.option("--without", multiple=True, help="Leave a patch out, to see what it is for; repeatable.")
@click.option("--output", type=_PATH, required=True, help="The folder to write.")
@_TRUST
@_JSON
@_one_sentence
def prove(
    config: Path,
    checkpoint: Path,
    classes: Path | None,
    flavour: str,
    input_shape: tuple[int, int] | None,
    images: tuple[Path, ...],
    annotations: Path | None,
    batch: int,
    without: tuple[str, ...],
    output: Path,
    trust: bool,
    as_json: bool,
) -> int:
    """Export a model and compare the graph with PyTorch, picture by picture.

    Writes model.onnx, preprocessing.json, settings.json, parity.json and report.html. On a disagreement the first node
    that computes something else is searched, with the line of Python that made it.

    Exit codes: 0 they agree, 1 they disagree, 2 it could not be tried: a file is missing or unreadable, the model is
    not supported (the sentence says why), or it finds nothing in the pictures.
    """
    for file in (config, checkpoint):
        if not file.is_file():
            raise InputFileError(f"there is no file {file}", "check the path")  # before mmdet is imported, in seconds
    from helpers.deploy.proof import prove as run
    from helpers.detector.models import own_model

    spec = own_model(config, checkpoint, classes, input_shape=input_shape)
    proof = run(
        spec,
        output,
        flavour=flavour,
        pictures=images,
        annotations=annotations,
        batch=batch,
        without=without,
        trust=trust,
        announce=lambda words: click.echo(words, err=True),
    )
    if as_json:
        click.echo((output / "parity.json").read_text(), nl=False)
    verdict = "agree" if proof.agrees else "DISAGREE"
    click.echo(f"PyTorch and the graph {verdict}: {output / 'report.html'}", err=as_json)
    return AGREE if proof.agrees else DISAGREE


@main.command()
@click.argument("bundle", type=_PATH)
@click.argument("pictures", type=_PATH)
@click.option("--output", type=_PATH, required=True, help="The folder to write, or to go on with.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="So many processes.")
@click.option("--threads", type=click.IntRange(1), help="Of each worker (default: this machine's processors, shared).")
@click.option("--batch", type=click.IntRange(1), default=8, show_default=True, help="Pictures that are kept together.")
@click.option("--address", help="Of a Ray cluster to join, host:port or auto (default: Ray is started here).")
@click.option("--retry", is_flag=True, help="Try the pictures again that could not be read.")
@_JSON
@_one_sentence
def predict(
    bundle: Path,
    pictures: Path,
    output: Path,
    workers: int,
    threads: int | None,
    batch: int,
    address: str | None,
    retry: bool,
    as_json: bool,
) -> int:
    """Detections of many PICTURES (a folder, or a text file with a path a line) by BUNDLE, the folder of a detector.

    Writes coco.json and failures.json. The same command goes on where an interrupted one stopped. Ray does the work
    (pip install -r requirements-ray.txt); in a cluster, pictures and bundle lie under the same paths on each machine.

    Exit codes: 0 all pictures were read, 1 some could not be, 2 it could not be tried, or it stopped.
    """
    from helpers.deploy.predict import predict as run

    summary = run(bundle, pictures, output, workers=workers, threads=threads, batch=batch, address=address, retry=retry)
    text = f"{summary.done} pictures in {output / 'coco.json'}, {summary.failed} could not be read (failures.json)"
    _show(summary._asdict(), text, as_json)
    return DISAGREE if summary.failed else AGREE


@main.command()
@_GRAPH
@_FEEDS
@_CONFIG
@_CHECKPOINT
@_TRUST
@_JSON
@_one_sentence
def search(graph: Path, feeds: Path, config: Path, checkpoint: Path, trust: bool, as_json: bool) -> int:
    """The first node of GRAPH that computes something else than PyTorch on FEEDS.

    GRAPH is an ONNX file that was exported from this model by the course, with masks that fill the input; FEEDS is an
    .npz file with its inputs. Exit codes: 0 nothing differs, 1 a node does, 2 it could not be tried.
    """
    from helpers.graph.file import load_onnx

    model, arrays = load_onnx(graph), _feeds(feeds)
    from helpers.compare.search import search as run
    from helpers.detector.models import load_detector, own_model
    from helpers.detector.preprocess import NetworkInput

    if "input" not in arrays:
        raise InputFileError(f"{feeds} has no array 'input'", "save it with numpy.savez under the graph's input names")
    prepared = NetworkInput.full(arrays["input"])
    if "image_size" in arrays:
        height, width = (int(side) for side in arrays["image_size"][0])
        prepared = dataclasses.replace(prepared, resized_shape=(height, width), picture_shape=(height, width))
    detector = load_detector(own_model(config, checkpoint, input_shape=prepared.tensor.shape[2:]), trust=trust)
    report = run(detector, model, prepared)
    found = report.found
    content = {"node": found.node, "operator": found.operator, "made by": str(found.where)} if found else None
    _show({"first difference": content, "compared": report.compared}, str(report), as_json)
    return AGREE if found is None else DISAGREE


@main.command()
@_GRAPH
@_FEEDS
@_JSON
@_one_sentence
def hunt(graph: Path, feeds: Path, as_json: bool) -> int:
    """Where inf and NaN begin in GRAPH in half precision, simulated on FEEDS (an .npz file with the graph's inputs).

    Exit codes: 0 all results are finite, 1 some are not, 2 it could not be tried.
    """
    from helpers.graph.file import load_onnx
    from helpers.half_precision.simulation import hunt as run

    found = run(load_onnx(graph), _feeds(feeds))
    rows = [
        {
            "node": s.node,
            "operator": s.operator,
            "tensor": s.tensor,
            "inf": s.inf,
            "nan": s.nan,
            "made by": str(s.where),
        }
        for s in found.suspects
    ]
    _show({"watched": found.watched, "suspects": rows}, str(found), as_json)
    return DISAGREE if rows else AGREE


@main.command()
@_GRAPH
@_FEEDS
@click.option("--output", type=_FILE, required=True, help="The plan, a JSON file.")
@click.option("--cache", type=_FILE, help="Trials that were made; an interrupted search goes on from there.")
@_JSON
@_one_sentence
def plan(graph: Path, feeds: Path, output: Path, cache: Path | None, as_json: bool) -> int:
    """The nodes of GRAPH that must stay in FP32 for its detections to survive half precision, simulated on FEEDS.

    GRAPH must have the outputs dets and labels. Exit codes: 0 there is a plan, 2 it could not be tried.
    """
    from helpers.graph.file import load_onnx
    from helpers.half_precision import plan as plans
    from helpers.half_precision.search import find_plan

    found = find_plan(load_onnx(graph), _feeds(feeds), cache=cache)
    plans.save(found.plan, output)
    _show({"nodes": list(found.plan.names), "plan": str(output), "trials": found.trials}, str(found), as_json)
    return AGREE


@main.command()
@_GRAPH
@click.argument("feeds", type=_FILE, nargs=-1, required=True)
@click.option(
    "--worst", type=click.IntRange(1), default=20, show_default=True, help="So many tensors, the worst first."
)
@_JSON
@_one_sentence
def ranges(graph: Path, feeds: tuple[Path, ...], worst: int, as_json: bool) -> int:
    """How far each tensor of GRAPH is from the limits of half precision, over the runs on FEEDS (.npz files).

    Exit codes: 0 all fits, 1 a tensor passes 65,504 or is not finite, 2 it could not be tried.
    """
    from helpers.graph.file import load_onnx
    from helpers.half_precision.ranges import range_report

    report = range_report(load_onnx(graph), [_feeds(file) for file in feeds])
    rows = [{**_finite(dataclasses.asdict(row)), "where": str(row.where)} for row in report.worst(worst)]
    text = "\n".join([str(report).splitlines()[0], *(f"  {row}" for row in report.worst(worst))])
    _show({"tensors": len(report.rows), "worst": rows}, text, as_json)
    return DISAGREE if report.overflowing() or any(row.non_finite for row in report.rows) else AGREE


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    return {key: None if isinstance(value, float) and not np.isfinite(value) else value for key, value in row.items()}


def _feeds(file: Path) -> dict[str, Any]:
    """The arrays of an .npz file, by name."""
    try:
        with np.load(io.BytesIO(artifacts.read_regular(file)), allow_pickle=False) as content:
            if not isinstance(content, np.lib.npyio.NpzFile):
                raise ValueError("it is no .npz file")
            return {name: content[name] for name in content.files}
    except MemoryError:
        raise
    except Exception as error:  # whatever the readers of archives and arrays stumble over in a damaged file
        # Without numpy's advice to switch its check off.
        reason = str(error).split(". ")[0]
        raise InputFileError(
            f"the inputs {file} cannot be read ({reason})", "save them with numpy.savez under the graph's input names"
        ) from None


def _show(content: dict[str, Any], text: str, as_json: bool) -> None:
    click.echo(json.dumps(content, indent=1) if as_json else text)


if __name__ == "__main__":
    main()
