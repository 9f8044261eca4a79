"""A model is a config file and a checkpoint: which there are, and a detector made of them, ready to run.

Two have a name. ``emoji`` is shipped in the repository. ``r50`` is mmdet's official ``mask_rcnn_r50_fpn_2x_coco``: its
config ships inside the mmdet wheel, its checkpoint the user fetches or names. Any other is given by its files
(:func:`own_model`, or the variables ``COURSE_CONFIG``, ``COURSE_CHECKPOINT`` and ``COURSE_CLASSES``).

torch and mmdet take seconds to import, so only the functions that build or open something import them: names, paths and
their errors come at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from helpers import paths
from helpers.artifacts import read_json, read_regular, sha256_file
from helpers.compat import ensure_torchvision
from helpers.detector.checkpoints import (
    CheckpointError,
    disagreements,
    load_state,
    open_checkpoint,
    recorded_config,
    refuse_forced_trust,
    weights_of,
)
from helpers.detector.preprocess import COURSE, INPUT_HEIGHT, INPUT_WIDTH, NetworkInput, Preprocessing, prepare
from helpers.errors import CourseError, first_line

ensure_torchvision()  # for whoever imports mmdet after this module

if TYPE_CHECKING:
    import numpy.typing as npt
    from mmcv import Config
    from mmdet.models.detectors import BaseDetector

__all__ = [
    "MODEL_NAMES",
    "CheckpointError",
    "ConfigError",
    "InferenceError",
    "ModelSpec",
    "UnknownModelError",
    "build_architecture",
    "build_random_detector",
    "current_model_name",
    "download_checkpoint",
    "inside_the_model",
    "lighten",
    "load_config",
    "load_detector",
    "model_spec",
    "own_model",
    "preprocessing_of",
    "read_checkpoint",
    "read_config",
    "require_published",
    "spread_scores",
    "weights_digest",
]

MODEL_NAMES = ("emoji", "r50")
INPUT_SHAPE = (1, 3, INPUT_HEIGHT, INPUT_WIDTH)


class UnknownModelError(CourseError):
    """The name is not one of :data:`MODEL_NAMES`."""


class InferenceError(CourseError):
    """PyTorch stops inside the model."""


class ConfigError(CourseError):
    """A config is missing, cannot be read or built, or its classes are not the model's."""


@dataclass(frozen=True)
class ModelSpec:
    """Where one model lives.

    checkpoint: the file to load, or None if there is none yet (see :func:`download_checkpoint`).
    sha256: the digest that the published checkpoint has (a prefix is enough: mmdet publishes the first 8 digits, in
    the file's name); None for a file that the user named, whose content nobody promised.
    classes: a file of class names; None takes those of the checkpoint or of the config.
    input_shape: (height, width) of the network's input; None takes that of the config's test pipeline.
    """

    name: str
    config: Path
    checkpoint: Path | None
    sha256: str | None = None
    classes: Path | None = None
    input_shape: tuple[int, int] | None = None


def current_model_name() -> str:
    """``$COURSE_MODEL``, default ``emoji``; with ``$COURSE_CONFIG`` set, that file's name without its ending.

    Raises:
        UnknownModelError: no such model, or both variables are set.
    """
    return _known(_chosen())


def _chosen() -> str:
    config, name = os.environ.get("COURSE_CONFIG"), os.environ.get("COURSE_MODEL")
    if config and name:
        raise UnknownModelError(
            f"COURSE_MODEL={name} and COURSE_CONFIG={config} name two models", "unset one of the two"
        )
    return _name_of(Path(config)) if config else name or "emoji"


def _name_of(config: Path) -> str:
    # Names of models are names of folders in build/.
    return f"own-{config.stem}" if config.stem in MODEL_NAMES else config.stem


def _known(name: str) -> str:
    if name not in MODEL_NAMES and not (os.environ.get("COURSE_CONFIG") and name == _chosen()):
        raise UnknownModelError(
            f"there is no model named {name!r}",
            f"use one of: {', '.join(MODEL_NAMES)}; or name a config file in COURSE_CONFIG",
        )
    return name


