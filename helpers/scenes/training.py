"""Training the embedded model from scratch on scenes that are rendered as they are needed.

A plain loop around mmdet's own losses. Every scene is seen once: a worker renders the scene of seed n for sample n, so
the data set has no size and there is nothing to over-fit but the sprites themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset

from helpers.artifacts import whole_file
from helpers.detector.preprocess import MEAN, STD
from helpers.scenes.emoji_art import Sprite
from helpers.scenes.render import render_scene

if TYPE_CHECKING:
    from mmdet.models.detectors import BaseDetector

__all__ = ["OwnerMasks", "TrainingPlan", "half_state", "load_progress", "save_progress", "scene_batches", "train"]

# Validation and demo scenes have seeds below this; training starts here and counts up.
FIRST_TRAINING_SEED = 1_000_000


@dataclass(frozen=True)
class TrainingPlan:
    """batch: pictures a step and device. peak: AdamW's learning rate after warm-up, cosine to zero over ``steps``."""

    steps: int
    batch: int = 12
    peak: float = 6e-4
    warmup: int = 300
    weight_decay: float = 0.05
    clip: float = 10.0

    def learning_rate(self, step: int) -> float:
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.peak * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


class OwnerMasks:
    """Ground-truth masks of one picture as an owner map (H, W): the part of mmdet's mask interface that its mask loss
    calls. N masks of 800 x 1216 would be N megabytes to move and to index for each picture; the map is two."""

    def __init__(self, owner: torch.Tensor, count: int) -> None:
        self.owner, self.count = owner, count
        self.height, self.width = owner.shape

    def __len__(self) -> int:
        return self.count

    def crop_and_resize(
        self, boxes: npt.NDArray[np.float32], size: tuple[int, int], inds: npt.NDArray[np.int64], **_: object
    ) -> OwnerMasks._Crops:
        """The masks ``inds`` (K,) cropped to ``boxes`` (K, 4) and resized to ``size``, thresholded at 0.5."""
        from mmcv.ops import RoIAlign

        device = self.owner.device
        indices = torch.as_tensor(inds, device=device)
        masks = (self.owner[None] == torch.arange(self.count, device=device)[:, None, None]).float()[:, None]
        rois = torch.cat([indices[:, None].float(), torch.as_tensor(boxes, device=device).float()], dim=1)
        # The constants are those of mmdet's BitmapMasks.crop_and_resize.
        align = RoIAlign(size, spatial_scale=1.0, sampling_ratio=0, aligned=True, use_torchvision=device.type != "cpu")
        return OwnerMasks._Crops((align(masks, rois)[:, 0] >= 0.5).cpu().numpy())

    class _Crops:
        def __init__(self, crops: npt.NDArray[np.bool_]) -> None:
            self.crops = crops

        def to_ndarray(self) -> npt.NDArray[np.bool_]:
            return self.crops


class _Scenes(Dataset[dict[str, Any]]):
    def __init__(self, sprites: Sequence[Sprite], class_names: Sequence[str], first: int, count: int) -> None:
        self.sprites, self.class_names, self.first, self.count = sprites, class_names, first, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        scene = render_scene(FIRST_TRAINING_SEED + self.first + index, self.sprites, self.class_names)
        return {
            "picture": torch.from_numpy(np.ascontiguousarray(scene.picture[..., ::-1].transpose(2, 0, 1))),
            "owner": torch.from_numpy(scene.owner),
            "boxes": torch.from_numpy(scene.boxes()),
            "labels": torch.from_numpy(scene.labels),
        }


def scene_batches(
    sprites: Sequence[Sprite], class_names: Sequence[str], first: int, count: int, batch: int, workers: int
) -> Iterator[list[dict[str, Any]]]:
    """Batches of freshly rendered scenes: samples ``first`` to ``first + count`` in order."""
    loader = DataLoader(
        _Scenes(sprites, class_names, first, count),
        batch_size=batch,
        num_workers=workers,
        collate_fn=list,
        drop_last=True,
        prefetch_factor=4 if workers else None,
    )
    return iter(loader)


def _losses(model: torch.nn.Module, samples: Sequence[dict[str, Any]], device: torch.device) -> dict[str, Any]:
    pictures = torch.stack([sample["picture"] for sample in samples]).to(device, non_blocking=True).float()
    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (MEAN, STD))
    shape = (*pictures.shape[2:], 3)
    meta = {"img_shape": shape, "pad_shape": shape, "ori_shape": shape, "scale_factor": np.ones(4, np.float32)}
    result: dict[str, Any] = model(
        img=((pictures - mean) / std).contiguous(memory_format=torch.channels_last),
        img_metas=[{**meta, "flip": False, "batch_input_shape": shape[:2]}] * len(samples),
        gt_bboxes=[sample["boxes"].to(device) for sample in samples],
        gt_labels=[sample["labels"].to(device) for sample in samples],
        gt_masks=[OwnerMasks(sample["owner"].to(device), len(sample["labels"])) for sample in samples],
    )
    return result


def train(
    model: torch.nn.Module,
    optimiser: torch.optim.Optimizer,
    batches: Iterator[list[dict[str, Any]]],
    plan: TrainingPlan,
    first_step: int,
    after_step: Callable[[int, dict[str, float]], bool],
) -> int:
    """Run steps from ``first_step`` until the plan, the batches or ``after_step`` (False: stop) end it.

    ``model(**inputs)`` returns mmdet's dictionary of losses. Returns the number of steps done in all.
    """
    device = next(model.parameters()).device
    model.train()
    step = first_step
    for samples in batches:
        if step >= plan.steps:
            break
        for group in optimiser.param_groups:
            group["lr"] = plan.learning_rate(step)
        parts = {
            name: torch.stack(values).sum() if isinstance(values, list) else values
            for name, values in _losses(model, samples, device).items()
            if "loss" in name
        }
        total = torch.stack([part.reshape(()) for part in parts.values()]).sum()
        optimiser.zero_grad(set_to_none=True)
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), plan.clip)
        optimiser.step()
        step += 1
        if not after_step(step, {name: float(part) for name, part in parts.items()} if step % 20 == 0 else {}):
            break
    return step


def save_progress(path: Path, detector: BaseDetector, optimiser: torch.optim.Optimizer, step: int) -> None:
    """Everything that is needed to go on, whole or not at all."""
    # Given a path, torch's own writer does not say that the disk is full.
    with whole_file(path) as temporary, temporary.open("wb") as stream:
        torch.save({"state_dict": detector.state_dict(), "optimizer": optimiser.state_dict(), "step": step}, stream)


def load_progress(path: Path, detector: BaseDetector, optimiser: torch.optim.Optimizer) -> int:
    """Restore :func:`save_progress`; returns the number of steps done, 0 if there is no file."""
    if not path.is_file():
        return 0
    content = torch.load(path, map_location="cpu", weights_only=True)
    detector.load_state_dict(content["state_dict"])
    optimiser.load_state_dict(content["optimizer"])
    return int(content["step"])


def half_state(detector: BaseDetector) -> dict[str, torch.Tensor]:
    """The weights as they are shipped: floating-point tensors in half precision, on the CPU."""
    return {
        name: (value.half() if value.is_floating_point() else value).cpu().clone()
        for name, value in detector.state_dict().items()
    }
