"""Does true half precision on a GPU do what the simulation on a CPU says? One table, one JSON record.

Two steps, because the GPU machine need not have mmdet:

    python scripts/verify_half_on_gpu.py --prepare build/half_on_gpu
    python scripts/verify_half_on_gpu.py --from build/half_on_gpu --output evidence/half_precision_gpu.json

The first needs the course's environment and about five minutes on two cores. It exports the embedded model as it is and
with the patches that keep every tensor inside half precision's range, finds the minimal plan of FP32 nodes, simulates
each run of the table, and writes all that with the FP32 detections of ONNX Runtime into one file, about 30 MB.

The second needs Python with torch, numpy, onnx, rich, tqdm, scipy and matplotlib, no mmdet, and a GPU, or
``--device cpu`` for a dry run, where kernels compute in true half precision too. It runs the same graphs node by node
with PyTorch's operators (helpers/half_precision/torch_graph.py) and compares: which tensors are not finite, by name;
the first inf and the first NaN; the detections.

Times are those of the interpreter, node by node from Python with NMS on the host: they are no benchmark of the model.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import shutil
import statistics
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import numpy.typing as npt
import onnx
import torch
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from helpers import artifacts, evidence
from helpers.compare.parity import compare
from helpers.detector.detections import Detections
from helpers.errors import CourseError
from helpers.graph.file import load_onnx
from helpers.half_precision.agreement import HALF_TOLERANCE, agreement
from helpers.half_precision.torch_graph import DTYPES, TorchGraph, hunt
from helpers.paths import DATA

Array = npt.NDArray[Any]
FILE = "prepared.npz"
# Raised when what --prepare writes changes.
FORMAT = 1


class VerifyError(CourseError):
    """What was prepared cannot be made or read, or the device is missing."""


@dataclass(frozen=True)
class Row:
    """One run: of which graph, in which type, with the plan's nodes in FP32 or not."""

    name: str
    graph: str
    dtype: str
    planned: bool = False


CONTROL = Row("FP32, the control", "plain", "float32")
ROWS = (
    CONTROL,
    Row("float16, as exported", "plain", "float16"),
    Row("float16, the plan's nodes in FP32", "plain", "float16", planned=True),
    Row("float16, patched, no FP32 node", "patched", "float16"),
    Row("bfloat16, as exported", "plain", "bfloat16"),
    Row("bfloat16, the plan's nodes in FP32", "plain", "bfloat16", planned=True),
    Row("bfloat16, patched, no FP32 node", "patched", "bfloat16"),
)


@dataclass(frozen=True)
class Prepared:
    """graphs: by name. feeds: the network's input. reference: dets, labels and masks of ONNX Runtime in FP32. plan:
    names of the FP32 nodes. simulated: by the rows' names; about: where it comes from."""

    graphs: dict[str, onnx.ModelProto]
    feeds: dict[str, Array]
    reference: dict[str, Array]
    plan: tuple[str, ...]
    simulated: dict[str, Any]
    about: dict[str, Any]

    def keep(self, row: Row) -> tuple[str, ...]:
        return self.plan if row.planned else ()


# --- the first step ---------------------------------------------------------------------------------------------------


def exported_graphs() -> dict[str, onnx.ModelProto]:
    """The embedded model with its boxes moved by their classes and back, as mmdet exports them, and with the patches
    for half precision; both correct in FP32."""
    try:
        from helpers.export import exporter as export
    except ImportError as error:
        raise VerifyError(
            f"exporting needs the course's environment, and this machine has no {error.name}",
            "run --prepare on a machine that has it, and give the folder here with --from",
        ) from error
    moved, every_patch = export.BOXES_MOVED["standard"], (*export.CORRECT["standard"], *export.HALF)
    plain = export.make_onnx("emoji", "standard", applied=moved, label="moved")
    patched = export.make_onnx("emoji", "standard", applied=every_patch, label="half-all")
    return {"plain": load_onnx(plain), "patched": load_onnx(patched)}


def picture_feeds(picture: Path) -> dict[str, Array]:
    from helpers.detector.preprocess import prepare, read_picture
    from helpers.graph.detect import feeds

    return feeds([prepare(read_picture(picture))])


