"""A cascade's RoIs keep the number of their picture from stage to stage."""

from patches._base import Edit, Patch, Replacement

PATCH = Patch(
    __name__,
    summary="The cascade's export takes batches: every stage pools a RoI from its own picture.",
    symptom="AssertionError: Only support one input image while in exporting to ONNX",
    cause=(
        "mmdet's export of a cascade gives all RoIs picture number 0, and says so. The other heads number them, and "
        "after that all of it works for any batch: reshapes infer it."
    ),
    replacements=[
        Replacement(
            "mmdet.models.roi_heads.cascade_roi_head:CascadeRoIHead.onnx_export",
            edits=(
                Edit(
                    """
                    assert proposals.shape[0] == 1, 'Only support one input image ' \\
                                                    'while in exporting to ONNX'
                    """,
                    "",
                ),
                Edit(
                    """
                    batch_size = rois.shape[0]
                    num_proposals_per_img = rois.shape[1]
                    """,
                    """
                    batch_size, num_proposals_per_img = -1, int(rois.shape[1])
                    picture = torch.arange(rois.shape[0], device=rois.device).to(rois).view(-1, 1, 1)
                    picture = picture.expand(-1, num_proposals_per_img, 1).reshape(-1, 1)
                    """,
                ),
                Edit(
                    "rois = torch.cat([rois.new_zeros(rois.shape[0], 1), rois], dim=-1)",
                    "rois = torch.cat([picture, rois], dim=-1)",
                ),
                Edit(
                    """
                    rois = torch.cat([rois.new_zeros(rois.shape[0], 1), rois],
                                     dim=-1)
                    """,
                    "rois = torch.cat([picture, rois], dim=-1)",
                ),
                Edit(
                    "rois = rois.reshape(batch_size, num_proposals_per_img, -1)",
                    "rois = rois.reshape(batch_size, num_proposals_per_img, 5)",
                ),
            ),
        ),
    ],
)
apply, revert = PATCH.apply, PATCH.revert
