"""What several tests share: the embedded model, its graphs, each exported once a session, and pieces of the demo
pictures.

Full-size runs cost many times as much: take the smallest shape and the lightest model that show what is tested.
"""

from __future__ import annotations

import functools
import logging
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import hypothesis
import numpy as np
import pytest
import torch
from torch import nn

warnings.filterwarnings("ignore", message="On January 1, 2023, MMCV")
# No test asks for time: a busy machine is no finding.
hypothesis.settings.register_profile("course", deadline=None)
hypothesis.settings.load_profile("course")

from helpers import paths  # noqa: E402
from helpers.detector import models  # noqa: E402
from helpers.detector.models import load_detector  # noqa: E402
from helpers.detector.preprocess import NetworkInput, prepare, read_picture  # noqa: E402


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Chapters first: they take longest, and what is short fills the gaps at the end. Of the chapters, the one that
    takes most memory last, when less runs beside it."""
    items.sort(key=lambda item: ("notebooks" not in item.path.parts, "[07_" in item.nodeid))


@pytest.fixture(scope="session")
def emoji_detector():
    """The embedded model, loaded once. Tests must not change it."""
    return load_detector("emoji")


@pytest.fixture(scope="session")
def unusual_pictures() -> dict[str, np.ndarray]:
    """BGR pictures by name: nothing to be found, one thing, one side far longer than the other, few pixels. (On a plain
    picture the model is not sure that there is nothing.)"""
    crowd, huge = (read_picture(paths.DATA / "demo" / f"{name}.jpg") for name in ("crowd", "huge"))
    nothing = np.repeat(np.arange(800)[None, :, None] // 4 % 2 * 255, 600, axis=0).repeat(3, axis=2).astype(np.uint8)
    one = np.zeros((600, 800, 3), np.uint8)
    thing = huge[353:683, 862:1194]
    one[100:430, 200:532] = thing
    long = np.tile(cv2.resize(crowd, (456, 300), interpolation=cv2.INTER_AREA), (1, 11, 1))[:, :5000]
    # On black, the model would not be sure of it.
    around = cv2.copyMakeBorder(thing, 20, 20, 20, 20, cv2.BORDER_CONSTANT, value=(127, 127, 127))
    few = cv2.resize(around, (40, 40), interpolation=cv2.INTER_AREA)
    return {"nothing": nothing, "one": one, "long": long, "tall": long.transpose(1, 0, 2), "few": few}


@pytest.fixture(scope="session")
def lighten():
    """``lighten(detector)`` makes it keep 200 proposals and 20 detections in place of 1000 and 100, and returns it."""
    return models.lighten


@pytest.fixture(scope="session")
def light_detector(lighten):
    """The embedded model with fewer proposals and detections, loaded once. Tests must not change it."""
    return lighten(load_detector("emoji"))


@pytest.fixture(scope="session")
def exported(light_detector, tmp_path_factory) -> Callable[..., Path]:
    """``exported(flavour="standard", shape=(1, 3, 256, 320), **options)``: a file of ``light_detector``'s graph.

    ``options`` are those of ``export_onnx``. Each graph is exported once a session; tests must not change the file.
    """
    from helpers.export import exporter

    folder = tmp_path_factory.mktemp("exported")
    files: dict[str, Path] = {}

    def export(flavour: str = "standard", shape: tuple[int, ...] = (1, 3, 256, 320), **options: Any) -> Path:
        # Without patches named, an export has those of CORRECT: the same graph under the same key.
        options["applied"] = tuple(options.get("applied") or exporter.CORRECT[flavour])
        key = repr((flavour, shape, sorted(options.items())))
        if key not in files:
            path = folder / f"{len(files)}-{flavour}.onnx"
            files[key] = exporter.export_onnx(light_detector, path, flavour, input_shape=shape, **options)
        return files[key]

    return export


TINY = """
_base_ = {base!r}
_mean, _std = [103.53, 116.28, 123.675], [1.0, 1.0, 1.0]
_roi = dict(out_channels=16)
model = dict(
    backbone=dict(stem_channels=8, base_channels=8, style="caffe"),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=16),
    rpn_head=dict(in_channels=16, feat_channels=16),
    roi_head=dict(
        bbox_roi_extractor=_roi,
        bbox_head=dict(in_channels=16, fc_out_channels=32, num_classes=3),
        mask_roi_extractor=_roi,
        mask_head=dict(in_channels=16, conv_out_channels=16, num_convs=1, num_classes=3),
    ),
    test_cfg=dict(rpn=dict(nms_pre=100, max_per_img=50), rcnn=dict(max_per_img=10)),
)
data = dict(
    test=dict(
        type="CocoDataset",
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(
                type="MultiScaleFlipAug",
                img_scale=(150, 90),
                flip=False,
                transforms=[
                    dict(type="Resize", keep_ratio=True),
                    dict(type="RandomFlip"),
                    dict(type="Normalize", mean=_mean, std=_std, to_rgb=False),
                    dict(type="Pad", size_divisor=32),
                    dict(type="ImageToTensor", keys=["img"]),
                    dict(type="Collect", keys=["img"]),
                ],
            ),
        ],
    )
)
"""


@pytest.fixture(scope="session")
def own_files(tmp_path_factory) -> tuple[Path, Path]:
    """(config, checkpoint) of a model that is not the course's: caffe style, three classes, an input of 96 x 160,
    random weights whose scores spread, and a checkpoint as mmdet writes it. Tests must not change the files."""
    import mmcv
    import torch

    from helpers.detector.models import build_random_detector, own_model

    folder = tmp_path_factory.mktemp("own")
    config, checkpoint = folder / "fruit.py", folder / "fruit.pth"
    config.write_text(TINY.format(base=str(paths.MODELS / "emoji" / "mask_rcnn_emoji.py")))
    picture = read_picture(paths.DATA / "demo" / "crowd.jpg")
    detector = build_random_detector(own_model(config, None), spread=[picture])
    meta = {"config": mmcv.Config.fromfile(str(config)).pretty_text, "CLASSES": ("apple", "pear", "plum")}
    torch.save({"meta": {**meta, "epoch": 12}, "state_dict": detector.state_dict()}, checkpoint)
    return config, checkpoint


@pytest.fixture(scope="session")
def wide(exported) -> Path:
    """The ``standard`` graph at 192 x 1216, as wide as the full input, for the classes are moved apart by the width;
    and boxes come back from there, as mmdet exports them: what the tools for half precision have to find."""
    from helpers.export.exporter import BOXES_MOVED

    return exported("standard", (1, 3, 192, 1216), applied=BOXES_MOVED["standard"])


@pytest.fixture(scope="session")
def window() -> Callable[..., NetworkInput]:
    """``window(name, height, width, top=0, left=0)``: that piece of a demo picture at its full size, prepared."""
    whole = functools.cache(lambda name: prepare(read_picture(paths.DATA / "demo" / f"{name}.jpg")).tensor)

    def cut(name: str, height: int, width: int, top: int = 0, left: int = 0) -> NetworkInput:
        piece = whole(name)[..., top : top + height, left : left + width]
        assert piece.shape[2:] == (height, width), "the window leaves the picture"
        return NetworkInput.full(np.ascontiguousarray(piece))

    return cut


_SMALL = (1, 3, 64, 96)


def _build_small(classes: int = 5, change: Callable[[Any], None] | None = None) -> Any:
    """The embedded model's heads at 16 channels, on two pyramid levels that a single convolution and pooling make."""
    from mmdet.models import build_detector

    from helpers.detector.models import load_config

    model = load_config("emoji").model
    model.neck = None
    model.rpn_head.update(in_channels=16, feat_channels=16)
    model.rpn_head.anchor_generator.update(strides=[4, 8], scales=[4])
    for extractor in (model.roi_head.bbox_roi_extractor, model.roi_head.mask_roi_extractor):
        extractor.update(out_channels=16, featmap_strides=[4, 8], finest_scale=14)
    model.roi_head.bbox_head.update(in_channels=16, fc_out_channels=32, num_classes=classes)
    model.roi_head.mask_head.update(in_channels=16, conv_out_channels=16, num_classes=classes, num_convs=1)
    model.test_cfg.rpn.update(nms_pre=200, max_per_img=100)
    model.test_cfg.rcnn.update(max_per_img=20)
    if change:
        change(model)
    try:
        logging.disable(logging.INFO)  # mmcv logs a paragraph for every weight
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            detector = build_detector(model)
            detector.backbone = nn.Conv2d(3, 16, 3, padding=1)
            detector.init_weights()
            heads = detector.roi_head.bbox_head
            heads = list(heads) if isinstance(heads, nn.ModuleList) else [heads]
            layers = [(detector.rpn_head.rpn_cls, 60), (detector.rpn_head.rpn_reg, 20)]
            # Scores that spread over (0, 1), as helpers.detector.models.build_random_detector does it and says why.
            for layer, gain in [*layers, *((h.fc_cls, 60) for h in heads), *((h.fc_reg, 60) for h in heads)]:
                layer.weight.mul_(gain)
            if detector.with_mask:
                masks = detector.roi_head.mask_head
                for head in masks if isinstance(masks, nn.ModuleList) else [masks]:
                    head.conv_logits.bias.fill_(1.0)
    finally:
        logging.disable(logging.NOTSET)

    def extract_feat(self: Any, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        features = self.backbone(image).relu() * 2
        return tuple(nn.functional.avg_pool2d(features, stride) for stride in (4, 8))

    detector.extract_feat = types.MethodType(extract_feat, detector)
    return detector.eval()


@pytest.fixture(scope="session")
def small_detector():
    """A function of the number of classes and of a change to the model's config."""
    return _build_small


@pytest.fixture(scope="session")
def small_input():
    """A function of a seed: a prepared picture of noise that fills the input of (1, 3, 64, 96)."""
    from helpers.detector.preprocess import NetworkInput

    def make(seed: int = 1) -> Any:
        noise = np.random.default_rng(seed).standard_normal(_SMALL)
        return NetworkInput.full((noise * 1.2).astype(np.float32))

    return make
