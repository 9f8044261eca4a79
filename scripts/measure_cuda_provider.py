"""ONNX Runtime's CUDA provider: time and agreement of the exported graphs on a GPU, one table, one JSON.

    python scripts/measure_cuda_provider.py prepare build/cuda_provider
    python scripts/measure_cuda_provider.py run build/cuda_provider --output evidence/cuda_provider.json

The first step needs the course's environment. It exports the embedded model full and lean, plain and with the patches
for half precision, in FP32 and in float16, the batch free (``--masks``, ``--variants`` and ``--types`` for some of them
only, or for each patch alone, for boxes moved by their class and back, as the article's graph has them, for lean graphs
that sample every RoI on every level, as mmdet's do, and for "kept": no patch of an NMS, and in float16 what is computed
for an NMS alone stays in FP32); or those of another model, ``--model r50 --random-weights``, say. It writes
the graphs, their weights (each once), the resized demo pictures (``inputs.npz``) and what the plain lean graph finds in
FP32 on this CPU (``expected.npz``) into a folder; SHA256SUMS names them all.

The second needs numpy, onnx, onnxruntime-gpu and a copy of this repository, no mmdet and no PyTorch:

    pip install numpy onnx onnxruntime-gpu[cuda,cudnn]

It checks the sums, runs every graph with inputs and outputs bound to the GPU, compares the detections with the
expected ones (matched by class and overlap), and says what falls to the CPU. Rows of an earlier run of the same commit
and GPU in the output are kept. ``--device cpu`` is a dry run.

``--validation N`` adds the AP of each graph over N scenes of the validation set (OpenCV, pycocotools and tqdm are
needed there then). ``--torchvision`` adds the times of torchvision's maskrcnn_resnet50_fpn at the same size, eager and
compiled; its weights are random, with scores spread as ``--random-weights`` spreads them.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort

from helpers import evidence
from helpers.errors import first_line

Array = npt.NDArray[Any]
OUTPUTS = ("dets", "labels", "masks")
BATCHES = (1, 4)
#: Detections below this score do not count, as in the parity contract.
SCORE = 0.05
TYPES = ("float32", "float16")
MASKS = ("full", "lean")
VARIANTS = ("plain", "patched", "kept", "moved", "every-level", "p30", "p31", "p32", "p33", "p34", "p43")
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
FORMAT = 2
#: Seconds after which a row is timed no longer.
PATIENCE = 10


def network_inputs(pictures: Array, sizes: Array) -> dict[str, Array]:
    """The graphs' inputs for BGR pictures (N, H, W, 3) uint8, of which (N, 2) rows and columns are no padding."""
    mean, std = np.array(MEAN, np.float32), np.array(STD, np.float32)
    tensors = np.zeros((len(pictures), 3, *pictures.shape[1:3]), np.float32)
    for tensor, picture, (rows, columns) in zip(tensors, pictures, sizes, strict=True):
        tensor[:, :rows, :columns] = ((picture[:rows, :columns, ::-1] - mean) / std).transpose(2, 0, 1)
    return {"input": tensors, "image_size": sizes.astype(np.float32)}


# --- the first step ---------------------------------------------------------------------------------------------------


def graphs(
    types: Sequence[str], masks: Sequence[str], variants: Sequence[str], name: str, random_weights: bool
) -> dict[str, onnx.ModelProto]:
    """The graphs of the table, by their files' names; the batch is free."""
    from helpers.detector import models
    from helpers.export import exporter
    from helpers.graph.file import load_onnx
    from helpers.half_precision.plan import cast_islands, feeding_fp32_only

    found = {}
    options = exporter.dynamic_options()
    detector = models.build_random_detector(name) if random_weights else models.load_detector(name)
    ends = {"plain": options["applied"], "patched": (*options["applied"], *exporter.HALF)}
    ends["kept"] = (*options["applied"], *exporter.HALF[2:])
    ends["moved"] = (*exporter.BOXES_MOVED["standard"], *exporter.DYNAMIC)
    ends["every-level"] = (*options["applied"], exporter.LEAN)
    ends["p43"] = (*options["applied"], "p43_decode_once")
    ends |= {name.split("_")[0]: (*options["applied"], name) for name in exporter.HALF}
    for form in masks:
        for variant in variants:
            chosen = {**options, "applied": ends[variant], "masks": "full" if variant == "every-level" else form}
            label = f"dynamic-{form}-{variant}{'-random' if random_weights else ''}"
            model = load_onnx(exporter.make_onnx(name, label=label, detector=detector, **chosen))
            for kind in types:
                keep = feeding_fp32_only(model) if variant == "kept" else ()
                found[f"{form}-{variant}-{kind}"] = model if kind == "float32" else cast_islands(model, keep)
    return found