def prepared_from(graphs: dict[str, onnx.ModelProto], feeds: dict[str, Array], about: Mapping[str, Any]) -> Prepared:
    """Everything that the second step compares with: reference, plan and simulations."""
    from helpers.graph.onnx_runtime import OnnxRunner, open_session
    from helpers.half_precision import simulation as half
    from helpers.half_precision.search import find_plan

    reference = OnnxRunner(graphs["plain"], optimise=False).run(feeds)
    plan = find_plan(graphs["plain"], feeds).plan
    made = Prepared(graphs, feeds, reference, plan.names, {}, {**about, "onnxruntime": _version("onnxruntime")})
    for row in tqdm(ROWS[1:], desc="simulated half precision", unit="run"):
        model, keep = graphs[row.graph], made.keep(row)
        found = half.hunt(model, feeds, keep=keep, form=row.dtype)
        session = open_session(half.round_results(model, keep=keep, form=row.dtype), optimise=False)
        outputs = dict(zip(("dets", "labels"), session.run(["dets", "labels"], feeds), strict=True))
        made.simulated[row.name] = {
            "float tensors": found.watched,
            "not finite": [[suspect.tensor, suspect.inf, suspect.nan] for suspect in found.suspects],
            "first inf": found.first_inf.tensor if found.first_inf else None,
            "first NaN": found.first_nan.tensor if found.first_nan else None,
            "chain": [suspect.tensor for suspect in found.chain],
            "detections": _agreement(reference, outputs),
        }
    return made


