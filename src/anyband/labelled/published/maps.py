"""Published sets of maps that TorchGeo lacks, or reads otherwise: HLS Burn Scars, DFC2020 and SICKLE."""

import datetime as dt
import re
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from anyband.arrays import Array, Float, Int
from anyband.data.manifest import rows_of
from anyband.data.store import SPLITS, Split
from anyband.errors import InputError, ManifestError, RasterError, RecipeError, agreed, counted, nearest_name
from anyband.labelled.maps import map_data
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
from anyband.labelled.tables import LabelFile, ListedSample, known_entry, make_entry
from anyband.progress import progress
from anyband.randomness import permutation
from anyband.rasters.grid import Window
from anyband.rasters.reader import open_sheet
from anyband.sensors.catalogue import get_sensor
from anyband.sensors.sensor import Band, Sensor, encoded

__all__ = ["open_burn_scars", "open_dfc2020", "open_sickle", "row_of"]

# Maps of labels that TorchGeo lacks, read by the names of their files. Tested on small folders laid out so, not on the
# published files; what is not certain is said where it stands.

# Source: https://huggingface.co/datasets/ibm-nasa-geospatial/hls_burn_scars, band order and values of the masks.
_HLS_BANDS = ("B02", "B03", "B04", "B8A", "B11", "B12")
_HLS_CLASSES = {0: "not burned", 1: "burn scar"}
_HLS_SPLITS: dict[str, Split] = {"training": "train", "validation": "test"}
_HLS_WANTED = (
    "folders `training` and `validation` with `subsetted_512x512_HLS.S30.TILE.DATE.v1.4_merged.tif` and "
    "`subsetted_512x512_HLS.S30.TILE.DATE.v1.4.mask.tif`"
)
# Source: PANGAEA (arXiv 2412.04204), `datasets/hlsburnscars.py` of github.com/yurujaja/pangaea-bench; missing beside
# what files tag and the product's own fill, -9999.
_HLS_FILL = 9999
_PANGAEA_VAL, _PANGAEA_SEED = 0.1, 23
_HLS_NAME = re.compile(r"HLS\.[SL]30\.T\w{5}\.(\d{7})\.")

# Source: Yokoya et al., "2020 IEEE GRSS Data Fusion Contest", IEEE GRSM 8(1), 2020: simplified IGBP classes. Savanna
# and snow are not in its labels, so eight classes are.
_DFC_CLASSES = {
    1: "forest",
    2: "shrubland",
    4: "grassland",
    5: "wetlands",
    6: "croplands",
    7: "urban/built-up",
    9: "barren",
    10: "water",
}
_DFC_IGNORE = (0, 3, 8, 255)
# Order in the files, as in SEN12MS, whose Sentinel-2 images are of level 1C.
# Source: Schmitt et al., "SEN12MS", ISPRS Annals IV-2/W7, 2019.
_S2_ORDER = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
_DFC_WANTED = (
    "folders `ROIs0000_test` and `ROIs0000_validation`, each with folders `s1_*`, `s2_*` and `dfc_*` of files such as "
    "`ROIs0000_test_s2_0_p0.tif`"
)
_DFC_NAME = re.compile(r"_(s2|s1|dfc)_(.*)$")

# Sensor, encoding, and bands of a file in their order, of each kind of image.
_SLOTS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "HLS": ("hls-s30", "physical", _HLS_BANDS),
    "Planet Fusion": ("planetscope-4b", "sr", ("blue", "green", "red", "nir")),
    "Planet mosaic": ("maxar-rgb", "dn", ("R", "G", "B")),
    "S2": ("sentinel2-l1c", "dn", _S2_ORDER),
    "S1": ("sentinel1-grd", "db", ("VV", "VH")),
}
# It sees cirrus and no ground; the published evaluation of DFC2020 leaves it out.
_LEFT_OUT = "B10"