def write_graph(path: Path, model: onnx.ModelProto) -> None:
    """A graph whose larger weights lie in files beside it, named by their content: the graphs share most of them."""
    from helpers.artifacts import write_bytes

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for node in copy.graph.node:
        node.doc_string = ""
    for tensor in copy.graph.initializer:
        content = onnx.numpy_helper.to_array(tensor).tobytes()
        if len(content) > 1024:
            name = f"{hashlib.sha256(content).hexdigest()[:16]}.bin"
            write_bytes(path.parent / name, content)
            for field in ("float_data", "int32_data", "int64_data"):
                tensor.ClearField(field)
            tensor.raw_data = b""
            onnx.external_data_helper.set_external_data(tensor, name)
            tensor.ClearField("raw_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
    write_bytes(path, copy.SerializeToString())


def prepare(folder: Path, options: Any) -> None:
    """Write graphs, pictures, expected outputs and sums into ``folder``."""
    from helpers import artifacts, paths
    from helpers.detector.preprocess import denormalise, read_picture
    from helpers.detector.preprocess import prepare as prepared

    if folder.exists() and any(folder.iterdir()):
        sys.exit(f"{folder} is not empty: name a new folder.")
    folder.mkdir(parents=True, exist_ok=True)
    files = sorted((paths.DATA / "demo").glob("*.jpg"))
    pictures = [prepared(read_picture(file)) for file in files]
    stored = {
        "pictures": np.stack([denormalise(picture) for picture in pictures]),
        "sizes": np.array([picture.resized_shape for picture in pictures]),
    }
    inputs = network_inputs(**stored)
    which = (options.model, options.random_weights)
    for name, model in graphs(options.types, options.masks, options.variants, *which).items():
        write_graph(folder / f"{name}.onnx", model)
    with tempfile.TemporaryDirectory() as scratch:
        (reference,) = graphs(("float32",), ("lean",), ("plain",), *which).values()
        write_graph(Path(scratch) / "reference.onnx", reference)
        session = Session(Path(scratch) / "reference.onnx", "cpu")
    each = [{name: array[i : i + 1] for name, array in inputs.items()} for i in range(len(files))]
    found = [session.run(feeds, 0)[0] for feeds in each]
    expected = {name: np.concatenate([one[name] for one in found]) for name in ("dets", "labels")}
    for name, arrays in (("inputs", stored), ("expected", expected)):
        with artifacts.whole_file(folder / f"{name}.npz") as temporary:
            np.savez_compressed(temporary, allow_pickle=False, **arrays)
    about = {
        "format": FORMAT,
        "commit": evidence.commit(),
        "model": f"{options.model}{', random weights' if options.random_weights else ''}",
        "pictures": [file.stem for file in files],
    }
    artifacts.write_text(folder / "about.json", json.dumps(about))
    names = sorted(path.name for path in folder.iterdir())
    lines = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    artifacts.write_text(folder / "SHA256SUMS", "".join(lines))
    print(f"{len(names)} files, {sum((folder / name).stat().st_size for name in names) / 1e6:.0f} MB in {folder}")


# --- the second step --------------------------------------------------------------------------------------------------


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Array], dict[str, Array]]:
    """about, inputs and expected outputs of a folder whose sums hold; ends the program with a sentence otherwise."""
    try:
        lines = (folder / "SHA256SUMS").read_text().splitlines()
        for digest, name in (line.split("  ", 1) for line in lines):
            if hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
                sys.exit(f"{folder / name} is not what was prepared: copy it again.")
        about = json.loads((folder / "about.json").read_text())
        stored, expected = (dict(np.load(folder / f"{name}.npz")) for name in ("inputs", "expected"))
    except OSError as error:
        sys.exit(
            f"{error.filename} cannot be read ({error.strerror}): run the prepare step, and copy its whole folder."
        )
    if about["format"] != FORMAT:
        sys.exit(f"{folder} was prepared by another version of this script: prepare it again.")
    return about, network_inputs(**stored), expected


