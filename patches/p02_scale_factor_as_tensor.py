"""The mask branch accepts a scale factor that is a list or a tensor."""

from patches._base import Edit, Patch, Replacement

PATCH = Patch(
    __name__,
    summary="simple_test_mask takes the scale factor as an array, a list or a tensor.",
    symptom="TypeError: expected np.ndarray (got list)",
    cause="torch.from_numpy takes numpy arrays only, and p01_plain_meta made the scale factor a list.",
    replacements=[
        Replacement(
            "mmdet.models.roi_heads.test_mixins:MaskTestMixin.simple_test_mask",
            edits=(Edit("torch.from_numpy(scale_factor)", "torch.as_tensor(scale_factor)"),),
        )
    ],
)
apply, revert = PATCH.apply, PATCH.revert