def open_burn_scars(spec: DataSpec, *, seed: int) -> TaskData:
    """Open HLS Burn Scars: 512 × 512 pixels of six bands of HLS S30 as reflectance, and masks of −1, 0, 1.
    Option `val`: `drawn` (default) draws `split.val` of training by the recipe's seed, `pangaea` takes the tenth of
    PANGAEA. The published validation is the test split.
    """
    val = options_of(spec, {"val": ("drawn", "pangaea")})["val"]
    root = known_root(spec, wanted=_HLS_WANTED)
    folders = {_below(root, name, wanted=_HLS_WANTED): split for name, split in _HLS_SPLITS.items()}
    samples = [one for folder, split in folders.items() for one in _burn_scars_of(folder, split, spec)]
    if val == "pangaea":
        # Late: it takes a second to import.
        from sklearn.model_selection import train_test_split

        training = np.arange(sum(one.split == "train" for one in samples))
        chosen = set(train_test_split(training, test_size=_PANGAEA_VAL, random_state=_PANGAEA_SEED)[1].tolist())
        samples = [replace(one, split="val") if index in chosen else one for index, one in enumerate(samples)]
    declared = replace(spec, kind="class_map", classes=spec.classes or _HLS_CLASSES, ignore=spec.ignore or (-1,))
    data = replace(map_data(samples, declared, name=spec.source, seed=seed), statistics="HLS Burn Scars")
    return replace(data, read=lambda index: _without_fill(data.read(index)))


def _without_fill(sample: Sample) -> Sample:
    images = (replace(one, valid=one.valid & (one.dn != _HLS_FILL)) for one in sample.images)
    return replace(sample, images=tuple(images))


def _burn_scars_of(folder: Path, split: Split, spec: DataSpec) -> list[ListedSample]:
    samples = []
    for image in sorted(folder.glob("*_merged.tif")):
        label = image.with_name(image.name.replace("_merged.tif", ".mask.tif"))
        if not label.exists():
            raise ManifestError(f"'{image}' has no mask '{label.name}'. '{spec.source}' wants: {_HLS_WANTED}")
        named = _HLS_NAME.search(image.name)
        date = None if named is None else dt.datetime.strptime(named[1], "%Y%j").replace(tzinfo=dt.UTC)
        row = row_of(image, "HLS", spec, slot=0) | {"datetime": date}
        entry = make_entry(row, 0, folder=folder, spec=spec)
        samples.append(ListedSample(name="", images=(entry,), label=LabelFile(path=label, variable="1"), split=split))
    if not samples:
        raise ManifestError(f"'{folder}' has no `*_merged.tif`. '{spec.source}' wants: {_HLS_WANTED}")
    return samples


def open_dfc2020(spec: DataSpec, *, seed: int) -> TaskData:
    """Open DFC2020: 256 × 256 pixels of Sentinel-2 L1C and Sentinel-1, and land cover of eight classes.
    Option `images`: `S2` (default), `S1` or `S2+S1`. Option `train`: `test` (default) trains on the 5128 patches of
    `ROIs0000_test` and reports on the 986 of `ROIs0000_validation`, as CROMA and those after it do; `validation` is the
    other way round. That the SMARTIES evaluation divides them so is assumed: its files are 8-bit pictures, as theirs.
    Validation is drawn from the training split.
    """
    options = options_of(spec, {"images": ("S2", "S1", "S2+S1"), "train": ("test", "validation")})
    images, train = options["images"].split("+"), options["train"]
    root = known_root(spec, wanted=_DFC_WANTED)
    splits: dict[str, Split] = {train: "train", "validation" if train == "test" else "test": "test"}
    folders = {_below(root, f"ROIs0000_{name}", wanted=_DFC_WANTED): split for name, split in splits.items()}
    samples = [one for folder, split in folders.items() for one in _dfc_of(folder, split, spec, images)]
    declared = replace(spec, kind="class_map", classes=spec.classes or _DFC_CLASSES, ignore=spec.ignore or _DFC_IGNORE)
    return replace(map_data(samples, declared, name=spec.source, seed=seed), statistics="DFC2020")


