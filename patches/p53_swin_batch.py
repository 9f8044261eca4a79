"""Swin's windows return to their pictures with the batch inferred."""

from patches._base import Edit, Patch, Replacement

PATCH = Patch(
    __name__,
    summary="Swin's window attention leaves the batch open.",
    symptom="24 nodes hold the traced batch, first a Reshape of window_reverse",
    cause="window_reverse computes the batch with int(), so that the tracer sees a number; the rest of it is inferred.",
    replacements=[
        Replacement(
            "mmdet.models.backbones.swin:ShiftWindowMSA.window_reverse",
            edits=(
                Edit(
                    "B = int(windows.shape[0] / (H * W / window_size / window_size))",
                    "channels = int(windows.shape[-1])",
                ),
                Edit(
                    """
                    x = windows.view(B, H // window_size, W // window_size, window_size,
                                     window_size, -1)
                    x = x.permute(0, 1, 3, 2, 4, 5).contiguous().view(B, H, W, -1)
                    """,
                    """
                    x = windows.view(-1, H // window_size, W // window_size, window_size,
                                     window_size, channels)
                    x = x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, H, W, channels)
                    """,
                ),
            ),
        ),
    ],
)
apply, revert = PATCH.apply, PATCH.revert
