"""Segmentation: a head for maps of classes, over a frozen, trained or adapted encoder."""

from anyband.errors import RecipeError
from anyband.tasks.transfer.dense_fit import DenseTask, fit_maps
from anyband.tasks.transfer.map_kinds import ClassMaps
from anyband.tasks.transfer.records import Outcome
from anyband.tasks.transfer.setting import Setting

__all__ = ["segment"]


def segment(setting: Setting) -> list[Outcome]:
    """Fit a head for maps of classes over each encoder; validation chooses the epoch by mIoU, test reports.

    Test compares at the size of the labels. Images are seen whole and the logits resized to it (`input.resize: whole`),
    or in overlapping windows whose logits are averaged (`native`). Equal settings give equal outcomes.

    Args:
        setting: data with maps of classes.

    Returns:
        One outcome for each encoder, in the setting's order, with the confusion matrix of each test sample.

    Raises:
        RecipeError: the data have no maps of classes, or settings that do not go together.
        InputError: a part is empty, or images that do not fit the network.
        TrainingError: a loss is not finite, or validation has no labelled pixel.

    Source:
        SMARTIES (arXiv 2506.19585), section 4, tables 5 and 6.
    """
    data, recipe = setting.data, setting.recipe
    if data.kind != "class_map":
        raise RecipeError(f"'segment' needs maps of classes, and '{data.name}' is of kind '{data.kind}'; see data.kind")
    kind = ClassMaps(classes=data.classes, label_smoothing=recipe.fit.label_smoothing)
    return fit_maps(setting, DenseTask(kind=kind, around=lambda fused: fused, title="segmentation"))