def overlaps(first: Array, second: Array) -> Array:
    """IoU of every pair of (N, 4) and (M, 4) boxes."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=2)
    areas = [np.prod(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None), axis=1) for boxes in (first, second)]
    together = areas[0][:, None] + areas[1][None] - shared
    return np.divide(shared, together, out=np.zeros_like(shared), where=together > 0)


def agreement(expected: Mapping[str, Array], found: Mapping[str, Array]) -> dict[str, Any]:
    """One batch of detections against the expected ones: each of those takes the best partner of its class that is
    left, in the order of falling overlap. Errors are over pairs with an IoU of at least 0.5."""
    wanted = pairs = strangers = 0
    boxes, scores = [0.0], [0.0]
    for i in range(len(found["dets"])):
        sides = []
        for arrays in (expected, found):
            dets, labels = arrays["dets"][i].astype(np.float64), arrays["labels"][i]
            kept = np.isfinite(dets).all(axis=1) & (dets[:, 4] >= SCORE)
            sides.append((dets[kept], labels[kept]))
        (first, first_labels), (second, second_labels) = sides
        table = overlaps(first[:, :4], second[:, :4]) * (first_labels[:, None] == second_labels[None])
        wanted, strangers = wanted + len(first), strangers + len(second)
        while table.size and table.max() >= 0.5:
            a, b = np.unravel_index(table.argmax(), table.shape)
            boxes.append(float(np.abs(first[a, :4] - second[b, :4]).max()))
            scores.append(float(abs(first[a, 4] - second[b, 4])))
            table[a], table[:, b] = 0, 0
            pairs, strangers = pairs + 1, strangers - 1
    return {
        "expected": wanted,
        "with a partner": pairs,
        "without, found": strangers,
        "largest box error, px": round(max(boxes), 4),
        "largest score error": round(max(scores), 6),
        "not finite in dets": int((~np.isfinite(found["dets"])).sum()),
    }


def timed(once: Callable[[], object], rounds: int) -> list[float]:
    """Seconds of each of ``rounds`` calls after three that do not count; of slow ones fewer."""
    seconds: list[float] = []
    for number in range(rounds + 3):
        start = time.perf_counter()
        once()
        if number >= 3:
            seconds.append(time.perf_counter() - start)
        if len(seconds) >= 3 and sum(seconds) > PATIENCE:
            break
    return seconds


class Session:
    """A graph on the device, its inputs and outputs staying there while it is timed."""

    def __init__(self, path: Path, device: str) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        ort.set_default_logger_severity(3)
        cuda = ("CUDAExecutionProvider", {"use_tf32": "0", "cudnn_conv_algo_search": "EXHAUSTIVE"})
        chosen = [cuda] if device == "cuda" else []
        if chosen and hasattr(ort, "preload_dlls"):
            # CUDA's libraries may have come with pip's packages, PyTorch's among them.
            ort.preload_dlls()
        self.device = device
        self.session = ort.InferenceSession(path, options, providers=[*chosen, "CPUExecutionProvider"])
        if device == "cuda" and self.session.get_providers()[0] != "CUDAExecutionProvider":
            sys.exit(
                "ONNX Runtime cannot start its CUDA provider: install onnxruntime-gpu[cuda,cudnn], or --device cpu."
            )

    def run(self, feeds: Mapping[str, Array], rounds: int) -> tuple[dict[str, Array], list[float]]:
        """The outputs, and seconds of each of ``rounds`` runs after three that do not count; of slow ones fewer."""
        binding = self.session.io_binding()
        for one in self.session.get_inputs():
            array = np.ascontiguousarray(feeds[one.name].astype(np.float16 if "16" in one.type else np.float32))
            binding.bind_ortvalue_input(one.name, ort.OrtValue.ortvalue_from_numpy(array, self.device, 0))
        for name in OUTPUTS:
            binding.bind_output(name, self.device, 0)

        def once() -> None:
            self.session.run_with_iobinding(binding)
            binding.synchronize_outputs()

        seconds = timed(once, rounds) if rounds else []
        if not rounds:
            once()
        return dict(zip(OUTPUTS, binding.copy_outputs_to_cpu(), strict=True)), seconds


class OneByOne:
    """A :class:`Session` as a runner of :mod:`helpers.graph.runner`, for AP."""

    name, output_names = "the graph", OUTPUTS

    def __init__(self, session: Session) -> None:
        self.session = session
        self.input_shapes = {one.name: tuple(one.shape) for one in session.session.get_inputs()}

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        found = self.session.run(feeds, 0)[0]
        return {name: found[name].astype(np.float32 if name != "labels" else np.int64) for name in outputs or OUTPUTS}


def average_precision(session: Session, scenes: int) -> dict[str, float]:
    """AP in points over so many scenes at equal distances in the validation set, one by one."""
    from helpers.detector import evaluation
    from helpers.graph import detect

    runner = OneByOne(session)
    found = evaluation.evaluate(evaluation.load_set().spread(scenes), lambda picture: detect.detect(runner, picture))
    return {"box AP": round(100 * found.box, 2), "mask AP": round(100 * found.mask, 2), "scenes": scenes}


def torchvision_rows(inputs: Mapping[str, Array], options: Any) -> list[dict[str, Any]]:
    """Times of torchvision's model for the first pictures, whole and up to its 28 x 28 masks, eager and compiled."""
    import torch
    import torchvision
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(0)
    model = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, min_size=800, max_size=1333).eval()
    # As build_random_detector does it: scores of 1 / 91 each would leave no detection and no work for the mask head.
    with torch.no_grad():
        for layer, gain in ((model.rpn.head.cls_logits, 60.0), (model.roi_heads.box_predictor.cls_score, 60.0)):
            layer.weight.mul_(gain)
    model.to(options.device)

    def lean(pictures: list[torch.Tensor]) -> Any:
        batch, _ = model.transform(pictures)
        features = model.backbone(batch.tensors)
        proposals, _ = model.rpn(batch, features)
        return model.roi_heads(features, proposals, batch.image_sizes)[0]

    rows = []
    ways = {"full-eager": model, "lean-eager": lean, "full-compiled": torch.compile(model)}
    for name, way in ways.items():
        for batch in options.batches:
            row: dict[str, Any] = {"graph": f"torchvision-{name}-float32", "batch": batch}
            # Back to about 0 to 1, which torchvision's own preprocessing takes.
            given = [(torch.from_numpy(one) * 0.22 + 0.45).to(options.device) for one in inputs["input"][:batch]]
            found: list[Any] = []

            def once(way: Any = way, given: Any = given, found: list[Any] = found) -> None:
                with torch.no_grad():
                    found[:] = way(given)
                if options.device == "cuda":
                    torch.cuda.synchronize()

            try:
                seconds = timed(once, options.rounds)
            except Exception as error:
                rows.append({**row, "error": first_line(error)[:300]})
                continue
            row["ms"], row["least ms"] = (round(1e3 * kind(seconds), 2) for kind in (statistics.median, min))
            row["found"] = sum(len(one["boxes"]) for one in found)
            row["version"] = f"torchvision {torchvision.__version__}, PyTorch {torch.__version__}"
            rows.append(row)
            print(json.dumps(row), flush=True)
    return rows


