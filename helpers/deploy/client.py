"""A detector from its folder: ``python client.py picture.jpg --output found.npz``, or ``Detector(folder)``."""

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import onnxruntime

from helpers.detector.paste import paste

FORMAT = 1


class BundleError(Exception):
    """A folder, a file or a picture that cannot be used, in one sentence."""


class Found(NamedTuple):
    """(N, 4) x1 y1 x2 y2 in the picture's pixels, (N,) scores, (N,) indices of classes, (N, H, W) bool."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: np.ndarray


def verify(folder: Path) -> None:
    """Every file that SHA256SUMS names is there and whole. That finds damage: who forges a file can forge the list."""
    if not (folder / "SHA256SUMS").is_file():
        raise BundleError(f"{folder} is not a detector's folder: SHA256SUMS is missing from it.")
    for digest, name in (line.split("  ", 1) for line in (folder / "SHA256SUMS").read_text().splitlines()):
        if not (folder / name).is_file():
            raise BundleError(f"{name} is missing from the folder {folder}: copy it again.")
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
            raise BundleError(f"{name} has changed since the folder {folder} was made: copy it again.")


class Detector:
    """The detector of a folder; ``about`` is its bundle.json. options: for the session. Raises BundleError."""

    def __init__(self, folder: Path | str = Path(__file__).parent, **options: Any) -> None:
        verify(folder := Path(folder))
        self.about: dict[str, Any] = json.loads((folder / "bundle.json").read_text())
        if (form := self.about["format"]) != FORMAT:
            raise BundleError(f"the folder has format {form}, this client reads {FORMAT}: use the folder's own.")
        options.setdefault("providers", ["CPUExecutionProvider"])
        try:
            self.session = onnxruntime.InferenceSession(folder / self.about["model"]["file"], **options)
        except Exception as error:
            what = f"a model of opset {self.about['model']['opset']} ({str(error).splitlines()[0]})"
            raise BundleError(f"ONNX Runtime {onnxruntime.__version__} cannot load {what}: use a newer one.") from error

    def prepare(self, picture: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """The network's inputs for BGR (H, W, 3) uint8, and input pixels per picture pixel (x, y, x, y)."""
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or not picture.size:
            raise BundleError(f"a picture is (height, width, 3) uint8 with pixels: {picture.shape} {picture.dtype}.")
        rule, size = self.about["preprocessing"], np.array(picture.shape[:2])
        factor = min(*(rule["input_shape"] / size), *np.divide(rule["longest"] or np.inf, np.sort(size)[::-1]))
        rows, columns = rule["stretched"] or np.maximum(1, (size * factor + 0.5).astype(int))
        pixels: np.ndarray = cv2.resize(picture, (int(columns), int(rows))).astype(np.float32)  # bilinear
        pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB) if rule["to_rgb"] else pixels
        mean, std = (np.array(rule[name], np.float32).astype(np.float64)[None] for name in ("mean", "std"))
        padded = np.full((*rule["input_shape"], 3), rule["padding"], np.float32)
        padded[:rows, :columns] = cv2.multiply(cv2.subtract(pixels, mean), 1 / std)
        tensor, scale = padded.transpose(2, 0, 1)[None], np.array([columns / size[1], rows / size[0]] * 2, np.float32)
        return {"input": np.ascontiguousarray(tensor), "image_size": np.array([[rows, columns]], np.float32)}, scale

    def detect(self, picture: np.ndarray) -> Found:
        """What is in a BGR picture (H, W, 3) uint8, from the score on that the graph was exported with."""
        inputs, scale = self.prepare(picture)
        taken = {given.name: inputs[given.name] for given in self.session.get_inputs()}
        dets, labels, masks = (output[0] for output in self.session.run(["dets", "labels", "masks"], taken))
        dets, labels, masks = (array[dets[:, 4] > 0] for array in (dets, labels, masks))
        boxes, corner = dets[:, :4] / scale, np.array(picture.shape[1::-1] * 2, np.float32)
        pasted = paste(masks, boxes, picture.shape[:2], threshold=self.about["thresholds"]["mask"])
        return Found(np.clip(boxes, 0, corner), dets[:, 4], labels, pasted)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("picture", type=Path)
    parser.add_argument("--output", help="an .npz file for boxes, scores, labels and masks")
    arguments = parser.parse_args()
    try:
        content = np.frombuffer(arguments.picture.read_bytes() if arguments.picture.is_file() else b"", np.uint8)
        if not content.size or (picture := cv2.imdecode(content, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)) is None:
            raise BundleError(f"{arguments.picture} is no file of a picture that can be decoded.")
        found = (detector := Detector()).detect(picture)
        for box, score, label in zip(*found[:3], strict=True):
            print(f"{detector.about['classes'][label]:16} {score:.3f}  {np.array2string(box, precision=1)}")
        if arguments.output:
            np.savez_compressed(part := f"{arguments.output}.part.npz", **found._asdict())
            Path(part).replace(arguments.output)
    except (BundleError, OSError, cv2.error) as error:
        sys.exit(" ".join(str(error).split()))
