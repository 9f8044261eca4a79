"""Height and width of the input are constants; only the batch is dynamic."""

from patches._base import Edit, Patch, Replacement

PATCH = Patch(
    __name__,
    summary="The detector's export reads height and width once, as numbers.",
    symptom="clipping, class separation and mask pasting compute with sizes that Shape and Gather fetch at every run",
    cause=(
        "torch._shape_as_tensor keeps height and width dynamic along with the batch, so that the size of the pasted "
        "masks is known only while the graph runs."
    ),
    replacements=[
        Replacement(
            "mmdet.models.detectors.two_stage:TwoStageDetector.onnx_export",
            edits=(
                Edit(
                    "img_shape = torch._shape_as_tensor(img)[2:]",
                    "img_shape = torch.tensor([int(size) for size in img.shape[2:]], device=img.device)",
                ),
            ),
        )
    ],
)
apply, revert = PATCH.apply, PATCH.revert
