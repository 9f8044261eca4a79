"""Serve mmcv's NMS and RoIAlign by torchvision, where mmcv's own compiled operators are not.

For training on a GPU machine that has torchvision and no build of mmcv-full for its torch. The pure-Python part of
mmcv imports its compiled module at import time and looks up every operator by name; a stand-in answers all names, runs
NMS through torchvision, and refuses the rest when called. RoIAlign has mmcv's own switch (``use_torchvision=True``).
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["mmcv_ops_are_compiled", "serve_by_torchvision", "use_torchvision_roi_align"]


class _Operators(types.ModuleType):
    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*_: object, **__: object) -> Any:
            raise NotImplementedError(f"mmcv's operator {name} is not compiled here, and torchvision has none for it")

        return missing

    def nms(self, boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float, offset: int) -> torch.Tensor:
        import torchvision

        if offset:
            raise NotImplementedError("torchvision's NMS knows only offset 0")
        kept: torch.Tensor = torchvision.ops.nms(boxes, scores, iou_threshold)
        return kept


def mmcv_ops_are_compiled() -> bool:
    """Whether this installation of mmcv carries its compiled operators (it is not imported)."""
    found = importlib.util.find_spec("mmcv")
    if found is None or not found.submodule_search_locations:
        return False
    return importlib.machinery.PathFinder.find_spec("_ext", list(found.submodule_search_locations)) is not None


def serve_by_torchvision() -> None:
    """Put the stand-in in the place of ``mmcv._ext``. Call before anything imports ``mmcv.ops``."""
    sys.modules["mmcv._ext"] = _Operators("mmcv._ext", __doc__)


def use_torchvision_roi_align(model_config: Any) -> None:
    """Set mmcv's switch in every RoIAlign of an mmdet model config, in place."""
    for part in ("bbox_roi_extractor", "mask_roi_extractor"):
        model_config.roi_head[part].roi_layer.use_torchvision = True
