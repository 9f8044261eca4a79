"""Anchors are constants, and the RPN's reshapes leave the batch open."""

from patches._base import Edit, Patch, Replacement

PATCH = Patch(
    __name__,
    summary="The dense head's anchors are constants, gathered by the TopK indices; its reshapes infer the batch.",
    symptom="anchors are generated at every run and copied once per picture; each gather is followed by a Reshape",
    cause=(
        "Feature-map sizes are traced, so the anchor grid becomes Range, Expand and Concat nodes; expand copies the "
        "anchors before the gather; reshape(batch_size, -1, n) needs the batch as a tensor."
    ),
    replacements=[
        Replacement(
            "mmdet.models.dense_heads.base_dense_head:BaseDenseHead.onnx_export",
            edits=(
                Edit(
                    "featmap_sizes = [featmap.size()[-2:] for featmap in cls_scores]",
                    "featmap_sizes = [tuple(int(size) for size in featmap.shape[-2:]) for featmap in cls_scores]",
                ),
                Edit(
                    """
                    scores = cls_score.permute(0, 2, 3,
                                               1).reshape(batch_size, -1,
                                                          self.cls_out_channels)
                    """,
                    """
                    n_priors = int(priors.size(0))
                    level_priors = priors
                    scores = cls_score.permute(0, 2, 3, 1).reshape(
                        -1, n_priors, self.cls_out_channels)
                    """,
                ),
                Edit(
                    "                              1).reshape(batch_size, -1, 4)",
                    "                              1).reshape(-1, n_priors, 4)",
                ),
                Edit("bbox_pred.shape[1] * batch_inds", "n_priors * batch_inds"),
                Edit(
                    """
                    priors = priors.reshape(
                        -1, priors.size(-1))[transformed_inds, :].reshape(
                            batch_size, -1, priors.size(-1))
                    bbox_pred = bbox_pred.reshape(-1,
                                                  4)[transformed_inds, :].reshape(
                                                      batch_size, -1, 4)
                    scores = scores.reshape(
                        -1, self.cls_out_channels)[transformed_inds, :].reshape(
                            batch_size, -1, self.cls_out_channels)
                    """,
                    """
                    priors = level_priors[topk_inds]
                    bbox_pred = bbox_pred.reshape(-1, 4)[transformed_inds]
                    scores = scores.reshape(
                        -1, self.cls_out_channels)[transformed_inds]
                    """,
                ),
            ),
        )
    ],
)
apply, revert = PATCH.apply, PATCH.revert
