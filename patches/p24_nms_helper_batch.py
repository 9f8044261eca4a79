"""The NMS helper's reshapes leave the batch open and know every other size."""

from patches._base import Edit, Patch, Replacement
from patches.p07_rpn_levels_apart import PATCH as RPN_LEVELS_APART

PATCH = Patch(
    __name__,
    summary="add_dummy_nms_for_onnx counts boxes and classes as numbers; its reshapes infer the batch.",
    symptom="the lengths of dets and labels (100) are unknown in the dynamic graph",
    cause="reshape(batch_size, -1) takes the batch from a Shape node and leaves the known length to be inferred.",
    after=(RPN_LEVELS_APART,),
    replacements=[
        Replacement(
            "mmdet.core.export.onnx_helper:add_dummy_nms_for_onnx",
            edits=(
                Edit("num_class = scores.shape[2]", "num_class = int(scores.shape[2])"),
                Edit("num_box = boxes.shape[1]", "num_box = int(boxes.shape[1])"),
                Edit("boxes.reshape(batch_size, -1).repeat(", "boxes.reshape(-1, 4 * num_box).repeat("),
                Edit(
                    """
                    scores = scores.reshape(batch_size, -1)
                    boxes = boxes.reshape(batch_size, -1, 4)
                    labels = labels.reshape(batch_size, -1)
                    """,
                    """
                    scores = scores.reshape(-1, num_class * num_box)
                    boxes = boxes.reshape(-1, num_class * num_box, 4)
                    labels = labels.reshape(-1, num_class * num_box)
                    """,
                ),
                Edit("scores.shape[1] * batch_inds", "num_class * num_box * batch_inds"),
                Edit(
                    """
                    scores = scores.reshape(-1, 1)[transformed_inds, :].reshape(
                        batch_size, -1)
                    boxes = boxes.reshape(-1, 4)[transformed_inds, :].reshape(
                        batch_size, -1, 4)
                    labels = labels.reshape(-1, 1)[transformed_inds, :].reshape(
                        batch_size, -1)
                    """,
                    """
                    scores = scores.reshape(-1)[transformed_inds]
                    boxes = boxes.reshape(-1, 4)[transformed_inds]
                    labels = labels.reshape(-1)[transformed_inds]
                    """,
                ),
            ),
            also=("mmdet.core.export:add_dummy_nms_for_onnx",),
        )
    ],
)
apply, revert = PATCH.apply, PATCH.revert