def _dfc_of(folder: Path, split: Split, spec: DataSpec, images: Sequence[str]) -> list[ListedSample]:
    files = {kind: _dfc_files(folder, kind) for kind in ("dfc", *(image.casefold() for image in images))}
    patches = sorted(files["dfc"])
    if not patches:
        raise ManifestError(f"'{folder}' has no labels. '{spec.source}' wants: {_DFC_WANTED}")
    for kind, found in files.items():
        missing = sorted(set(patches) ^ set(found))
        if missing:
            raise ManifestError(
                f"'{folder}' has {counted(len(missing), 'patch')} that {agreed(len(missing), 'are')} not there "
                f"in both `{kind}` and `dfc`, such as '{missing[0]}'. '{spec.source}' wants: {_DFC_WANTED}"
            )
    return [
        ListedSample(
            name="",
            images=tuple(
                make_entry(
                    row_of(files[image.casefold()][patch], image, spec, slot=slot), slot, folder=folder, spec=spec
                )
                for slot, image in enumerate(images)
            ),
            label=LabelFile(path=files["dfc"][patch], variable="1"),
            split=split,
        )
        for patch in patches
    ]


def _dfc_files(folder: Path, kind: str) -> dict[str, Path]:
    """Find the files of a kind by the rest of their names, which is that of the patch."""
    named = {path: _DFC_NAME.search(path.stem) for path in sorted(folder.glob(f"{kind}_*/**/*.tif"))}
    return {found[2]: path for path, found in named.items() if found is not None and found[1] == kind}


def _below(root: Path, name: str, *, wanted: str) -> Path:
    """Find a folder by its name, in the root or one folder down."""
    found = sorted([*(path for path in (root / name,) if path.is_dir()), *root.glob(f"*/{name}/")])
    if not found:
        raise ManifestError(f"'{root}' has no folder `{name}`. It wants: {wanted}")
    return found[0]


def row_of(path: Path, image: str, spec: DataSpec, *, slot: int) -> dict[str, object]:
    """What is known of an image; bands that are requested are found by their order in the file."""
    name, encoding, order = _SLOTS[image]
    sensor = get_sensor(name)
    known = [sensor.band(band).name for band in order]
    requested = spec.bands[slot] if slot < len(spec.bands) else ()
    bands = [sensor.band(band).name for band in requested] or [band for band in known if band != _LEFT_OUT]
    missing = next((band for band in bands if band not in known), None)
    if missing is not None:
        raise ManifestError(f"'{spec.source}' has no band '{missing}' ({', '.join(known)})")
    row: dict[str, object] = {
        "path": [str(path.absolute())],
        "bands": {band: str(known.index(band) + 1) for band in bands},
    }
    if not spec.sensors:
        row["sensor"] = name
    if not spec.encodings:
        row["encoding"] = encoding
    return row


# SICKLE: fields of the Cauvery delta, seen over a season by Landsat-8, Sentinel-2 and Sentinel-1.
#
# The layout is that of the published loader (Sani et al., "SICKLE", WACV 2024): `sickle_dataset_tabular.csv` with a row
# for each sample and the columns UNIQUE_ID, PLOT_ID, STANDARD_SEASON, YEAR and SPLIT; `images/SENSOR/npy/ID/*.npz` with
# an array for each band; `masks/10m/ID.tif` with the plot in its first band and the crop in its second, 1 for paddy and
# larger for 20 other crops. Paddy against all others is the published task. Plots of another split than their sample's
# have no label, as there.
#
# Not certain: how the numbers are stored. Sensors are taken as the level-2 products of Google Earth Engine and
# Sentinel-1 in decibels. With statistics of the data (`input.statistics: data`) a factor makes no difference.

