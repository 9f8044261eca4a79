"""The course's two models behind one name: configs, checkpoints, and a detector ready to run.

``emoji`` is shipped in the repository. ``r50`` is mmdet's official ``mask_rcnn_r50_fpn_2x_coco``, whose config ships
inside the mmdet wheel and whose checkpoint the user fetches or names.

torch and mmdet take seconds to import, so only the functions that build or open something import them: names, paths and
their errors come at once.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import pickle
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers import paths
from helpers.artifacts import sha256_file
from helpers.compat import ensure_torchvision
from helpers.detector.preprocess import INPUT_HEIGHT, INPUT_WIDTH
from helpers.errors import CourseError

ensure_torchvision()  # for whoever imports mmdet after this module

if TYPE_CHECKING:
    from mmcv import Config
    from mmdet.models.detectors import BaseDetector

__all__ = [
    "MODEL_NAMES",
    "CheckpointError",
    "ModelSpec",
    "UnknownModelError",
    "build_random_detector",
    "current_model_name",
    "download_checkpoint",
    "lighten",
    "load_config",
    "load_detector",
    "model_spec",
    "read_checkpoint",
    "require_published",
    "weights_digest",
]

MODEL_NAMES = ("emoji", "r50")
INPUT_SHAPE = (1, 3, INPUT_HEIGHT, INPUT_WIDTH)


class UnknownModelError(CourseError):
    """The name is not one of :data:`MODEL_NAMES`."""


class CheckpointError(CourseError):
    """A checkpoint is missing, damaged, not the published one, not loadable safely, or of another model."""


@dataclass(frozen=True)
class ModelSpec:
    """Where one model lives.

    checkpoint: the file to load, or None if there is none yet (see :func:`download_checkpoint`).
    sha256: the digest that the published checkpoint has (a prefix is enough: mmdet publishes the first 8 digits, in
    the file's name); None for a file that the user named, whose content nobody promised.
    """

    name: str
    config: Path
    checkpoint: Path | None
    sha256: str | None


def current_model_name() -> str:
    """``$COURSE_MODEL``, default ``emoji``. Raises :class:`UnknownModelError`."""
    return _known(_chosen())


def _chosen() -> str:
    return os.environ.get("COURSE_MODEL") or "emoji"


def _known(name: str) -> str:
    if name not in MODEL_NAMES:
        raise UnknownModelError(f"there is no model named {name!r}", f"use one of: {', '.join(MODEL_NAMES)}")
    return name


def model_spec(name: str | None = None, checkpoint: Path | str | None = None) -> ModelSpec:
    """Config and checkpoint of a model.

    ``name`` defaults to :func:`current_model_name`; ``checkpoint`` to ``$COURSE_CHECKPOINT`` for that model (the
    variable speaks of no other), then to the published file where it is present.

    Raises:
        UnknownModelError: no such model.
        CheckpointError: a checkpoint was named and is not there.
    """
    name = _known(name) if name else current_model_name()
    named = checkpoint or (os.environ.get("COURSE_CHECKPOINT") if name == _chosen() else None)
    if named:
        if not Path(named).is_file():
            raise CheckpointError(f"there is no checkpoint at {named}", "check the path")
        return ModelSpec(name, _published(name).config, Path(named), None)
    return _published(name)


def _published(name: str) -> ModelSpec:
    """Config and published checkpoint of a known model."""
    if name == "emoji":
        folder = paths.MODELS / "emoji"
        sums = folder / "SHA256SUMS"
        lines = sums.read_text().splitlines() if sums.is_file() else []
        digests = {file: digest for digest, file in (line.split() for line in lines)}
        weights = folder / "mask_rcnn_emoji.pth"
        # No digest begins with "missing": weights without their recorded sum are refused.
        return ModelSpec(name, folder / "mask_rcnn_emoji.py", weights, digests.get(weights.name, "missing"))
    package = importlib.util.find_spec("mmdet")
    folder = Path(package.origin or "").parent if package else Path("mmdet")
    config = folder / ".mim/configs/mask_rcnn/mask_rcnn_r50_fpn_2x_coco.py"
    found = sorted(_r50_folder().glob("mask_rcnn_r50_fpn_2x_coco_*.pth"))
    # OpenMMLab ends a file's name with the first eight digits of its SHA-256.
    return ModelSpec(name, config, *((found[-1], found[-1].stem.rsplit("-", 1)[-1]) if found else (None, None)))


def _r50_folder() -> Path:
    return paths.build_root() / "downloads" / "r50"


def download_checkpoint(name: str = "r50") -> Path:
    """Fetch the official checkpoint with ``mim download`` into ``build/downloads/r50``; returns its path.

    Raises:
        CheckpointError: mim is not installed, or the download failed (offline, say).
    """
    if name != "r50":
        raise CheckpointError(f"the model {name!r} has nothing to download", "it is part of the repository")
    folder = _r50_folder()
    mim = shutil.which("mim", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if mim is None:
        raise CheckpointError("mim is not installed", "run `pip install openmim`, or name a checkpoint file")
    folder.mkdir(parents=True, exist_ok=True)
    command = [mim, "download", "mmdet", "--config", "mask_rcnn_r50_fpn_2x_coco", "--dest", str(folder)]
    if subprocess.run(command, check=False).returncode != 0 or model_spec("r50").checkpoint is None:
        raise CheckpointError(
            "the official checkpoint could not be downloaded",
            "go online and try again, or name a checkpoint file with --checkpoint or COURSE_CHECKPOINT",
        )
    found = model_spec("r50").checkpoint
    assert found is not None
    return found


def load_config(name: str | None = None) -> Config:
    """The model's mmdet config, with the course's preprocessing (:func:`helpers.detector.pipeline.mmdet_pipeline`) in
    it.

    Nothing is downloaded: the config's own pretrained backbone is switched off.
    """
    from mmcv import Config

    from helpers.detector.pipeline import mmdet_pipeline

    # Which checkpoint there is, or that a named one is missing, is nothing to the config.
    config = Config.fromfile(str(_published(_known(name) if name else current_model_name()).config))
    config.model.backbone.pop("init_cfg", None)
    config.model.pretrained = None
    config.data = {"test": {"pipeline": mmdet_pipeline()}}
    return config


def require_published(spec: ModelSpec) -> Path:
    """The path of the checkpoint, if it is there and, where that is known, has the content of the published file.

    Raises:
        CheckpointError: it has not, or is not there.
    """
    path = spec.checkpoint
    if path is None:
        raise CheckpointError(
            f"there is no checkpoint for {spec.name}",
            "run `python -m helpers.detector.models` online, or name a file with --checkpoint or COURSE_CHECKPOINT",
        )
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint at {path}", "check out the repository again")
    if spec.sha256 is not None and not sha256_file(path).startswith(spec.sha256):
        raise CheckpointError(f"{path} is not the published file (its SHA-256 differs)", "delete it and fetch it again")
    return path


def read_checkpoint(spec: ModelSpec, *, trust: bool = False) -> dict[str, Any]:
    """Verify and open a model's checkpoint file; see :func:`load_detector` for ``trust``. Raises CheckpointError."""
    import torch

    if not trust and os.environ.get("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "").lower() in ("1", "y", "yes", "true"):
        raise CheckpointError(
            "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD is set, under which torch runs the code in a checkpoint",
            "unset it, or pass trust=True if you trust who made the file",
        )
    path = require_published(spec)
    try:
        content = torch.load(path, map_location="cpu", weights_only=not trust)
    except pickle.UnpicklingError as error:
        # torch's own words advise to switch the check off, and are pages long: they are not passed on.
        named = re.search(r"GLOBAL (\S+)", str(error))
        raise CheckpointError(
            f"{path} {f'holds more than tensors ({named[1]})' if named else 'is damaged'} and was not opened",
            "use a checkpoint of tensors only, or pass trust=True if you trust who made it",
        ) from None
    except Exception as error:  # whatever torch's readers stumble over in a damaged file
        raise CheckpointError(f"{path} is not a whole PyTorch checkpoint", "fetch it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no dictionary of weights", "name a checkpoint of this model")
    return content


def load_detector(
    name: str | None = None, checkpoint: Path | str | None = None, *, device: str = "cpu", trust: bool = False
) -> BaseDetector:
    """Build the detector, load its weights in FP32, and put it in evaluation mode.

    The result is what ``mmdet.apis.init_detector`` gives (it has ``cfg`` and ``CLASSES``), and works with
    ``inference_detector`` and ``show_result``. ``init_detector`` itself cannot be told to load with
    ``weights_only=True``, and knows no digests.

    ``trust`` lets the checkpoint run code while it is unpickled; the default refuses.

    Raises:
        UnknownModelError, CheckpointError.
    """
    spec = model_spec(name, checkpoint)
    content = read_checkpoint(spec, trust=trust)
    state = content.get("state_dict", content)
    detector = _build(spec.name)
    try:
        detector.load_state_dict(
            {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
        )
    except (RuntimeError, AttributeError) as error:
        raise CheckpointError(
            f"{spec.checkpoint} has not the weights of the model {spec.name!r}", "name a checkpoint of this model"
        ) from error
    return detector.to(device).eval()


def _build(name: str) -> BaseDetector:
    from mmdet.datasets import CocoDataset
    from mmdet.models import build_detector

    config = load_config(name)
    detector = build_detector(config.model)
    detector.cfg = config
    detector.CLASSES = tuple(CocoDataset.CLASSES)
    return detector


def build_random_detector(name: str = "r50", seed: int = 0) -> BaseDetector:
    """The model's architecture with random weights from a seed, in evaluation mode: for tests where no checkpoint is.

    Plain random heads give scores that differ in the sixth digit, so that any rounding reorders them. The last layer of
    each classifier is scaled up until scores spread over (0, 1), which makes the ranking stable across runtimes. So is
    that of the RPN's regressor, until boxes of neighbouring FPN levels overlap, but none is clipped to nothing:
    inference drops empty boxes, mmdet's export does not, and a trained RPN does not rank them high. The mask head gets
    a bias, by which masks are blobs: noise around 0.5 is all border, and borders move with every rounding.
    """
    import torch

    state = torch.random.get_rng_state()
    try:
        torch.manual_seed(seed)
        detector = _build(_known(name))
        logging.disable(logging.INFO)  # mmcv logs a paragraph for every weight
        detector.init_weights()
        with torch.no_grad():
            rpn, box_head = detector.rpn_head, detector.roi_head.bbox_head
            for layer, gain in ((rpn.rpn_cls, 60.0), (rpn.rpn_reg, 20.0), (box_head.fc_cls, 60.0)):
                layer.weight.mul_(gain)
            detector.roi_head.mask_head.conv_logits.bias.fill_(1.0)
            box_head.fc_cls.bias.zero_()
    finally:
        logging.disable(logging.NOTSET)
        torch.random.set_rng_state(state)
    return detector.eval()


def lighten(detector: BaseDetector, proposals: int = 200, detections: int = 20) -> BaseDetector:
    """The detector itself, made to keep so many proposals and detections, fewer than the usual 1000 and 100: at a small
    input the two heads of the RoIs take most of the time.
    """
    for config in (detector.test_cfg.rpn, detector.rpn_head.test_cfg):
        config.update(nms_pre=proposals, max_per_img=proposals)
    for config in (detector.test_cfg.rcnn, detector.roi_head.test_cfg):
        config.update(max_per_img=detections)
    return detector


def weights_digest(detector: BaseDetector) -> str:
    """The SHA-256 of all weights with their names, shapes and types: a recorded input of what a detector makes."""
    digest = hashlib.sha256()
    for name, tensor in detector.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


if __name__ == "__main__":
    try:
        print(download_checkpoint())
    except CourseError as error:
        sys.exit(str(error))