def placement(path: Path, feeds: Mapping[str, Array], device: str) -> dict[str, int]:
    """How many nodes ran on each provider, by the profile of one run; those on the CPU by operator."""
    options = ort.SessionOptions()
    options.enable_profiling = True
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = f"{folder}/profile"
        providers = [*(["CUDAExecutionProvider"] if device == "cuda" else []), "CPUExecutionProvider"]
        session = ort.InferenceSession(path, options, providers=providers)
        kinds = {one.name: np.float16 if "16" in one.type else np.float32 for one in session.get_inputs()}
        session.run(None, {name: np.asarray(feeds[name], kind) for name, kind in kinds.items()})
        events = json.loads(Path(session.end_profiling()).read_text())
    seen = {event["name"]: event["args"] for event in events if event["name"].endswith("_kernel_time")}
    counts = collections.Counter(about["provider"].removesuffix("ExecutionProvider") for about in seen.values())
    if device == "cuda":
        on_cpu = (about["op_name"] for about in seen.values() if about["provider"].startswith("CPU"))
        counts |= collections.Counter(f"CPU: {operator}" for operator in on_cpu)
    return dict(counts.most_common(12))


def memory_used() -> int | None:
    """MiB of the GPU in use, by nvidia-smi."""
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    try:
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0])
    except (OSError, subprocess.CalledProcessError, ValueError, IndexError):
        return None


