"""Functional Map of the World: pictures of Maxar satellites beside Sentinel-2 of the same place and time."""

import csv
import datetime as dt
from collections.abc import Iterator, Mapping
from pathlib import Path

from anyband.data.store import Split
from anyband.errors import ManifestError, nearest_name
from anyband.labelled.published.found import (
    FoundSample,
    FoundSet,
    check_options,
    chosen_option,
    declared_slots,
    found_data,
    known_root,
)
from anyband.labelled.samples import DataSpec, TaskData
from anyband.rasters.reader import RasterSource
from anyband.sensors.catalogue import find_bands, get_sensor
from anyband.sensors.sensor import Sensor

__all__ = ["open_fmow_pairs"]

# Source: metadata page of fMoW-Sentinel (SatMAE, Cong et al. 2022): 13 bands by wavelength, so B8A follows B08; its
# files of parts; images with a number under 100 are of the time of the fMoW picture with that number.
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
    "<part>/<category>/<category>_<location>/<category>_<location>_<image>.tif, and fmow-rgb/ with the same folders "
    "and …_<image>_rgb.jpg"
)


def open_fmow_pairs(spec: DataSpec, *, seed: int) -> TaskData:
    """Open pairs of a picture and a Sentinel-2 image; the class is the category of the place.

    Images without a picture, and pairs of which a file is missing, are left out; their number is noted.

    Args:
        spec: `root` holds `fmow-sentinel` and `fmow-rgb`; options `images` (all, rgb, s2) and `absent` (refuse,
            leave_out) for lists that name what is not there.
        seed: of the validation part, where its table is missing.

    Raises:
        ManifestError: the folder is not as it should be.
    """
    check_options(spec, ("images", "absent"))
    root = known_root(spec, wanted=_WANTED)
    images = chosen_option(spec, "images", ("all", "rgb", "s2"))
    rows = [(part, row) for part in _TABLES for row in _rows(root, part)]
    paired = [(part, row) for part, row in rows if _number(row, part) < _FIRST_WITHOUT_PICTURE]
    samples = [_sample(root, part, row, images) for part, row in paired]
    there = [one for one in samples if all(path.is_file() for source in one.sources for path in source.paths)]
    if not there:
        raise ManifestError(f"'{root}' has none of the {len(samples)} pairs that its tables name. It wants: {_WANTED}")
    about = FoundSet(
        kind="class",
        classes=tuple(sorted({one.labels[0] for one in there})),
        sensors=declared_slots(_sensors(images), spec, name=spec.source),
        lists=spec.split.lists,
        notes=_notes(len(samples) - len(there)),
    )
    return found_data(spec, there, about, seed=seed)


def _sensors(images: str) -> list[Sensor]:
    sensors = {"rgb": get_sensor("maxar-rgb"), "s2": find_bands(_BANDS, get_sensor("sentinel2-l1c"))}
    return list(sensors.values()) if images == "all" else [sensors[images]]


def _rows(root: Path, part: Split) -> Iterator[dict[str, str]]:
    table = next((path for name in _TABLES[part] if (path := root / "fmow-sentinel" / name).is_file()), None)
    if table is None:
        if part == "val":  # drawn from training
            return
        raise ManifestError(f"'{root}' has no 'fmow-sentinel/{_TABLES[part][0]}'. It wants: {_WANTED}")
    with table.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        for name in _COLUMNS:
            if name not in (reader.fieldnames or ()):
                raise ManifestError(
                    f"'{table}' has no column '{name}' (it has {', '.join(reader.fieldnames or ())})"
                    f"{nearest_name(name, reader.fieldnames or ())}"
                )
        yield from reader


def _number(row: Mapping[str, str], part: Split) -> int:
    try:
        return int(row["image_id"])
    except ValueError:
        raise ManifestError(f"the table of {part} has the image_id '{row['image_id']}', which is no number") from None


def _sample(root: Path, part: Split, row: Mapping[str, str], images: str) -> FoundSample:
    category, location = row["category"], f"{row['category']}_{row['location_id']}"
    folder = Path("test_gt" if part == "test" else part) / category / location
    stem = f"{location}_{row['image_id']}"
    files = {
        "rgb": root / "fmow-rgb" / folder / f"{stem}_rgb.jpg",
        "s2": root / "fmow-sentinel" / folder / f"{stem}.tif",
    }
    chosen = list(files.values()) if images == "all" else [files[images]]
    return FoundSample(
        name=stem,
        sources=tuple(RasterSource(paths=(path,)) for path in chosen),
        labels=(category,),
        part=part,
        place=location,
        datetime=_time(row["timestamp"]),
    )


def _time(text: str) -> dt.datetime | None:
    """Read the middle of the 90 days that a composite is made of."""
    try:
        found = dt.datetime.fromisoformat(text)
    except ValueError:
        return None
    return (found if found.tzinfo else found.replace(tzinfo=dt.UTC)).astimezone(dt.UTC)


def _notes(missing: int) -> tuple[str, ...]:
    notes = ["Sentinel-2 images are composites of 90 days around the time of the picture"]
    if missing:
        notes.append(f"{missing} pairs have no files in the folder and are left out")
    return tuple(notes)