def save(prepared: Prepared, folder: Path) -> Path:
    """Write one file, about 30 MB: weights that the graphs share are written once."""
    arrays: dict[str, Array] = {}
    for name, model in prepared.graphs.items():
        stripped = onnx.ModelProto()
        stripped.CopyFrom(model)
        for tensor in stripped.graph.initializer:
            if tensor.HasField("raw_data"):
                digest = hashlib.sha256(tensor.raw_data).hexdigest()
                arrays[f"weights/{digest}"] = np.frombuffer(tensor.raw_data, np.uint8)
                tensor.doc_string = digest
                tensor.ClearField("raw_data")
        arrays[f"graph/{name}"] = np.frombuffer(stripped.SerializeToString(), np.uint8)
    arrays |= {f"feed/{name}": array for name, array in prepared.feeds.items()}
    reference = prepared.reference
    arrays |= {f"reference/{name}": reference[name] for name in ("dets", "labels")}
    arrays["reference/masks"] = np.packbits(reference["masks"] >= 0.5)
    text = {
        "format": FORMAT,
        "masks": reference["masks"].shape,
        "plan": prepared.plan,
        "simulated": prepared.simulated,
        "about": prepared.about,
    }
    arrays["text"] = np.frombuffer(json.dumps(text).encode(), np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    with artifacts.whole_file(folder / FILE) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    return folder / FILE


# --- the second step --------------------------------------------------------------------------------------------------


def load(folder: Path) -> Prepared:
    """Read what :func:`save` wrote.

    Raises:
        VerifyError: the file is missing, truncated or of another version of this script.
    """
    path = folder / FILE
    if not path.is_file():
        raise VerifyError(f"there is no {FILE} in {folder}", "make it with --prepare on a machine with mmdet")
    remake = "make it again with --prepare"
    try:
        with np.load(path, allow_pickle=False) as arrays:
            text = json.loads(arrays["text"].tobytes())
            if text["format"] != FORMAT:
                raise VerifyError(f"{path} was made by another version of this script", remake)
            names = arrays.files
            graphs = {}
            for key in (key for key in names if key.startswith("graph/")):
                model = onnx.ModelProto.FromString(arrays[key].tobytes())
                for tensor in model.graph.initializer:
                    if tensor.doc_string:
                        tensor.raw_data = arrays[f"weights/{tensor.doc_string}"].tobytes()
                graphs[key.removeprefix("graph/")] = model
            feeds = {key.removeprefix("feed/"): arrays[key] for key in names if key.startswith("feed/")}
            reference = {name: arrays[f"reference/{name}"] for name in ("dets", "labels")}
            bits = np.unpackbits(arrays["reference/masks"], count=int(np.prod(text["masks"])))
            reference["masks"] = bits.reshape(text["masks"]).astype(np.float32)
            return Prepared(graphs, feeds, reference, tuple(text["plan"]), text["simulated"], text["about"])
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise VerifyError(f"{path} is truncated or was not made by --prepare", remake) from error


def measure(prepared: Prepared, row: Row, device: str, repeats: int) -> dict[str, Any]:
    """One row of the record."""
    keep = prepared.keep(row)
    graph = TorchGraph(prepared.graphs[row.graph], device=device, dtype=DTYPES[row.dtype], keep=keep)
    asked = ["dets", "labels", "masks"] if row == CONTROL else ["dets", "labels"]
    found = hunt(graph, prepared.feeds, asked)
    outputs = found.outputs
    result: dict[str, Any] = {
        "row": row.name,
        "type": row.dtype,
        "nodes in FP32": len(keep),
        "float tensors": found.watched,
        "not finite": [[suspect.tensor, suspect.inf, suspect.nan] for suspect in found.suspects],
        "first inf": found.first_inf,
        "first NaN": found.first_nan,
        "detections": _agreement(prepared.reference, outputs),
    }
    if device == "cuda":
        result |= _times(graph, prepared.feeds, repeats)
    if row == CONTROL:
        parity = compare(_first_picture(prepared.reference), _first_picture(outputs))
        result["parity with ONNX Runtime"] = {"agrees": parity.agrees, "in words": str(parity)}
    else:
        result["simulated"] = simulated = prepared.simulated[row.name]
        result["against the simulation"] = _difference(result["not finite"], simulated["not finite"])
        for first in ("first inf", "first NaN"):
            result["against the simulation"][f"same {first}"] = result[first] == simulated[first]
    return result


def _difference(real: list[list[Any]], simulated: list[list[Any]]) -> dict[str, Any]:
    ours, theirs = ({name: (inf, nan) for name, inf, nan in rows} for rows in (real, simulated))
    return {
        "only real": [name for name in ours if name not in theirs],
        "only simulated": [name for name in theirs if name not in ours],
        "in both, inf or NaN in one alone": [name for name in ours if theirs.get(name, ours[name]) != ours[name]],
    }


def _agreement(reference: Mapping[str, Array], outputs: Mapping[str, Array]) -> dict[str, Any]:
    same = agreement(reference, outputs)
    return {
        "numbers of dets not finite": same.non_finite,
        "matched": same.matched,
        "without a partner": same.alone,
        "share with a partner": round(same.share, 4),
        "median box error, px": None if np.isnan(same.box) else round(same.box, 4),
        "right": bool(same.within(HALF_TOLERANCE)),
    }


def _first_picture(run: Mapping[str, Array]) -> Detections:
    return Detections.from_raw(run["dets"][0], run["labels"][0], run["masks"][0])


def _times(graph: TorchGraph, feeds: Mapping[str, Array], repeats: int) -> dict[str, Any]:
    """Of the GPU, after the warm-up that the earlier runs were."""
    torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.run(feeds, [])
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    peak = torch.cuda.max_memory_allocated() / 1e6
    return {
        "ms of the interpreter": round(statistics.median(times), 2),
        "ms of each run": [round(ms, 2) for ms in times],
        "peak GPU memory, MB": round(peak),
    }


def checks(rows: Sequence[Mapping[str, Any]]) -> dict[str, bool]:
    """What the simulation claims, and whether true half precision bears it out."""
    by_name = {row["row"]: row for row in rows if "error" not in row}

    def claim(number: int, holds: Any) -> bool:
        row = by_name.get(ROWS[number].name)
        return row is not None and bool(holds(row))

    return {
        "FP32 agrees with ONNX Runtime by the parity contract": claim(
            0, lambda row: row["parity with ONNX Runtime"]["agrees"] and not row["not finite"]
        ),
        "as exported, the first inf is the simulation's": claim(
            1, lambda row: row["first inf"] and row["against the simulation"]["same first inf"]
        ),
        "as exported, the first NaN is the simulation's": claim(
            1, lambda row: row["first NaN"] and row["against the simulation"]["same first NaN"]
        ),
        "the plan's FP32 nodes mend the detections": claim(2, lambda row: row["detections"]["right"]),
        "patched, every tensor is finite and the detections are right": claim(
            3, lambda row: not row["not finite"] and row["detections"]["right"]
        ),
    }


def machine(device: str) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "torch": torch.__version__,
        "numpy": np.__version__,
        "onnx": _version("onnx"),
    }
    if device == "cuda":
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = None
        if shutil.which(query[0]):
            driver = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False).stdout.strip()
        facts |= {
            "gpu": torch.cuda.get_device_name(),
            "compute capability": ".".join(map(str, torch.cuda.get_device_capability())),
            "cuda of torch": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "driver": driver,
        }
    return facts


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)


