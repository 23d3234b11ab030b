"""SICKLE: fields of the Cauvery delta, seen over a season by Landsat-8, Sentinel-2 and Sentinel-1.

The layout is that of the published loader (Sani et al., "SICKLE", WACV 2024): `sickle_dataset_tabular.csv` with a row
for each sample and the columns UNIQUE_ID, PLOT_ID, STANDARD_SEASON, YEAR and SPLIT; `images/SENSOR/npy/ID/*.npz` with
an array for each band; `masks/10m/ID.tif` with the plot in its first band and the crop in its second, 1 for paddy and
larger for 20 other crops. Paddy against all others is the published task. Plots of another part than their sample's
have no label, as there.

Not certain: how the numbers are stored. Sensors are taken as the level-2 products of Google Earth Engine and
Sentinel-1 in decibels. With statistics of the data (`input.statistics: data`) a factor makes no difference.
"""

import datetime as dt
import re
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from anyband.arrays import Array, Float, Int
from anyband.data.manifest import read_rows
from anyband.data.store import SPLITS, Split
from anyband.errors import InputError, ManifestError, RasterError, RecipeError, nearest_name
from anyband.labelled.samples import (
    DataSpec,
    Sample,
    SampleImage,
    TaskData,
    contents_of,
    declared_slots,
    fingerprint_of,
    keep_samples,
    known_root,
    options_of,
)
from anyband.progress import progress
from anyband.randomness import permutation
from anyband.rasters.grid import Window
from anyband.rasters.reader import open_sheet
from anyband.sensors.catalogue import resolve_sensor
from anyband.sensors.sensor import Band, Sensor

__all__ = ["open_sickle"]

_WANTED = (
    "`sickle_dataset_tabular.csv`, `images/L8/npy/ID/*.npz` (and `S2`, `S1`) and `masks/10m/ID.tif`, ID being the "
    "UNIQUE_ID of a row"
)
_TABLE = "sickle_dataset_tabular.csv"
_COLUMNS = ("UNIQUE_ID", "PLOT_ID", "STANDARD_SEASON", "YEAR", "SPLIT")
_CLASSES = ("paddy", "other crops")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
# Days of a season. Source: the published loader.
_SEASON_DAYS = 183
_DATE = re.compile(r"(?<!\d)(20\d{6})")
_SENSORS = {"L8": "landsat8-oli-tirs-l2", "S2": "sentinel2-l2a", "S1": "sentinel1-grd"}
_ENCODINGS = {"S1": "db"}
# chosen: fewer masks are read within two seconds.
_SHOWN_FROM = 500


@dataclass(frozen=True, kw_only=True, eq=False)
class _Field:
    """One sample."""

    name: str
    """Its number; with its split where it is in several, with its date where each date is a sample."""
    number: str
    """UNIQUE_ID: its place."""
    split: Split
    plots: frozenset[int]
    """Of its split; others have no label."""
    label: Path
    """Mask of plots and crops."""
    images: tuple[tuple[Path, ...], ...]
    """Files of each sensor, one for each date."""
    datetime: dt.datetime | None = None
    """Of the image, where it is of one date."""

    @property
    def files(self) -> list[Path]:
        return [path for paths in self.images for path in paths]


def open_sickle(spec: DataSpec, *, seed: int) -> TaskData:
    """Open SICKLE, in `root`: maps of paddy against other crops.
    Option `sensor`: `L8` (default), `S2`, `S1`, or several joined by `+`. Option `dates`: `median` (default) gives the
    median of a season's images, band by band over pixels that are not 0; `each` makes a sample of each date. Images are
    brought to the mask's pixels by nearest neighbour, as in the published loader. Where the table has no split `test`,
    its `val` is the test split and validation is drawn from training.

    Raises:
        ManifestError: the folder is not as it is published.
        RecipeError: an unknown option.
        InputError: no labels.
    """
    options = options_of(spec, {"sensor": (), "dates": ("median", "each")})
    root = known_root(spec, wanted=_WANTED)
    chosen, each = _chosen_sensors(spec), options["dates"] == "each"
    if each and len(chosen) > 1:
        raise RecipeError("sensors of SICKLE share no dates, so option `dates: each` is for one of them; use `median`")
    fields, notes = _fields(root, chosen, spec, seed=seed)
    fields = [date for field in fields for date in _dates_of(field)] if each else fields
    kept = _with_labels(fields)
    left_out = len(fields) - len(kept)
    if not kept:
        raise InputError(f"none of the {len(fields)} samples of SICKLE in '{root}' has a labelled pixel")
    notes = (*notes, *((f"{left_out} samples without labels are left out",) if left_out else ()))
    return _task_data(kept, _sensors(chosen, spec), notes)


