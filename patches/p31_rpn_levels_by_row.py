"""The exported RPN keeps its pyramid levels apart by the class axis of the NMS, with every box where it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from patches._base import Edit, Patch, Replacement
from patches.p07_rpn_levels_apart import PATCH as RPN_LEVELS_APART
from patches.p13_unused_nms_rows import PATCH as UNUSED_NMS_ROWS

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


def marks_of_own_level(marks: Tensor, level_ids: Tensor) -> Tensor:
    """The marks (B * L * N, 1) of every box in every level's row as those (B * N, 1) of each box in its own.

    What a runtime selects in a row of another level (TensorRT 8.4 does, where fewer boxes are kept than its result has
    rows: it takes those whose score is under a threshold below 0.007 last instead of not at all) is not looked at.
    """
    import torch

    levels, boxes = int(level_ids[0, -1, 0]) + 1, int(level_ids.shape[1])
    own = level_ids.transpose(1, 2) == torch.arange(levels, device=marks.device).view(1, -1, 1)
    return (marks.reshape(-1, levels, boxes) * own.to(marks)).amax(1).reshape(-1, 1)


PATCH = Patch(
    __name__,
    summary="The exported RPN gives the NMS one row of scores for each pyramid level instead of boxes moved apart.",
    symptom="in half precision the proposals of the upper levels are suppressed by the wrong neighbours, silently",
    cause=(
        "Patch 07 moves the boxes of level l by l times 1217 px, as inference does. That does not overflow, but beyond "
        "4096 half precision has a step of 4 px, and beyond 2048 one of 2 px: small boxes change their overlaps."
    ),
    after=(RPN_LEVELS_APART, UNUSED_NMS_ROWS),
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
                    "pos_inds = (num_class * batch_inds + cls_inds) * num_box + box_inds",
                    """
                    # Boxes of one class, with a row of scores for each level.
                    rows, slots = num_class, scores.shape[0]
                    if group_ids is not None:
                        rows = int(group_ids[0, -1, 0]) + 1
                        slots = slots * rows
                    pos_inds = (rows * batch_inds + cls_inds) * num_box + box_inds
                    """,
                ),
                Edit(
                    """
                    pos_inds = torch.where(box_inds < 0, scores.shape[0], pos_inds)
                    mask = scores.new_zeros((scores.shape[0] + 1, 1))
                    """,
                    """
                    pos_inds = torch.where(box_inds < 0, slots, pos_inds)
                    mask = scores.new_zeros((slots + 1, 1))
                    """,
                ),
                Edit(
                    "mask = mask[:-1]",
                    """
                    mask = mask[:-1]
                    if group_ids is not None:
                        from patches.p31_rpn_levels_by_row import marks_of_own_level
                        mask = marks_of_own_level(mask, group_ids)
                    """,
                ),
            ),
            also=("mmdet.core.export:add_dummy_nms_for_onnx",),
        )
    ],
)
apply, revert = PATCH.apply, PATCH.revert