def own_model(
    config: Path | str,
    checkpoint: Path | str | None,
    classes: Path | str | None = None,
    *,
    input_shape: tuple[int, int] | None = None,
) -> ModelSpec:
    """A model of one's own by its files, named as its config file is. Without a checkpoint there is its architecture
    only (:func:`build_random_detector`).

    Raises:
        ConfigError: there is no such config or file of classes.
        CheckpointError: there is no such checkpoint.
    """
    for file, what in ((config, "config"), (classes, "file of classes")):
        if file is not None and not Path(file).is_file():
            raise ConfigError(f"there is no {what} at {file}", "check the path")
    if checkpoint is not None and not Path(checkpoint).is_file():
        raise CheckpointError(f"there is no checkpoint at {checkpoint}", "check the path")
    return ModelSpec(
        _name_of(Path(config)),
        Path(config),
        Path(checkpoint) if checkpoint is not None else None,
        classes=Path(classes) if classes is not None else None,
        input_shape=input_shape,
    )


def model_spec(name: str | None = None, checkpoint: Path | str | None = None) -> ModelSpec:
    """Config and checkpoint of a model.

    ``name`` defaults to :func:`current_model_name`; ``checkpoint`` to ``$COURSE_CHECKPOINT`` for that model (the
    variable speaks of no other), then to the published file where it is present.

    Raises:
        UnknownModelError: no such model.
        ConfigError: ``$COURSE_CONFIG`` or ``$COURSE_CLASSES`` names a file that is not there.
        CheckpointError: a checkpoint was named and is not there.
    """
    name = _known(name) if name else current_model_name()
    current = name == _chosen()
    named = checkpoint or (os.environ.get("COURSE_CHECKPOINT") if current else None)
    classes = os.environ.get("COURSE_CLASSES") if current else None
    if current and (config := os.environ.get("COURSE_CONFIG")):
        return own_model(config, named, classes)
    spec = _published(name)
    if named:
        spec = replace(own_model(spec.config, named, classes, input_shape=spec.input_shape), name=name)
    return spec


def _resolved(model: str | ModelSpec | None) -> ModelSpec:
    """A model's spec without a look at its checkpoint: which there is, or that a named one is missing, is nothing to
    the config."""
    if isinstance(model, ModelSpec):
        return model
    name = _known(model) if model else current_model_name()
    config = os.environ.get("COURSE_CONFIG")
    return own_model(config, None) if config and name == _chosen() else _published(name)


def _published(name: str) -> ModelSpec:
    """Config and published checkpoint of a known model."""
    digest: str | None
    weights: Path | None
    if name == "emoji":
        folder = paths.MODELS / "emoji"
        sums = folder / "SHA256SUMS"
        lines = sums.read_text().splitlines() if sums.is_file() else []
        digests = {file: digest for digest, file in (line.split() for line in lines)}
        weights = folder / "mask_rcnn_emoji.pth"
        # No digest begins with "missing": weights without their recorded sum are refused.
        digest = digests.get(weights.name, "missing")
        return ModelSpec(name, folder / "mask_rcnn_emoji.py", weights, digest, input_shape=COURSE.input_shape)
    package = importlib.util.find_spec("mmdet")
    folder = Path(package.origin or "").parent if package else Path("mmdet")
    config = folder / ".mim/configs/mask_rcnn/mask_rcnn_r50_fpn_2x_coco.py"
    found = sorted(_r50_folder().glob("mask_rcnn_r50_fpn_2x_coco_*.pth"))
    # OpenMMLab ends a file's name with the first eight digits of its SHA-256.
    weights, digest = (found[-1], found[-1].stem.rsplit("-", 1)[-1]) if found else (None, None)
    return ModelSpec(name, config, weights, digest, input_shape=COURSE.input_shape)


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


def read_config(file: Path | str) -> Config:
    """A config file as mmcv reads it, as it is. (A config is a program: reading one runs it.)

    Raises:
        ConfigError: it is missing, cannot be read, imports what is not there, or describes no model.
    """
    from mmcv import Config

    try:
        config = Config.fromfile(str(file))
    except ImportError as error:
        # What custom_imports names is raised again by mmcv without a word.
        reason = first_line(error if str(error) else error.__context__)
        raise ConfigError(
            f"the config {file} imports what cannot be imported ({reason})",
            "install the package that it names in custom_imports, or put its folder into PYTHONPATH",
        ) from error
    except Exception as error:
        raise ConfigError(f"the config {file} cannot be read ({first_line(error)})", "check the file") from error
    if not isinstance(config.get("model"), Mapping) or "type" not in config.model:
        raise ConfigError(f"the config {file} describes no model", "give a config of a detector")
    return config


