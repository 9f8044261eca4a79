"""The exported RPN keeps its pyramid levels apart by the class axis of the NMS, with every box where it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from patches._base import Edit, Patch, Replacement
from patches.p07_rpn_levels_apart import PATCH as RPN_LEVELS_APART

if TYPE_CHECKING:
    from torch import Tensor


def row_of_each_level(scores: Tensor, level_ids: Tensor) -> Tensor:
    """The scores (B, 1, N) as (B, L, N): row l has those of level l's boxes, and -1, which no threshold passes, else.

    level_ids: (1, N, 1), level numbers 0 to L - 1 in rising order.
    """
    import torch

    levels = int(level_ids[0, -1, 0]) + 1
    rows = torch.arange(levels, device=scores.device).view(1, -1, 1)
    return torch.where(level_ids.transpose(1, 2) == rows, scores, torch.full((), -1.0, device=scores.device))


PATCH = Patch(
    __name__,
    summary="The exported RPN gives the NMS one row of scores for each pyramid level instead of boxes moved apart.",
    symptom="in half precision the proposals of the upper levels are suppressed by the wrong neighbours, silently",
    cause=(
        "Patch 07 moves the boxes of level l by l times 1217 px, as inference does. That does not overflow, but beyond "
        "4096 half precision has a step of 4 px, and beyond 2048 one of 2 px: small boxes change their overlaps."
    ),
    after=(RPN_LEVELS_APART,),
    replacements=[
        Replacement(
            "mmdet.core.export.onnx_helper:add_dummy_nms_for_onnx",
            edits=(
                Edit(
                    """
                    boxes_for_nms = boxes
                    if group_ids is not None:
                    """,
                    """
                    boxes_for_nms = boxes
                    scores_for_nms = scores
                    if group_ids is not None:
                    """,
                ),
                Edit(
                    """
                    from patches.p07_rpn_levels_apart import move_apart
                    boxes_for_nms = move_apart(boxes, group_ids)
                    """,
                    """
                    from patches.p31_rpn_levels_by_row import row_of_each_level
                    scores_for_nms = row_of_each_level(scores, group_ids)
                    """,
                ),
                Edit(
                    "selected_indices = DummyONNXNMSop.apply(boxes_for_nms, scores,",
                    "selected_indices = DummyONNXNMSop.apply(boxes_for_nms, scores_for_nms,",
                ),
                Edit(
                    "batch_inds, cls_inds = selected_indices[:, 0], selected_indices[:, 1]",
                    """
                    batch_inds, cls_inds = selected_indices[:, 0], selected_indices[:, 1]
                    if group_ids is not None:
                        # The row was the level's; the boxes are those of one class.
                        cls_inds = cls_inds * 0
                    """,
                ),
            ),
            also=("mmdet.core.export:add_dummy_nms_for_onnx",),
        )
    ],
)
apply, revert = PATCH.apply, PATCH.revert
