"""Labelled data from what a recipe says of them."""

from collections.abc import Mapping
from pathlib import Path

from anyband.labelled.samples import DENSE_KINDS, DataSpec, TaskData
from anyband.sensors.sensor import Sensor

__all__ = ["is_named", "open_task_data"]

_TORCHGEO = "torchgeo:"


def open_task_data(
    spec: DataSpec, *, seed: int, download: bool = False, sensors: Mapping[str, Sensor] | None = None
) -> TaskData:
    """Find the samples of labelled data, their parts and targets; images are read later.

    Args:
        spec: which data, and how they are read.
        seed: of what is drawn: parts that nothing declares, label fractions.
        download: whether a named data set may be fetched.
        sensors: by name, beside those of the catalogue; folders and tables of whole images may name them.

    Raises:
        ManifestError: nothing is there, or a table, folder or list is wrong.
        InputError: an empty part, a sample in two parts, or classes that can't be drawn by.
    """
    # Late: each kind of source has libraries of its own.
    from anyband.labelled.images import check_task_data
    from anyband.labelled.splits import take_fraction

    data = _opened(spec, seed=seed, download=download, sensors=sensors)
    check_task_data(data, needs_validation=spec.split.val > 0)
    return take_fraction(data, fraction=spec.split.fraction, per_class=spec.split.per_class, seed=seed)


def is_named(source: str) -> bool:
    """Tell whether a source is the name of a data set, and not a folder or file."""
    from anyband.labelled.published.catalogue import list_published

    return source.startswith(_TORCHGEO) or (source in list_published() and not Path(source).exists())


def _opened(spec: DataSpec, *, seed: int, download: bool, sensors: Mapping[str, Sensor] | None) -> TaskData:
    if spec.source.startswith(_TORCHGEO):
        from anyband.labelled.torchgeo import open_torchgeo

        return open_torchgeo(spec, seed=seed, download=download)
    if is_named(spec.source):
        from anyband.labelled.published.catalogue import open_published

        return open_published(spec, seed=seed)
    if spec.kind in DENSE_KINDS:
        from anyband.labelled.maps import open_dense

        return open_dense(spec, seed=seed)
    from anyband.labelled.images import open_image_level

    return open_image_level(spec, seed=seed, sensors=sensors)