def _chosen_sensors(spec: DataSpec) -> list[str]:
    chosen = spec.options.get("sensor", "L8").split("+")
    for name in chosen:
        if name not in _SENSORS or chosen.count(name) > 1:
            raise RecipeError(
                f"option 'sensor' of 'sickle' must be {', '.join(_SENSORS)}, or several joined by `+`, found "
                f"'{spec.options['sensor']}'{nearest_name(name, _SENSORS)}"
            )
    return chosen


def _sensors(chosen: Sequence[str], spec: DataSpec) -> tuple[Sensor, ...]:
    found = [resolve_sensor(_SENSORS[name]) for name in chosen]
    encoded = [
        replace(sensor, default_encoding=_ENCODINGS.get(name, sensor.default_encoding))
        for name, sensor in zip(chosen, found, strict=True)
    ]
    return declared_slots(encoded, spec, name="sickle")


def _fields(root: Path, chosen: Sequence[str], spec: DataSpec, *, seed: int) -> tuple[list[_Field], tuple[str, ...]]:
    rows = _rows(root)
    splits, notes = _splits(rows, spec, seed=seed)
    plots: dict[Split, set[int]] = {part: set() for part in SPLITS}
    first_rows: dict[tuple[str, Split], Mapping[str, Any]] = {}
    for row, split in zip(rows, splits, strict=True):
        plots[split].add(int(float(row["PLOT_ID"])))
        first_rows.setdefault((str(row["UNIQUE_ID"]), split), row)
    times = Counter(number for number, _ in first_rows)
    return [
        _Field(
            name=number if times[number] == 1 else f"{number} [{split}]",
            number=number,
            split=split,
            plots=frozenset(plots[split]),
            label=_mask(root, number),
            images=tuple(_season_files(root / "images" / name / "npy" / number, row) for name in chosen),
        )
        for (number, split), row in first_rows.items()
    ], notes


def _rows(root: Path) -> list[dict[str, Any]]:
    if not (root / _TABLE).exists():
        raise ManifestError(f"'{root}' has no '{_TABLE}'. SICKLE wants: {_WANTED}")
    rows = read_rows(root / _TABLE)
    missing = [name for name in _COLUMNS if not rows or name not in rows[0]]
    if missing:
        raise ManifestError(
            f"'{root / _TABLE}' has no column '{missing[0]}' or no rows; it needs {', '.join(_COLUMNS)}"
        )
    return rows


def _splits(rows: Sequence[Mapping[str, Any]], spec: DataSpec, *, seed: int) -> tuple[list[Split], tuple[str, ...]]:
    names = [str(row["SPLIT"]) for row in rows]
    strange = next((one for one in names if one not in SPLITS), None)
    if strange is not None:
        raise ManifestError(f"'{_TABLE}' has the SPLIT '{strange}' ({', '.join(SPLITS)})")
    splits: list[Split] = [next(part for part in SPLITS if part == one) for one in names]
    if "test" in splits:
        return splits, ()
    # All rows of a plot stay together.
    training = sorted({str(row["PLOT_ID"]) for row, part in zip(rows, splits, strict=True) if part == "train"})
    order = permutation(seed, step=0, purpose="validation of SICKLE", size=len(training))
    val = {training[index] for index in order[: round(spec.split.val * len(training))]}
    drawn: list[Split] = [
        "test" if part == "val" else "val" if str(row["PLOT_ID"]) in val else "train"
        for row, part in zip(rows, splits, strict=True)
    ]
    return drawn, (
        f"part `val` of SICKLE is the test part; {len(val)} of {len(training)} training plots are validation",
    )


def _mask(root: Path, number: str) -> Path:
    path = root / "masks" / "10m" / f"{number}.tif"
    if not path.exists():
        raise ManifestError(f"'{path}' does not exist. SICKLE wants: {_WANTED}")
    return path


def _season_files(folder: Path, row: Mapping[str, Any]) -> tuple[Path, ...]:
    month = str(row["STANDARD_SEASON"]).split("-")[0].strip().casefold()[:3]
    if month not in _MONTHS:
        raise ManifestError(f"'{_TABLE}' has the season '{row['STANDARD_SEASON']}', which begins in no month")
    start = dt.datetime(int(float(row["YEAR"])), _MONTHS.index(month) + 1, 1, tzinfo=dt.UTC)
    dated = sorted((_date(path), path) for path in folder.glob("*.npz"))
    found = tuple(path for date, path in dated if 0 <= (date - start).days < _SEASON_DAYS)
    if not found:
        raise ManifestError(
            f"'{folder}' has no image of the {_SEASON_DAYS} days from {start:%Y-%m-%d}. SICKLE wants: {_WANTED}"
        )
    return found


