"""A result row that NonMaxSuppression did not use marks no box."""

from patches._base import Edit, Patch, Replacement

PATCH = Patch(
    __name__,
    summary="Rows of -1, with which a TensorRT plugin fills NonMaxSuppression's result, fall into a slot of their own.",
    symptom="with TensorRT 8.4, a picture in which nothing is found makes the graph write outside of its tensors",
    cause=(
        "ONNX's NonMaxSuppression has as many result rows as boxes are kept. TensorRT 8.4 gives it a fixed length: "
        "rows that are left over repeat the last one, and hold -1 if no box was kept. mmdet computes where a kept box "
        "lies from its row; a repeated row marks the same box once more, a row of -1 gives a place before the first."
    ),
    replacements=[
        Replacement(
            "mmdet.core.export.onnx_helper:add_dummy_nms_for_onnx",
            edits=(
                Edit(
                    "mask = scores.new_zeros(scores.shape)",
                    """
                    # One slot more, at the end, which unused rows mark; it is cut off again.
                    pos_inds = torch.where(box_inds < 0, scores.shape[0], pos_inds)
                    mask = scores.new_zeros((scores.shape[0] + 1, 1))
                    """,
                ),
                Edit(
                    "mask[pos_inds, :] += 1",
                    """
                    mask[pos_inds, :] += 1
                    mask = mask[:-1]
                    """,
                ),
            ),
            also=("mmdet.core.export:add_dummy_nms_for_onnx",),
        )
    ],
)
apply, revert = PATCH.apply, PATCH.revert