def load_config(model: str | ModelSpec | None = None) -> Config:
    """The model's mmdet config, with its preprocessing as a pipeline that fits the fixed input
    (:func:`helpers.detector.pipeline.mmdet_pipeline`) in place of its data.

    Nothing is downloaded: the config's own pretrained backbone is switched off.

    Raises:
        UnknownModelError, ConfigError.
        helpers.detector.pipeline.PipelineError: the test pipeline cannot be read.
    """
    from helpers.detector.pipeline import mmdet_pipeline, read_pipeline

    spec = _resolved(model)
    config = read_config(spec.config)
    config.model.get("backbone", {}).pop("init_cfg", None)
    config.model.pretrained = None
    _without_process_groups(config.model)
    preprocessing = read_pipeline(config)
    if spec.input_shape:
        preprocessing = preprocessing.at(spec.input_shape)
    config.data = {"test": {"pipeline": mmdet_pipeline(preprocessing)}}
    return config


def _without_process_groups(part: Any) -> None:
    """mmcv's synchronised batch norm, which cannot be built outside of a distributed training, becomes the plain one:
    the same numbers under the same names, the same function in inference."""
    if isinstance(part, Mapping) and part.get("type") == "MMSyncBN":
        part["type"] = "BN"  # type: ignore[index]  # a config is a dictionary
        for name in ("group", "stats_mode"):
            part.pop(name, None)  # type: ignore[attr-defined]
    for inner in part.values() if isinstance(part, Mapping) else part if isinstance(part, (list, tuple)) else ():
        _without_process_groups(inner)


def preprocessing_of(detector: BaseDetector) -> Preprocessing:
    """How pictures are made ready for a detector: as its config says, or as the course does if it has none."""
    from helpers.detector.pipeline import read_pipeline

    config = getattr(detector, "cfg", None)
    return read_pipeline(config) if config is not None and config.get("data") else COURSE


def require_published(spec: ModelSpec, *, trust: bool = False) -> Path:
    """The path of the checkpoint, if it is there and, where that is known, has the content of the published file.

    Raises:
        CheckpointError: it has not, or is not there, or (without ``trust``) torch has been told to run what it holds.
    """
    refuse_forced_trust(trust)
    path = spec.checkpoint
    if path is None:
        raise CheckpointError(
            f"there is no checkpoint for {spec.name}",
            "run `python -m helpers.detector.models` online, or name a file with --checkpoint or COURSE_CHECKPOINT"
            if spec.name == "r50"
            else "name a file with --checkpoint or COURSE_CHECKPOINT",
        )
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint at {path}", "check out the repository again")
    if spec.sha256 is not None and not sha256_file(path).startswith(spec.sha256):
        raise CheckpointError(f"{path} is not the published file (its SHA-256 differs)", "delete it and fetch it again")
    return path


def read_checkpoint(spec: ModelSpec, *, trust: bool = False) -> dict[str, Any]:
    """Verify and open a model's checkpoint file; see :func:`load_detector` for ``trust``. Raises CheckpointError."""
    return open_checkpoint(require_published(spec, trust=trust), trust=trust)