_SICKLE_WANTED = (
    "`sickle_dataset_tabular.csv`, `images/L8/npy/ID/*.npz` (and `S2`, `S1`) and `masks/10m/ID.tif`, ID being the "
    "UNIQUE_ID of a row"
)
_TABLE = "sickle_dataset_tabular.csv"
_SICKLE_COLUMNS = ("UNIQUE_ID", "PLOT_ID", "STANDARD_SEASON", "YEAR", "SPLIT")
_SICKLE_CLASSES = ("paddy", "other crops")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
# Days of a season. Source: the published loader.
_SEASON_DAYS = 183
_DATE = re.compile(r"(?<!\d)(20\d{6})")
_SENSORS = {"L8": "landsat8-oli-tirs-l2", "S2": "sentinel2-l2a", "S1": "sentinel1-grd"}
_ENCODINGS = {"S1": "db"}
# chosen: fewer masks are read within two seconds.
_SHOWN_FROM = 500


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
    root = known_root(spec, wanted=_SICKLE_WANTED)
    chosen, each = _chosen_sensors(spec), options["dates"] == "each"
    if each and len(chosen) > 1:
        raise RecipeError("sensors of SICKLE share no dates, so option `dates: each` is for one of them; use `median`")
    published = {name: get_sensor(_SENSORS[name]) for name in chosen}
    stored = [encoded(one, _ENCODINGS.get(name, one.default_encoding)) for name, one in published.items()]
    sensors = declared_slots(stored, spec, name="sickle")
    rows = _rows(root)
    splits, notes = _splits(rows, spec, seed=seed)
    samples = _samples(root, rows, splits, dict(zip(chosen, sensors, strict=True)))
    samples = [date for one in samples for date in _dates_of(one)] if each else samples
    # Plots of another split than their sample's have no label.
    plots: dict[Split | None, set[int]] = {split: set() for split in SPLITS}
    for row, split in zip(rows, splits, strict=True):
        plots[split].add(int(float(row["PLOT_ID"])))

    def class_map(one: ListedSample) -> Int[Array, "row col"]:
        return _class_map(_mask(root, str(one.place)), sorted(plots[one.split]))

    kept = []
    with progress("check labels", len(samples), shown=len(samples) > _SHOWN_FROM) as advance:
        for one in samples:
            kept += [one] if (class_map(one) >= 0).any() else []
            advance(1)
    if not kept:
        raise InputError(f"none of the {counted(len(samples), 'sample')} of SICKLE in '{root}' has a labelled pixel")
    if len(kept) < len(samples):
        gone = len(samples) - len(kept)
        notes = (*notes, f"{counted(gone, 'sample')} without labels {agreed(gone, 'are')} left out")
    names, found = tuple(one.name for one in kept), tuple(one.split or "train" for one in kept)
    contents = contents_of([[path for entry in one.images for path in entry.source.paths] for one in kept])
    masks = contents_of([[_mask(root, str(one.place))] for one in kept])
    labels = [(mask, sorted(plots[one.split]), str(sensors)) for mask, one in zip(masks, kept, strict=True)]
    return TaskData(
        name="sickle",
        kind="class_map",
        classes=_SICKLE_CLASSES,
        names=names,
        splits=found,
        places=tuple(str(one.place) for one in kept),
        sensors=(sensors,) * len(kept),
        read=keep_samples(lambda index: _sample(kept[index], class_map(kept[index]))),
        fingerprint=fingerprint_of(names, contents, labels, found, classes=_SICKLE_CLASSES),
        contents=contents,
        notes=notes,
    )


def _chosen_sensors(spec: DataSpec) -> list[str]:
    chosen = spec.options.get("sensor", "L8").split("+")
    for name in chosen:
        if name not in _SENSORS or chosen.count(name) > 1:
            raise RecipeError(
                f"option 'sensor' of 'sickle' must be {', '.join(_SENSORS)}, or several joined by `+`, found "
                f"'{spec.options['sensor']}'{nearest_name(name, _SENSORS)}"
            )
    return chosen


def _rows(root: Path) -> list[dict[str, Any]]:
    if not (root / _TABLE).exists():
        raise ManifestError(f"'{root}' has no '{_TABLE}'. SICKLE wants: {_SICKLE_WANTED}")
    rows = list(rows_of(root / _TABLE))
    missing = [name for name in _SICKLE_COLUMNS if not rows or name not in rows[0]]
    if missing:
        raise ManifestError(
            f"'{root / _TABLE}' has no column '{missing[0]}' or no rows; it needs {', '.join(_SICKLE_COLUMNS)}"
        )
    return rows


