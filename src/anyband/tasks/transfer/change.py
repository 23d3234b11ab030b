"""Change detection: a head over differences of the features of two dates, which one encoder sees."""

from anyband.errors import InputError, RecipeError
from anyband.tasks.transfer.dense_fit import DenseTask, fit_maps
from anyband.tasks.transfer.dense_model import Difference, SiameseEncoder
from anyband.tasks.transfer.map_kinds import ClassMaps
from anyband.tasks.transfer.records import Outcome
from anyband.tasks.transfer.setting import Setting

__all__ = ["change", "difference_for"]


def change(setting: Setting) -> list[Outcome]:
    """Fit a head for maps of change over each encoder; validation chooses the epoch by mIoU, test reports.

    The first half of a sample's images is before, the second after, in the same order; the sensors may differ. Two
    classes are changed or not; more are kinds of change. See `segment` for sizes and windows.

    Args:
        setting: data with maps of classes and an even number of images a sample.

    Returns:
        One outcome for each encoder, in the setting's order, with the confusion matrix of each test sample.

    Raises:
        RecipeError: the data have no maps of classes, or settings that do not go together.
        InputError: an odd number of images, an empty part, or images that do not fit the network.
        TrainingError: a loss is not finite, or validation has no labelled pixel.

    Source:
        Daudt et al., "Fully convolutional siamese networks for change detection" (arXiv 1810.08462): differences of
        features at several levels.
    """
    data, recipe = setting.data, setting.recipe
    if data.kind != "class_map":
        raise RecipeError(f"'change' needs maps of classes, and '{data.name}' is of kind '{data.kind}'; see data.kind")
    odd = next((index for index, slots in enumerate(data.sensors) if len(slots) < 2 or len(slots) % 2), None)
    if odd is not None:
        raise InputError(
            f"change is between images before and as many after; sample '{data.names[odd]}' has "
            f"{len(data.sensors[odd])}; give a table with the columns `before` and `after`"
        )
    difference = difference_for(len(data.classes))
    kind = ClassMaps(classes=data.classes, label_smoothing=recipe.fit.label_smoothing)
    task = DenseTask(
        kind=kind, around=lambda fused: SiameseEncoder(fused, difference=difference), title="change detection"
    )
    return fit_maps(setting, task)


def difference_for(num_classes: int) -> Difference:
    """Choose how two dates become one: for changed or not the order of dates says nothing, for kinds it does."""
    return "absolute" if num_classes == 2 else "signed"