def load_detector(
    model: str | ModelSpec | None = None,
    checkpoint: Path | str | None = None,
    *,
    device: str = "cpu",
    trust: bool = False,
) -> BaseDetector:
    """Build the detector, load its weights in FP32, and put it in evaluation mode.

    The result is what ``mmdet.apis.init_detector`` gives (it has ``cfg`` and ``CLASSES``), and works with
    ``inference_detector`` and ``show_result``. ``init_detector`` itself cannot be told to load with
    ``weights_only=True``, knows no digests, and says nothing of keys that do not fit.

    ``trust`` lets the checkpoint run code while it is unpickled; the default refuses.

    Raises:
        UnknownModelError, ConfigError, CheckpointError.
        helpers.detector.pipeline.PipelineError: the test pipeline cannot be read.
    """
    spec = model if isinstance(model, ModelSpec) else model_spec(model, checkpoint)
    content = read_checkpoint(spec, trust=trust)
    config = read_config(spec.config)
    recorded = recorded_config(content)
    if recorded and (words := disagreements(recorded, config)):
        more = f" (and {len(words) - 1} more)" if len(words) > 1 else ""
        raise CheckpointError(
            f"{spec.checkpoint} was trained with another config than {spec.config.name}: {words[0]}{more}",
            "name the config that it was trained with",
        )
    detector = build_architecture(spec, content.get("meta"))
    load_state(detector, weights_of(content), str(spec.checkpoint))
    return detector.to(device).eval()


def build_architecture(model: str | ModelSpec | None = None, meta: Any = None) -> BaseDetector:
    """The detector that a config describes, with whatever weights its modules' constructors draw. ``meta``: of a
    checkpoint, for its class names.

    Raises:
        ConfigError: the config is unreadable, or its model cannot be built.
    """
    from mmdet.models import build_detector

    spec = _resolved(model)
    config = load_config(spec)
    try:
        detector = build_detector(config.model)
    except Exception as error:  # mmcv wraps whatever a module's constructor raises into its own type
        raise ConfigError(
            f"the model of {spec.config.name} cannot be built ({first_line(error)})",
            "check the config, and that the package of its modules is installed and named in custom_imports",
        ) from error
    detector.cfg = config
    detector.CLASSES = _class_names(spec, meta, _class_count(detector))
    return detector


def _class_count(detector: BaseDetector) -> int | None:
    heads: Any = getattr(getattr(detector, "roi_head", None), "bbox_head", None)
    count: int | None = getattr(heads[-1] if hasattr(heads, "__getitem__") else heads, "num_classes", None)
    return count


def _class_names(spec: ModelSpec, meta: Any, count: int | None) -> tuple[str, ...]:
    """Of the file, else of the checkpoint, else of the config, else of the dataset that it names, whichever first has
    as many as the model; numbered if none has. The user's own file must."""
    if spec.classes is not None:
        found = _class_file(spec.classes)
        if count is not None and len(found) != count:
            raise ConfigError(
                f"{spec.classes} names {len(found)} classes, and the model has {count}", "name as many, one a line"
            )
        return found
    from mmdet.datasets import DATASETS

    config = read_config(spec.config)
    test: Any = (config.get("data") or {}).get("test") or {}
    test = test[0] if isinstance(test, list) and test else test
    dataset = DATASETS.get(test.get("type") or config.get("dataset_type") or "CocoDataset")
    sources = (
        meta.get("CLASSES") if isinstance(meta, Mapping) else None,
        test.get("classes"),
        config.get("classes"),
        getattr(dataset, "CLASSES", None),
    )
    for names in sources:
        if isinstance(names, (list, tuple)) and (count is None or len(names) == count):
            return tuple(str(name) for name in names)
    return tuple(f"class {i}" for i in range(count or 0))


def _class_file(file: Path) -> tuple[str, ...]:
    """Class names of a JSON list, or of a text file with one a line."""
    try:
        if file.suffix == ".json":
            names = read_json(file)
        else:
            names = [name.strip() for name in read_regular(file).decode().splitlines() if name.strip()]
    except (OSError, ValueError) as error:
        raise ConfigError(f"the file of classes {file} cannot be read ({error})", "write one name a line") from error
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"the file of classes {file} holds no list of names", "write one name a line")
    return tuple(names)


