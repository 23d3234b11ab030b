"""Regression of maps: a head that gives a number for each pixel."""

from collections.abc import Iterator

from anyband.errors import RecipeError
from anyband.shapes import Array, Num
from anyband.tasks.transfer.dense_fit import DenseTask, fit_maps
from anyband.tasks.transfer.map_kinds import number_maps_of
from anyband.tasks.transfer.records import Outcome
from anyband.tasks.transfer.setting import Setting

__all__ = ["regress_maps"]


def regress_maps(setting: Setting) -> list[Outcome]:
    """Fit a head for maps of numbers over each encoder; validation chooses the epoch by the error, test reports.

    The loss is the squared error of numbers standardised by the training pixels; what is predicted, validated and
    reported is in the data's own unit. See `segment` for sizes and windows.

    Args:
        setting: data with maps of numbers.

    Returns:
        One outcome for each encoder, in the setting's order, with the sums of errors of each test sample.

    Raises:
        RecipeError: the data have no maps of numbers, or settings that do not go together.
        InputError: an empty part, no training pixel with a number, or images that do not fit the network.
        TrainingError: a loss is not finite, or validation has no pixel with a number.
    """
    data, fit = setting.data, setting.recipe.fit
    if data.kind != "number_map":
        raise RecipeError(
            f"regression of maps needs maps of numbers, and '{data.name}' is of kind '{data.kind}'; see data.kind"
        )
    if fit.label_smoothing:
        raise RecipeError("fit.label_smoothing is for classes, and these data have numbers; set it to 0")

    def targets() -> Iterator[Num[Array, "row col"]]:
        return (setting.reader.target(int(sample)) for sample in data.part("train"))

    return fit_maps(setting, DenseTask(kind=number_maps_of(targets()), around=lambda fused: fused, title="regression"))