def _splits(rows: Sequence[Mapping[str, Any]], spec: DataSpec, *, seed: int) -> tuple[list[Split], tuple[str, ...]]:
    given = [str(row["SPLIT"]) for row in rows]
    strange = next((one for one in given if one not in SPLITS), None)
    if strange is not None:
        raise ManifestError(f"'{_TABLE}' has the SPLIT '{strange}' ({', '.join(SPLITS)})")
    splits: list[Split] = [next(known for known in SPLITS if known == one) for one in given]
    if "test" in splits:
        return splits, ()
    # All rows of a plot stay together.
    training = sorted({str(row["PLOT_ID"]) for row, split in zip(rows, splits, strict=True) if split == "train"})
    order = permutation(seed, step=0, purpose="validation of SICKLE", size=len(training))
    val = {training[index] for index in order[: round(spec.split.val * len(training))]}
    drawn: list[Split] = [
        "test" if split == "val" else "val" if str(row["PLOT_ID"]) in val else "train"
        for row, split in zip(rows, splits, strict=True)
    ]
    return drawn, (
        f"part `val` of SICKLE is the test part; {len(val)} of {counted(len(training), 'training plot')} "
        f"{agreed(len(val), 'are')} validation",
    )


def _samples(
    root: Path, rows: Sequence[Mapping[str, Any]], splits: Sequence[Split], sensors: Mapping[str, Sensor]
) -> list[ListedSample]:
    """List each image set once for each split that has plots of it; the files of a sensor are those of all dates."""
    first_rows: dict[tuple[str, Split], Mapping[str, Any]] = {}
    for row, split in zip(rows, splits, strict=True):
        first_rows.setdefault((str(row["UNIQUE_ID"]), split), row)
    times = Counter(number for number, _ in first_rows)
    found = []
    for (number, split), row in first_rows.items():
        name, label = number if times[number] == 1 else f"{number} [{split}]", LabelFile(path=_mask(root, number))
        images = []
        for key, sensor in sensors.items():
            paths = _season_files(root / "images" / key / "npy" / number, row)
            entry = known_entry(name, paths[0], sensor)
            images.append(replace(entry, source=replace(entry.source, paths=paths)))
        found.append(ListedSample(name=name, images=tuple(images), label=label, split=split, place=number))
    return found


def _mask(root: Path, number: str) -> Path:
    path = root / "masks" / "10m" / f"{number}.tif"
    if not path.exists():
        raise ManifestError(f"'{path}' does not exist. SICKLE wants: {_SICKLE_WANTED}")
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
            f"'{folder}' has no image of the {_SEASON_DAYS} days from {start:%Y-%m-%d}. SICKLE wants: {_SICKLE_WANTED}"
        )
    return found


def _date(path: Path) -> dt.datetime:
    found = _DATE.search(path.name)
    if found is None:
        raise ManifestError(f"the name of '{path}' has no date such as 20180106")
    return dt.datetime.strptime(found[1], "%Y%m%d").replace(tzinfo=dt.UTC)


def _dates_of(one: ListedSample) -> list[ListedSample]:
    """Make a sample of each date of the only sensor."""
    (entry,) = one.images
    return [
        replace(
            one,
            name=f"{one.name} {path.stem}",
            images=(replace(entry, source=replace(entry.source, paths=(path,)), datetime=_date(path)),),
        )
        for path in entry.source.paths
    ]


def _class_map(path: Path, plots: Sequence[int]) -> Int[Array, "row col"]:
    with closing(open_sheet(path)) as sheet:
        if len(sheet.names) < 2:
            raise RasterError(f"'{path}' has one band; SICKLE has plots in the first and crops in the second")
        stored, _ = sheet.read([0, 1], Window(row=0, col=0, height=sheet.height, width=sheet.width))
    plot, crop = np.rint(stored).astype(np.int64)
    return np.where(np.isin(plot, plots) & (crop >= 1), (crop > 1).astype(np.int64), -1)


def _sample(one: ListedSample, class_map: Int[Array, "row col"]) -> Sample:
    images = tuple(_image(entry.source.paths, entry.sensor, class_map.shape, entry.datetime) for entry in one.images)
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
