"""Libra's pyramid pools to sizes that are numbers, also where they do not divide the level's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from patches._base import Edit, Patch, Replacement

if TYPE_CHECKING:
    from torch import Tensor


def adaptive_max_pool2d(image: Tensor, output_size: tuple[int, int]) -> Tensor:
    """``torch.nn.functional.adaptive_max_pool2d`` of (N, C, H, W) with operators that ONNX has, exactly.

    Row i of the result is the largest of rows floor(i H / out) to ceil((i + 1) H / out) - 1, and columns alike. Windows
    differ by a row in length: the shorter ones take their last row twice, which changes no maximum.
    """
    import torch

    for axis, size in zip((2, 3), output_size, strict=True):
        length = int(image.shape[axis])
        first = [i * length // size for i in range(size)]
        last = [-(-(i + 1) * length // size) - 1 for i in range(size)]
        longest = max(b - a for a, b in zip(first, last, strict=True)) + 1
        windows = [[min(a + step, b) for a, b in zip(first, last, strict=True)] for step in range(longest)]
        steps = [image.index_select(axis, torch.tensor(rows, device=image.device)) for rows in windows]
        image = steps[0]
        for step in steps[1:]:
            image = torch.maximum(image, step)
    return image


_SIZE = "tuple(int(size) for size in inputs[{}].shape[2:])"
PATCH = Patch(
    __name__,
    summary="Libra's balanced pyramid pools by windows of fixed rows and columns.",
    symptom="the export stops: ONNX export of operator adaptive pooling, since output_size is not constant",
    cause=(
        "The sizes of the pyramid's levels are traced as tensors, and adaptive pooling wants numbers. With numbers it "
        "is exported as MaxPool, but only where they divide the level's size: at 800 x 1216, 50 rows do not pool to 13."
    ),
    replacements=[
        Replacement(
            "mmdet.models.necks.bfp:BFP.forward",
            edits=(
                Edit(
                    "gather_size = inputs[self.refine_level].size()[2:]",
                    f"""
                    from patches.p51_pooling_by_windows import adaptive_max_pool2d
                    gather_size = {_SIZE.format("self.refine_level")}
                    """,
                ),
                Edit("out_size = inputs[i].size()[2:]", f"out_size = {_SIZE.format('i')}"),
                Edit(
                    """
                    gathered = F.adaptive_max_pool2d(
                        inputs[i], output_size=gather_size)
                    """,
                    "gathered = adaptive_max_pool2d(inputs[i], gather_size)",
                ),
                Edit("F.adaptive_max_pool2d(bsf, output_size=out_size)", "adaptive_max_pool2d(bsf, out_size)"),
            ),
        )
    ],
)
apply, revert = PATCH.apply, PATCH.revert
