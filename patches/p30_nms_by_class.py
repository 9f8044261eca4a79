"""The box head suppresses class by class without moving any box: every class is a picture of its own to the NMS."""

from __future__ import annotations

from typing import TYPE_CHECKING

from patches._base import Edit, Patch, Replacement

if TYPE_CHECKING:
    from torch import Tensor


def nms_by_class(
    boxes: Tensor,
    scores: Tensor,
    classes: int,
    max_boxes_per_class: int,
    iou_threshold: float,
    score_threshold: float,
    before: int,
    after: int,
) -> tuple[Tensor, Tensor]:
    """Non-maximum suppression of boxes that differ from class to class.

    boxes: (B, R * C, 4) xyxy and scores: (B, R * C), for each of R RoIs the C classes in turn. before: how many boxes
    of each class go into the suppression, -1 for all. Returns the ``after`` best: (B, after, 5) with the score last,
    and (B, after) class numbers; rows past the last detection have score 0.

    NonMaxSuppression never lets boxes of two pictures meet, so B pictures of C classes go in as B * C pictures.
    """
    import torch
    from mmdet.core.export import add_dummy_nms_for_onnx

    rois = int(boxes.shape[1]) // classes
    boxes = boxes.reshape(-1, rois, classes, 4).transpose(1, 2).reshape(-1, rois, 4)
    scores = scores.reshape(-1, rois, classes).transpose(1, 2).reshape(-1, rois, 1)
    detections, _ = add_dummy_nms_for_onnx(
        boxes, scores, max_boxes_per_class, iou_threshold, score_threshold, pre_top_k=before
    )
    each = int(detections.shape[1])
    detections = detections.reshape(-1, classes * each, 5)
    _, best = detections[..., 4].topk(min(after, classes * each))
    first_row = torch.arange(detections.shape[0], device=boxes.device).view(-1, 1) * (classes * each)
    class_of_row = torch.arange(classes, device=boxes.device).view(-1, 1).expand(-1, each).reshape(-1)
    return detections.reshape(-1, 5)[first_row + best], class_of_row[best]


PATCH = Patch(
    __name__,
    summary="The box head's NMS keeps classes apart by its batch axis instead of by an offset in pixels.",
    symptom=(
        "in half precision the boxes of every class from number 54 on are infinite, those of class 53 that reach 1072 "
        "px too, and dets comes out as NaN"
    ),
    cause=(
        "mmdet adds class number * longest side + 1 to the boxes so that those of different classes do not overlap: 79 "
        "* 1216 + 1 = 96065 in the last class, beyond half precision's 65504; from 65520 on a sum becomes infinite, as "
        "1072 and class 53's offset, rounded to 64448, do. Far below that it already rounds: "
        "between 32768 and 65504 half precision has a step of 32 px."
    ),
    replacements=[
        Replacement(
            "mmdet.models.roi_heads.bbox_heads.bbox_head:BBoxHead.onnx_export",
            edits=(
                Edit(
                    "max_size = torch.max(img_shape)",
                    """
                    # What follows, with the offsets, is no longer reached.
                    from patches.p30_nms_by_class import nms_by_class
                    return nms_by_class(bboxes, scores, self.num_classes, max_output_boxes_per_class,
                                        iou_threshold, score_threshold, nms_pre, cfg.max_per_img)
                    max_size = torch.max(img_shape)
                    """,
                ),
            ),
        )
    ],
)
apply, revert = PATCH.apply, PATCH.revert