def gpu_name() -> str:
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "none"


def measure(
    path: Path, batch: int, inputs: dict[str, Array], expected: dict[str, Array], options: Any
) -> dict[str, Any]:
    """One row: a graph at one batch. Agreement is over all pictures, time over the first ones."""
    row: dict[str, Any] = {"graph": path.stem, "batch": batch}
    try:
        session = Session(path, options.device)
        parts, seconds = [], []
        for start in range(0, len(inputs["input"]) - batch + 1, batch):
            feeds = {name: array[start : start + batch] for name, array in inputs.items()}
            found, times = session.run(feeds, 0 if start else options.rounds)
            # Masks are hundreds of MB in full graphs, and boxes decide who is whose partner.
            parts.append({name: found[name] for name in ("dets", "labels")})
            seconds += times
        found = {name: np.concatenate([part[name] for part in parts]) for name in ("dets", "labels")}
    except Exception as error:
        return {**row, "error": first_line(error)[:300]}
    row["ms"] = round(1e3 * statistics.median(seconds), 2)
    row["least ms"] = round(1e3 * min(seconds), 2)
    row |= agreement({name: array[: len(found["dets"])] for name, array in expected.items()}, found)
    row["MiB in use"] = memory_used()
    if options.validation and batch == options.batches[0]:
        row |= average_precision(session, options.validation)
    if batch == 1:
        row["nodes"] = placement(path, {name: array[:1] for name, array in inputs.items()}, options.device)
    return row


def earlier_rows(path: Path, commit: str | None, machine: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of a record of the same commit on the same machine; none of any other."""
    try:
        record = json.loads(path.read_text())
        return list(record["rows"]) if (record["commit"], record["machine"]) == (commit, machine) else []
    except (OSError, ValueError, KeyError, TypeError):
        return []


def run(folder: Path, options: Any) -> None:
    about, inputs, expected = read(folder)
    paths = [path for path in sorted(folder.glob("*.onnx")) if options.graphs is None or path.stem in options.graphs]
    head = evidence.head(
        "exported graphs in ONNX Runtime's CUDA provider, TF32 off, outputs left on the GPU; see the script",
        {"gpu": gpu_name(), "onnxruntime": ort.__version__, "device": options.device},
        of=about["commit"],
    )
    rows = earlier_rows(options.output, head["commit"], head["machine"])
    for path in paths:
        for batch in options.batches:
            rows = [row for row in rows if (row["graph"], row["batch"]) != (path.stem, batch)]
            rows.append(measure(path, batch, inputs, expected, options))
            print(json.dumps(rows[-1]), flush=True)
    if options.torchvision:
        rows = [row for row in rows if not row["graph"].startswith("torchvision")] + torchvision_rows(inputs, options)
    evidence.save(options.output, {**head, "model": about["model"], "pictures": about["pictures"], "rows": rows})


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = parser.add_subparsers(dest="step", required=True)
    first = steps.add_parser("prepare", help="export the graphs, here")
    first.add_argument("folder", type=Path)
    first.add_argument("--types", nargs="+", choices=TYPES, default=list(TYPES), help="of the graphs (both)")
    first.add_argument("--masks", nargs="+", choices=MASKS, default=list(MASKS), help="of the graphs (both)")
    first.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS[:2]), help="plain and patched")
    first.add_argument("--model", default="emoji", metavar="NAME", help="emoji (default) or r50")
    first.add_argument("--random-weights", action="store_true", help="random weights, where there is no checkpoint")
    second = steps.add_parser("run", help="measure, on a machine with a GPU")
    second.add_argument("folder", type=Path)
    second.add_argument("--output", type=Path, required=True, help="JSON file to write")
    second.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    second.add_argument("--rounds", type=int, default=30, help="timed runs of each row (30)")
    second.add_argument("--batches", type=int, nargs="+", default=list(BATCHES))
    second.add_argument("--graphs", nargs="*", help="some graphs only, by file name without .onnx")
    second.add_argument("--validation", type=int, default=0, metavar="N", help="AP over N scenes too (0)")
    second.add_argument("--torchvision", action="store_true", help="times of torchvision's model too")
    options = parser.parse_args(words)
    if options.step == "prepare":
        prepare(options.folder, options)
    else:
        run(options.folder, options)


if __name__ == "__main__":
    main()