def settings() -> dict[str, bool]:
    """Set what PyTorch leaves to flags: no TF32, and its default for sums of half-precision products."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = True
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = True
    return {
        "TF32 (matmul and cudnn)": False,
        "torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction": True,
        "torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction": True,
    }


def table(rows: Sequence[Mapping[str, Any]]) -> Table:
    shown = Table(title="True half precision in PyTorch against the simulation")
    for column in ("run", "not finite", "simulated", "differ", "first inf", "first NaN", "partners", "box px", "ms"):
        shown.add_column(column, overflow="fold")
    for row in rows:
        if "error" in row:
            shown.add_row(row["row"], f"FAILED: {row['error']}")
            continue
        simulated = row.get("simulated")
        against = row.get("against the simulation", {})
        differ = sum(len(names) for names in against.values() if isinstance(names, list))
        firsts = []
        for first in ("first inf", "first NaN"):
            same = "" if not simulated or against[f"same {first}"] else f" (simulated: {simulated[first] or 'none'})"
            firsts.append(f"{row[first] or '-'}{same}")
        found = row["detections"]
        shown.add_row(
            row["row"],
            f"{len(row['not finite'])} of {row['float tensors']}",
            str(len(simulated["not finite"])) if simulated else "",
            str(differ) if simulated else "",
            *firsts,
            f"{found['share with a partner']:.3f}" + ("" if found["right"] else " WRONG"),
            "" if found["median box error, px"] is None else f"{found['median box error, px']:.3g}",
            str(row.get("ms of the interpreter", "")),
        )
    return shown


def verify(prepared: Prepared, arguments: argparse.Namespace) -> int:
    """Measure all rows, write the record and show it; 0 if every claim of the simulation holds."""
    flags = settings()
    record: dict[str, Any] = {
        **evidence.head(
            "the exported detector run node by node by PyTorch in true half precision, against its simulation",
            machine(arguments.device),
            of=arguments.commit,
        ),
        "device": arguments.device,
        "note": "a dry run: PyTorch's half-precision kernels of a CPU, not of a GPU" if arguments.device == "cpu" else
        "the interpreter's times include NMS on the host and each node's launch from Python: no benchmark of the model",
        "settings": flags,
        "prepared": prepared.about,
        "plan": prepared.plan,
    }  # fmt: skip
    rows: list[dict[str, Any]] = []
    start = time.perf_counter()
    for row in tqdm(ROWS, desc=f"true half precision on {arguments.device}", unit="run"):
        try:
            rows.append(measure(prepared, row, arguments.device, arguments.repeats))
        except Exception as error:  # one row must not cost the others
            rows.append({"row": row.name, "error": f"{type(error).__name__}: {error}"})
        record |= {"seconds": round(time.perf_counter() - start, 1), "checks": checks(rows), "rows": rows}
        # After each row: what a lent machine measured before it went away is kept.
        evidence.save(arguments.output, record)
    claims = record["checks"]
    console = Console(width=None if sys.stdout.isatty() else 180)
    for claim, holds in claims.items():
        console.print(f"{'ok    ' if holds else 'FAILED'}  {claim}")
    console.print(f"record: {arguments.output} ({record['seconds']} s)")
    console.print(table(rows))
    return 0 if all(claims.values()) else 1


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    step = parser.add_mutually_exclusive_group(required=True)
    step.add_argument("--prepare", type=Path, metavar="FOLDER", help="first step: write what the second one needs")
    step.add_argument("--from", type=Path, metavar="FOLDER", dest="folder", help="second step: run what is there")
    parser.add_argument(
        "--picture", type=Path, default=DATA / "demo" / "crowd.jpg", help="first step: the picture (default: crowd.jpg)"
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="second step (default: cuda)")
    parser.add_argument("--output", type=Path, help="second step: the JSON record to write")
    parser.add_argument("--repeats", type=int, default=5, help="second step: timed runs of a row on a GPU")
    parser.add_argument("--commit", help="the commit, for a copy without a repository")
    options = parser.parse_args(arguments)
    if options.prepare:
        about = {
            "model": "emoji",
            "picture": options.picture.name,
            "commit": options.commit or evidence.commit(),
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        }
        graphs = exported_graphs()
        path = save(prepared_from(graphs, picture_feeds(options.picture), about), options.prepare)
        print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")
        return 0
    if options.output is None:
        parser.error("--from needs --output, the JSON record to write")
    if options.repeats < 1:
        parser.error("--repeats must be at least 1")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise VerifyError("PyTorch finds no GPU here", "run this on a machine with one, or pass --device cpu")
    return verify(load(options.folder), options)


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except CourseError as error:
        sys.exit(str(error))
