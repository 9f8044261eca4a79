"""The detections' boxes are the decoded ones, digit for digit, and not what is left of them after a round trip."""

from patches._base import Edit, Patch, Replacement
from patches.p07_rpn_levels_apart import PATCH as RPN_LEVELS_APART

PATCH = Patch(
    __name__,
    summary="Only the suppression sees boxes that are moved apart by class; what comes out was never moved.",
    symptom=(
        "boxes lie on a grid of 1/128 px, up to 0.004 px off; now and then a mask has other edges (IoU 0.985 seen)"
    ),
    cause=(
        "mmdet's export adds class number * longest side + 1 to the boxes, lets NMS choose, and takes it off again. "
        "Near 96,000 px float32 has a step of 1/128 px. RoIAlign takes ceil(width / 14) samples in each of the mask's "
        "cells, so a RoI of 56.0003 px, rounded to 56, is read at half as many places. Inference only moves a copy."
    ),
    after=(RPN_LEVELS_APART,),
    replacements=[
        Replacement(
            "mmdet.core.export.onnx_helper:add_dummy_nms_for_onnx",
            edits=(
                Edit("group_ids=None):", "group_ids=None,\n                           class_distance=None):"),
                Edit(
                    "selected_indices = DummyONNXNMSop.apply(boxes_for_nms, scores,",
                    """
                    if class_distance is not None:
                        boxes_for_nms = boxes + (labels * class_distance + 1).unsqueeze(2)
                    selected_indices = DummyONNXNMSop.apply(boxes_for_nms, scores,
                    """,
                ),
            ),
            also=("mmdet.core.export:add_dummy_nms_for_onnx",),
        ),
        Replacement(
            "mmdet.models.roi_heads.bbox_heads.bbox_head:BBoxHead.onnx_export",
            edits=(
                Edit("bboxes_for_nms = bboxes + offsets", "bboxes_for_nms = bboxes"),
                Edit("labels=labels)", "labels=labels,\n                class_distance=max_size)"),
                Edit(
                    "# Offset the bboxes back after dummy nms.",
                    """
                    # Nothing to take off again; what follows is no longer reached.
                    return batch_dets, labels
                    # Offset the bboxes back after dummy nms.
                    """,
                ),
            ),
        ),
    ],
)
apply, revert = PATCH.apply, PATCH.revert
