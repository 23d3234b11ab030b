"""The data of an ablation: a chip store with statistics, and beside it the label of each cell.

Rasters are read here alone. Where the store and `labels.csv` are there already, training and scoring need nothing else.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from anyband.data.store import ChipStore
from anyband.errors import InputError
from anyband.files import whole_file

__all__ = ["KIT", "SIMULATED", "Archive", "Cell", "make_archive"]

SIMULATED = "simulated"
KIT = "kit"
Cell = tuple[str, str]
"""Place and cell."""

# Landsat-8: other bands at another resolution, some of them thermal.
_UNSEEN_SIMULATED = "landsat8-oli-tirs-l2"
# chosen: as the demo. Many test places, so that scores are narrow; validation chooses nothing here.
_FRACTIONS = (0.65, 0.05, 0.30)
# chosen: two dates of three sensors are six images, the most that `unified` draws.
_NUM_DATES = 2
# chosen: half of the simulator's default resolution, which the network's 96 pixels do not resolve anyway; a quarter of
# the store.
_RGB_GSD_M = 5.0
# chosen: as docs/real_data.md prepares the kit.
_KIT_CHIP_PX = 96
# Folder of the kit whose images have classes: the name of the folder that holds them.
_KIT_LABELLED = "ucmerced_jpg"


@dataclass(frozen=True, kw_only=True)
class Archive:
    """What is trained and scored on."""

    kind: str
    """`simulated` or `kit`."""
    store: ChipStore
    """With statistics."""
    labels: Mapping[Cell, str]
    """Class of each labelled cell."""
    unseen: tuple[str, ...]
    """Sensors that no training sees."""

    @property
    def trained(self) -> tuple[str, ...]:
        """Sensors that training may see."""
        return tuple(name for name in self.store.sensors if name not in self.unseen)


def make_archive(folder: Path, name: str, *, num_places: int, workers: int) -> Archive:
    """Make the store and the labels below a folder, or take what is there.

    Args:
        folder: of the archive.
        name: `simulated`, or `kit:MANIFEST` for the manifest of images of your own.
        num_places: simulated places.
        workers: processes.

    Raises:
        InputError: another name.
        AnybandError: images that can't be used.
    """
    kind, _, manifest = name.partition(":")
    if kind not in (SIMULATED, KIT) or (kind == KIT) != bool(manifest):
        raise InputError(f"--archive takes simulated or kit:MANIFEST, found '{name}'")
    labels = folder / "labels.csv"
    if not labels.exists():
        if kind == SIMULATED:
            _simulate(folder, num_places=num_places, workers=workers)
        else:
            _prepare(Path(manifest), folder, fractions=None, chip_px=_KIT_CHIP_PX, workers=workers)
        store = ChipStore.open(folder / "store")
        found = _place_labels(folder / "images" / "labels.csv", store) if kind == SIMULATED else _folder_labels(store)
        _write_labels(labels, found)
    return Archive(
        kind=kind,
        store=ChipStore.open(folder / "store"),
        labels=_read_labels(labels),
        unseen=(_UNSEEN_SIMULATED,) if kind == SIMULATED else (),
    )


def _simulate(folder: Path, *, num_places: int, workers: int) -> None:
    from anyband.simulate.archive import simulate
    from anyband.simulate.plan import SimulateOptions

    images = folder / "images"
    if not images.exists():
        options = SimulateOptions(
            num_places=num_places, num_dates=_NUM_DATES, gsd_m=(("maxar-rgb", _RGB_GSD_M),), workers=workers
        )
        simulate(images, options)
    _prepare(images / "manifest.csv", folder, fractions=_FRACTIONS, chip_px=None, workers=workers)


def _prepare(
    manifest: Path, folder: Path, *, fractions: tuple[float, float, float] | None, chip_px: int | None, workers: int
) -> None:
    from anyband.data.manifest import read_manifest
    from anyband.data.prepare import PrepareOptions, prepare

    options = PrepareOptions(statistics=True, chip_px=chip_px, fractions=fractions or PrepareOptions.fractions)
    report = prepare(read_manifest(manifest), folder / "store", options, workers=workers, shown=True)
    print("\n".join(report.lines()))


def _place_labels(table: Path, store: ChipStore) -> dict[Cell, str]:
    """Give each cell the majority class of its place; simulated places are one cell each."""
    with table.open(encoding="utf-8", newline="") as file:
        of_place = {row["place"]: row["label"] for row in csv.DictReader(file)}
    return {cell: of_place[cell[0]] for cell in _cells(store)}


def _folder_labels(store: ChipStore) -> dict[Cell, str]:
    """Give the first cell of each image in a folder of classes the name of that folder."""
    columns = store.index.select(["place", "cell", "source_path"]).to_pylist()
    found: dict[str, tuple[str, str]] = {}
    for row in sorted(columns, key=lambda row: (row["place"], row["cell"])):
        path = Path(row["source_path"])
        if path.parent.parent.name == _KIT_LABELLED:
            found.setdefault(row["place"], (row["cell"], path.parent.name))
    return {(place, cell): label for place, (cell, label) in found.items()}


def _cells(store: ChipStore) -> list[Cell]:
    columns = store.index.select(["place", "cell"]).to_pylist()
    return list(dict.fromkeys((row["place"], row["cell"]) for row in columns))


def _write_labels(path: Path, labels: Mapping[Cell, str]) -> None:
    with whole_file(path) as beside, beside.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["place", "cell", "label"])
        writer.writerows((*cell, label) for cell, label in labels.items())


def _read_labels(path: Path) -> dict[Cell, str]:
    with path.open(encoding="utf-8", newline="") as file:
        return {(row["place"], row["cell"]): row["label"] for row in csv.DictReader(file)}