def build_random_detector(
    model: str | ModelSpec = "r50", seed: int = 0, *, spread: Sequence[npt.NDArray[np.uint8]] = ()
) -> BaseDetector:
    """The model's architecture with random weights from a seed, in evaluation mode: for tests where no checkpoint is.

    Plain random heads give scores that differ in the sixth digit, so that any rounding reorders them. The last layer of
    each classifier is scaled up until scores spread over (0, 1), which makes the ranking stable across runtimes. So is
    that of the RPN's regressor, until boxes of neighbouring FPN levels overlap, but none is clipped to nothing:
    inference drops empty boxes, mmdet's export does not, and a trained RPN does not rank them high. The mask head gets
    a bias, by which masks are blobs: noise around 0.5 is all border, and borders move with every rounding.

    The factors suit the two models that have a name. For others give BGR pictures (H, W, 3) in ``spread``, by which
    :func:`spread_scores` finds them: those that it will be shown, if scores are to spread on each.
    """
    import torch

    state = torch.random.get_rng_state()
    try:
        torch.manual_seed(seed)
        detector = build_architecture(model)
        logging.disable(logging.INFO)  # mmcv logs a paragraph for every weight
        if spread:
            # From what the modules' constructors drew: init_weights draws it all again, and zeros where training starts
            # from nothing, of which a test sees nothing.
            chosen = preprocessing_of(detector)
            spread_scores(detector, [prepare(picture, preprocessing=chosen) for picture in spread])
        else:
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


@contextlib.contextmanager
def inside_the_model() -> Iterator[None]:
    """Where a detector's modules run: what PyTorch and mmcv raise there becomes an error of the course.

    Raises:
        InferenceError: a module stops, for want of an implementation on this device, say.
        MemoryError: there is not enough of it.
    """
    try:
        yield
    except RuntimeError as error:
        reason = first_line(error)
        if "allocate memory" in reason:
            raise MemoryError(reason) from error
        raise InferenceError(
            f"PyTorch stops inside the model ({reason})", "take a model that mmdet itself runs on this device"
        ) from error


def spread_scores(detector: BaseDetector, pictures: Sequence[NetworkInput]) -> None:
    """Scale a two-stage detector's random weights, in place, so that on these prepared pictures it behaves as a
    trained one does: its batch norms normalise, scores spread over (0, 1), proposals and boxes move by a part of their
    size, masks are blobs. Each last layer's weights are divided by the deviation that its results have there; those of
    the RPN, which all levels share, by that of the level where it is largest: where many scores round to 1, their order
    would be that of the anchors.
    """
    import torch

    tensor = torch.from_numpy(np.concatenate([picture.tensor for picture in pictures]))
    norms = [module for module in detector.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]
    handles = []

    def learn(norm: torch.nn.Module, arguments: Any) -> None:
        # One value a channel (in an attention over channels, say) has no deviation to normalise by.
        norm.train(arguments[0].numel() > arguments[0].shape[1])

    def scale_to(layer: torch.nn.Module, deviation: float, bias: float) -> None:
        def hook(module: Any, arguments: Any, output: torch.Tensor) -> torch.Tensor:
            handle.remove()  # the first batch of RoIs decides
            module.weight.mul_(deviation / float((output - output.mean()).std().clamp_min(1e-12)))
            if module.bias is not None:
                module.bias.fill_(bias)
            again: torch.Tensor = module(*arguments)
            return again

        handle = layer.register_forward_hook(hook)
        handles.append(handle)

    def widest(layer: torch.nn.Module, levels: Sequence[torch.Tensor]) -> float:
        found: list[float] = []
        handle = layer.register_forward_hook(lambda module, arguments, output: found.append(float(output.std())))
        detector.rpn_head(levels)
        handle.remove()
        return max(1e-12, *found)

    with torch.no_grad(), inside_the_model():
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # of all that is seen, one batch
        seeing = [norm.register_forward_pre_hook(learn) for norm in norms]
        detector.extract_feat(tensor)
        for handle in seeing:
            handle.remove()
        detector.eval()
        levels = detector.extract_feat(tensor)
        for layer, deviation in ((detector.rpn_head.rpn_cls, 2.0), (detector.rpn_head.rpn_reg, 0.3)):
            layer.weight.mul_(deviation / widest(layer, levels))
            if layer.bias is not None:
                layer.bias.zero_()
        for name, module in detector.roi_head.named_modules():
            last = name.rpartition(".")[2]
            if last in ("fc_cls", "fc_reg"):
                scale_to(module, 3.0 if last == "fc_cls" else 0.5, 0.0)
            elif last == "conv_logits":
                scale_to(module, 0.5, 1.0)
        metas = [picture.meta() for picture in pictures]
        detector(return_loss=False, rescale=False, img=[tensor], img_metas=[metas])
        for handle in handles:
            handle.remove()


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
