"""What several tests share: the embedded model, its graphs, each exported once a session, and pieces of the demo
pictures.

Full-size runs cost many times as much: take the smallest shape and the lightest model that show what is tested.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

warnings.filterwarnings("ignore", message="On January 1, 2023, MMCV")

from helpers import paths  # noqa: E402
from helpers.detector.models import load_detector  # noqa: E402
from helpers.detector.preprocess import NetworkInput, prepare, read_picture  # noqa: E402


@pytest.fixture(scope="session")
def emoji_detector():
    """The embedded model, loaded once. Tests must not change it."""
    return load_detector("emoji")


@pytest.fixture(scope="session")
def lighten():
    """``lighten(detector)`` makes it keep 200 proposals and 20 detections in place of 1000 and 100, and returns it.

    At a small input the two heads of the RoIs take most of the time.
    """

    def lighten(detector):
        for config in (detector.test_cfg.rpn, detector.rpn_head.test_cfg):
            config.update(nms_pre=200, max_per_img=200)
        for config in (detector.test_cfg.rcnn, detector.roi_head.test_cfg):
            config.update(max_per_img=20)
        return detector

    return lighten


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
    detector = build_random_detector(own_model(config, None), spread=picture)
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
