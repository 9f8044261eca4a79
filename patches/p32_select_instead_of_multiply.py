"""Boxes that the NMS dropped are replaced by zeros; nothing is multiplied by zero."""

from patches._base import Edit, Patch, Replacement

PATCH = Patch(
    __name__,
    summary="The NMS helper clears the boxes that were not selected by choosing zero instead of multiplying by it.",
    symptom="one infinite coordinate that NMS had dropped anyway turns into NaN and reaches the detections",
    cause="boxes * mask is meant as a selection, but infinity times zero is NaN, not zero.",
    replacements=[
        Replacement(
            "mmdet.core.export.onnx_helper:add_dummy_nms_for_onnx",
            edits=(Edit("boxes = boxes * mask", "boxes = torch.where(mask > 0, boxes, torch.zeros_like(boxes))"),),
            also=("mmdet.core.export:add_dummy_nms_for_onnx",),
        )
    ],
)
apply, revert = PATCH.apply, PATCH.revert