def _date(path: Path) -> dt.datetime:
    found = _DATE.search(path.name)
    if found is None:
        raise ManifestError(f"the name of '{path}' has no date such as 20180106")
    return dt.datetime.strptime(found[1], "%Y%m%d").replace(tzinfo=dt.UTC)


def _dates_of(field: _Field) -> list[_Field]:
    return [
        replace(field, name=f"{field.name} {path.stem}", images=((path,),), datetime=_date(path))
        for path in field.images[0]
    ]


def _with_labels(fields: Sequence[_Field]) -> list[_Field]:
    kept = []
    with progress("check labels", len(fields), shown=len(fields) > _SHOWN_FROM) as advance:
        for field in fields:
            if (_class_map(field) >= 0).any():
                kept.append(field)
            advance(1)
    return kept


def _class_map(field: _Field) -> Int[Array, "row col"]:
    sheet = open_sheet(field.label)
    try:
        if len(sheet.names) < 2:
            raise RasterError(f"'{field.label}' has one band; SICKLE has plots in the first and crops in the second")
        stored, _ = sheet.read([0, 1], Window(row=0, col=0, height=sheet.height, width=sheet.width))
    finally:
        sheet.close()
    plots, crops = np.rint(stored).astype(np.int64)
    labelled = np.isin(plots, sorted(field.plots)) & (crops >= 1)
    return np.where(labelled, (crops > 1).astype(np.int64), -1)


def _task_data(fields: Sequence[_Field], sensors: tuple[Sensor, ...], notes: tuple[str, ...]) -> TaskData:
    names, splits = tuple(field.name for field in fields), tuple(field.split for field in fields)
    contents = contents_of([field.files for field in fields])
    masks = contents_of([[field.label] for field in fields])
    labels = [(mask, sorted(field.plots), str(sensors)) for mask, field in zip(masks, fields, strict=True)]
    return TaskData(
        name="sickle",
        kind="class_map",
        classes=_CLASSES,
        names=names,
        splits=splits,
        places=tuple(field.number for field in fields),
        sensors=(sensors,) * len(fields),
        read=keep_samples(lambda index: _sample(fields[index], sensors)),
        fingerprint=fingerprint_of(names, contents, labels, splits, classes=_CLASSES),
        contents=contents,
        notes=notes,
    )


def _sample(field: _Field, sensors: Sequence[Sensor]) -> Sample:
    class_map = _class_map(field)
    images = tuple(
        _image(paths, sensor, class_map.shape, field.datetime)
        for paths, sensor in zip(field.images, sensors, strict=True)
    )
    shown = np.any([image.valid.any(axis=0) for image in images], axis=0)
    return Sample(images=images, class_map=np.where(shown, class_map, -1))


def _image(paths: Sequence[Path], sensor: Sensor, size: tuple[int, ...], datetime: dt.datetime | None) -> SampleImage:
    """Give the median of the dates of each pixel and band; of one date, itself."""
    dates = np.stack([_read(path, sensor, size) for path in paths])
    valid = np.isfinite(dates).any(axis=0)
    # Pixels that no date has are filled, so that the median has something to take.
    dn = np.nanmedian(np.where(valid, dates, 0.0), axis=0)
    return SampleImage(dn=dn.astype(np.float32), valid=valid, sensor=sensor, datetime=datetime)


def _read(path: Path, sensor: Sensor, size: tuple[int, ...]) -> Float[Array, "band row col"]:
    """Read the bands of one date onto the mask's pixels; NaN where there are no data, or not the band."""
    found = np.full((len(sensor.bands), *size), np.nan)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            for index, band in enumerate(sensor.bands):
                name = _name_in(arrays.files, band)
                if name is not None:
                    found[index] = _nearest(arrays[name].astype(np.float64), size)
    except (OSError, ValueError, zipfile.BadZipFile) as problem:
        raise RasterError(f"cannot read '{path}': {problem}; get it again or leave it out") from problem
    if np.isnan(found).all():
        raise RasterError(f"'{path}' has no band of '{sensor.name}' ({', '.join(sensor.band_names)}) with data")
    # 0 is what the published loader counts as no data.
    return np.where(found == 0, np.nan, found)


def _name_in(names: Sequence[str], band: Band) -> str | None:
    known = {name.casefold() for name in (band.name, *band.aliases)}
    return next((name for name in names if name.casefold() in known), None)


def _nearest(pixels: Array, size: tuple[int, ...]) -> Array:
    rows, cols = (
        ((np.arange(new) + 0.5) * old / new).astype(np.int64) for new, old in zip(size, pixels.shape, strict=True)
    )
    return np.asarray(pixels[rows[:, None], cols[None, :]])
