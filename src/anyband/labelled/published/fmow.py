"""Functional Map of the World: pictures of Maxar satellites beside Sentinel-2 of the same place and time."""

import csv
import datetime as dt
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from anyband.data.store import Split
from anyband.errors import ManifestError, nearest_name
from anyband.labelled.images import published_data
from anyband.labelled.samples import DataSpec, TaskData, declared_slots, known_root, options_of
from anyband.labelled.tables import ListedSample, known_entry
from anyband.sensors.catalogue import find_bands, get_sensor
from anyband.sensors.sensor import Sensor

__all__ = ["open_fmow_pairs"]

# Source: metadata page of fMoW-Sentinel (SatMAE, Cong et al. 2022): 13 bands by wavelength, so B8A follows B08; its
# files of splits; images with a number under 100 are of the time of the fMoW picture with that number.
_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
_TABLES: Mapping[Split, tuple[str, ...]] = {
    "train": ("train.csv",),
    "val": ("val.csv",),
    "test": ("test_gt.csv", "test.csv"),
}
_COLUMNS = ("category", "location_id", "image_id", "timestamp")
_FIRST_WITHOUT_PICTURE = 100
_WANTED = (
    "fmow-sentinel/ with train.csv, val.csv, test_gt.csv (category, location_id, image_id, timestamp) and "
    "<split>/<category>/<category>_<location>/<category>_<location>_<image>.tif, and fmow-rgb/ with the same folders "
    "and …_<image>_rgb.jpg"
)


def open_fmow_pairs(spec: DataSpec, *, seed: int) -> TaskData:
    """Open pairs of a picture and a Sentinel-2 image; the class is the category of the place.
    Images without a picture, and pairs of which a file is missing, are left out; their number is noted. `root` holds
    `fmow-sentinel` and `fmow-rgb`; options are `images` (all, rgb, s2) and `absent` (refuse, leave_out) for lists that
    name what is not there. Validation is drawn where its table is missing. Raises `ManifestError` where the folder is
    not as it should be.
    """
    images = options_of(spec, {"images": ("all", "rgb", "s2"), "absent": ("refuse", "leave_out")})["images"]
    root = known_root(spec, wanted=_WANTED)
    sensors = dict(zip(_kinds(images), declared_slots(_sensors(images), spec, name=spec.source), strict=True))
    rows = [(split, row) for split in _TABLES for row in _rows(root, split)]
    paired = [(split, row) for split, row in rows if _number(row, split) < _FIRST_WITHOUT_PICTURE]
    samples = [_sample(root, split, row, sensors) for split, row in paired]
    there = [one for one in samples if all(path.is_file() for image in one.images for path in image.source.paths)]
    if not there:
        raise ManifestError(f"'{root}' has none of the {len(samples)} pairs that its tables name. It wants: {_WANTED}")
    notes = ["Sentinel-2 images are composites of 90 days around the time of the picture"]
    if len(there) < len(samples):
        notes.append(f"{len(samples) - len(there)} pairs have no files in the folder and are left out")
    return published_data(
        spec,
        there,
        kind="class",
        classes=sorted({name for one in there if isinstance(one.label, tuple) for name in one.label}),
        sensors=tuple(sensors.values()),
        lists=spec.split.lists,
        notes=notes,
        seed=seed,
    )


def _kinds(images: str) -> tuple[str, ...]:
    return ("rgb", "s2") if images == "all" else (images,)


def _sensors(images: str) -> list[Sensor]:
    sensors = {"rgb": get_sensor("maxar-rgb"), "s2": find_bands(_BANDS, get_sensor("sentinel2-l1c"))}
    return [sensors[kind] for kind in _kinds(images)]


def _rows(root: Path, split: Split) -> Iterator[dict[str, str]]:
    table = next((path for name in _TABLES[split] if (path := root / "fmow-sentinel" / name).is_file()), None)
    if table is None:
        if split == "val":  # drawn from training
            return
        raise ManifestError(f"'{root}' has no 'fmow-sentinel/{_TABLES[split][0]}'. It wants: {_WANTED}")
    with table.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        for name in _COLUMNS:
            if name not in (reader.fieldnames or ()):
                raise ManifestError(
                    f"'{table}' has no column '{name}' (it has {', '.join(reader.fieldnames or ())})"
                    f"{nearest_name(name, reader.fieldnames or ())}"
                )
        yield from reader


def _number(row: Mapping[str, str], split: Split) -> int:
    try:
        return int(row["image_id"])
    except ValueError:
        raise ManifestError(f"the table of {split} has the image_id '{row['image_id']}', which is no number") from None


def _sample(root: Path, split: Split, row: Mapping[str, str], sensors: Mapping[str, Sensor]) -> ListedSample:
    category, location = row["category"], f"{row['category']}_{row['location_id']}"
    folder = Path("test_gt" if split == "test" else split) / category / location
    stem, time = f"{location}_{row['image_id']}", _time(row["timestamp"])
    files = {
        "rgb": root / "fmow-rgb" / folder / f"{stem}_rgb.jpg",
        "s2": root / "fmow-sentinel" / folder / f"{stem}.tif",
    }
    images = (replace(known_entry(stem, files[kind], sensor), datetime=time) for kind, sensor in sensors.items())
    return ListedSample(name=stem, images=tuple(images), label=(category,), split=split, place=location)


def _time(text: str) -> dt.datetime | None:
    """Read the middle of the 90 days that a composite is made of."""
    try:
        found = dt.datetime.fromisoformat(text)
    except ValueError:
        return None
    return (found if found.tzinfo else found.replace(tzinfo=dt.UTC)).astimezone(dt.UTC)
