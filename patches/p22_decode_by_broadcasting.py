"""Decoding boxes broadcasts instead of expanding, and its reshape leaves the batch open."""

from patches._base import Edit, Patch, Replacement

PATCH = Patch(
    __name__,
    summary="onnx_delta2bbox broadcasts, and stacks into a shape whose batch dimension is -1.",
    symptom="four Shape and Expand pairs and a computed Reshape for each of the six calls of the box decoder",
    cause="expand_as and view(deltas.size()) ask for every size of a tensor when one of them, the batch, is dynamic.",
    replacements=[
        Replacement(
            "mmdet.core.bbox.coder.delta_xywh_bbox_coder:onnx_delta2bbox",
            edits=(
                Edit("px = ((x1 + x2) * 0.5).unsqueeze(-1).expand_as(dx)", "px = ((x1 + x2) * 0.5).unsqueeze(-1)"),
                Edit("py = ((y1 + y2) * 0.5).unsqueeze(-1).expand_as(dy)", "py = ((y1 + y2) * 0.5).unsqueeze(-1)"),
                Edit("pw = (x2 - x1).unsqueeze(-1).expand_as(dw)", "pw = (x2 - x1).unsqueeze(-1)"),
                Edit("ph = (y2 - y1).unsqueeze(-1).expand_as(dh)", "ph = (y2 - y1).unsqueeze(-1)"),
                Edit(
                    """
                    x1, y1, x2, y2 = dynamic_clip_for_onnx(x1, y1, x2, y2, max_shape)
                    bboxes = torch.stack([x1, y1, x2, y2], dim=-1).view(deltas.size())
                    return bboxes
                    """,
                    """
                    x1, y1, x2, y2 = dynamic_clip_for_onnx(x1, y1, x2, y2, max_shape)
                    bboxes = torch.stack([x1, y1, x2, y2], dim=-1)
                    return bboxes.reshape(-1, *(int(size) for size in deltas.shape[1:]))
                    """,
                ),
            ),
        )
    ],
)
apply, revert = PATCH.apply, PATCH.revert
