"""What is known of an image, and what an encoder returns."""

import datetime as dt
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from anyband.arrays import Array, Bool, Float, Shaped
from anyband.errors import GeometryError, InputError, counted
from anyband.models.encodings import corner_bits
from anyband.models.inputs import SetMetadata
from anyband.models.vit import EncoderConfig
from anyband.sensors.sensor import BandStatistics, Sensor

__all__ = [
    "METADATA",
    "Corners",
    "EncodeOptions",
    "Features",
    "ImageArray",
    "ImageMetadata",
    "Pool",
    "Precision",
    "SetImage",
    "check_one_footprint",
    "checked_all",
    "checked_metadata",
    "fitted",
    "hide_metadata",
    "metadata_of_tiles",
    "network_metadata",
    "resized_gsd_m",
    "same_features",
    "set_metadata",
]

Precision = Literal["float32", "bf16"]
Pool = Literal["cls", "mean"]
Corners = Sequence[Sequence[float | int]] | Array
"""Four (longitude, latitude) in degrees: upper left, upper right, lower right, lower left."""
ImageArray = Any
"""Numbers of an image: a NumPy array, whose mask is kept, a torch tensor, an xarray DataArray, or a list of such."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageMetadata:
    """Where, how finely and when an image was taken. What is not known is None, and is encoded as unknown.

    Only networks that were trained with encodings of these metadata use them.
    """

    corners_deg: Corners | None = None
    """(longitude, latitude) of the image's outer corners: upper left, upper right, lower right, lower left."""
    gsd_m: float | int | None = None
    """Ground sampling distance of the image's own pixels, metres."""
    datetime: dt.datetime | dt.date | np.datetime64 | str | None = None
    """Time of acquisition; text is ISO 8601, and UTC is meant where no zone is given."""


@dataclass(frozen=True, kw_only=True)
class EncodeOptions:
    """What is seldom changed when images are encoded."""

    img_size: int | None = None
    """Side in pixels to which whole images are resized (bicubic, anti-aliased), or of tiles, a multiple of the patch
    size; None: the checkpoint's own size where `resize` needs one."""
    resize: Literal["whole", "pad", "tiles"] | None = None
    """What becomes of images that are not as large as the network's own. `whole`: they are resized whole. `pad`: they
    keep their pixels, and missing ones fill their last patches. `tiles`: they are cut into squares of their own pixels,
    encoded one by one, and their vectors averaged; not for sets. None: images that the patch size divides stay as they
    are, others, and the images of a set that differ in size, are resized whole, and the notes say so."""
    precision: Precision = "float32"
    """float32, or bf16 for the network's arithmetic; features are float32 in both."""
    statistics: Mapping[str, BandStatistics] | str | Path | None = None
    """By band, in physical units; `"scene"` counts them from the images given; or a chip store, or a JSON or YAML file.
    None: the checkpoint's for this sensor, else the catalogue's. Of a set: where an image has none of its own."""
    batch_size: int = 64
    """Images that go through the network at once."""
    metadata: ImageMetadata | Sequence[ImageMetadata] | None = None
    """Of the image, or of each image of a batch; None: nothing is known. The images of a set have their own."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Features:
    """Features of one image, of a batch with the batch first, or of a set of images; after the final norm, float32."""

    cls: Float[Tensor, "*batch width"]
    """One vector an image, or a set: the CLS token of its sequence. Of an image inside a set, whose sequence has one
    CLS for all: the mean of the image's own patches with data; NaN where none has."""
    map: Float[Tensor, "*batch width row col"]
    """One vector a patch, of a set the mean over the images that show it; NaN for patches with under half of their
    pixels valid."""
    support: dict[str, float] = field(default_factory=dict)
    """How well the trained ranges back each band of an image, 0 to 1; 1 for bands that are exactly known."""
    notes: tuple[str, ...] = ()
    """Encoding and statistics that were used, and each band that was interpolated or dropped; of a set, what concerns
    it as a whole."""
    images: tuple["Features", ...] = ()
    """Of each image of a set, in the order given; every patch has seen the other images too."""

    @property
    def place(self) -> Float[Tensor, "*batch width"]:
        """CLS of the sequence of all images of a set."""
        return self.cls


@dataclass(frozen=True, kw_only=True, eq=False)
class SetImage:
    """One image of a set: digital numbers, what they are, and what is known of the image."""

    array: ImageArray
    """(band, row, col), as the file stores it. Images of a set show the same ground, in pixels of any size."""
    sensor: str | Sensor
    """Name in the catalogue, a YAML file, or a record."""
    bands: str | Sequence[str] | None = None
    """Of the array, in its order, also as `B02;B03`; None: those that the array names, else all of the sensor's."""
    encoding: str | None = None
    """How the numbers are stored; None: the sensor's default."""
    valid: ImageArray | None = None
    """Which pixels have data, of the array's shape or (row, col); None: all but nodata. What a mask hides, and NaN, is
    missing in both cases."""
    nodata: float | int | None = None
    """Digital number that means no data, instead of the sensor's."""
    corners_deg: Corners | None = None
    """As `ImageMetadata.corners_deg`."""
    gsd_m: float | int | None = None
    """As `ImageMetadata.gsd_m`."""
    datetime: dt.datetime | dt.date | np.datetime64 | str | None = None
    """As `ImageMetadata.datetime`."""
    statistics: Mapping[str, BandStatistics] | str | Path | None = None
    """As `EncodeOptions.statistics`; `"scene"` counts them from all images of the set that are stored alike."""

    @property
    def metadata(self) -> ImageMetadata:
        """What is known of the image."""
        return ImageMetadata(corners_deg=self.corners_deg, gsd_m=self.gsd_m, datetime=self.datetime)


METADATA = ("place", "resolution", "date")
"""What may be known of an image, each by itself."""


def set_metadata(
    corners_deg: Float[Array, "set slot 4 2"],
    gsd_m: Float[Array, "set slot"],
    time: Shaped[Array, "set slot"],
    input_gsd_m: Float[Array, "set slot"],
) -> SetMetadata:
    """Bring what is known of images to what networks take, on the CPU. What is not known is NaN there.

    Args:
        corners_deg: (longitude, latitude) of the corners of the network's input image: upper left, upper right, lower
            right, lower left; NaN where unknown, and a place is known where none is NaN.
        gsd_m: ground sampling distance of the image's own pixels; NaN where unknown.
        time: UTC as `datetime64`; NaT where unknown.
        input_gsd_m: ground sampling distance of the network's input pixels; NaN where unknown.

    Raises:
        InputError: a longitude outside ±180 or a latitude outside ±90 degrees.
    """
    known = np.isfinite(corners_deg).all(axis=(2, 3), keepdims=True)
    corners = np.where(known, corners_deg, np.nan)
    day_of_year, year = _calendar(time)
    return SetMetadata(
        corner_bits=_tensor(corner_bits(corners)),
        lonlat_deg=_tensor(_centres(corners)),
        gsd_m=_tensor(gsd_m),
        input_gsd_m=_tensor(input_gsd_m),
        day_of_year=_tensor(day_of_year),
        year=_tensor(year),
    )


def hide_metadata(metadata: SetMetadata, hidden: Bool[Tensor, "set slot 3"]) -> SetMetadata:
    """Forget metadata of some images, in the order of `METADATA`, as if they had never been known."""
    place, resolution, date = hidden.to(metadata.gsd_m.device).unbind(dim=-1)
    return replace(
        metadata,
        corner_bits=metadata.corner_bits.masked_fill(place[..., None], torch.nan),
        lonlat_deg=metadata.lonlat_deg.masked_fill(place[..., None], torch.nan),
        gsd_m=metadata.gsd_m.masked_fill(resolution, torch.nan),
        input_gsd_m=metadata.input_gsd_m.masked_fill(resolution, torch.nan),
        day_of_year=metadata.day_of_year.masked_fill(date, torch.nan),
        year=metadata.year.masked_fill(date, torch.nan),
    )


def _centres(corners_deg: Array) -> Array:
    """Find the middle of four corners. Across longitude 180° the numbers jump, the ground does not."""
    lon, lat = corners_deg[..., 0], corners_deg[..., 1]
    from_first = (lon - lon[..., :1] + 180) % 360 - 180
    middle = (lon[..., 0] + from_first.mean(axis=-1) + 180) % 360 - 180
    return np.stack([middle, lat.mean(axis=-1)], axis=-1)


def _calendar(time: Array) -> tuple[Array, Array]:
    """Tell the days since the year began, from 0, and the year."""
    moment = time.astype("datetime64[us]")
    began = moment.astype("datetime64[Y]")
    days = (moment - began.astype("datetime64[us]")) / np.timedelta64(1, "D")
    year = np.where(np.isnat(moment), np.nan, began.astype(np.int64) + 1970.0)
    return days, year


def _tensor(values: Array) -> Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


# chosen: images that share less of their ground would put different places under one patch.
_LEAST_SHARED = 0.5


def checked_metadata(metadata: ImageMetadata | None, *, name: str) -> ImageMetadata:
    """Check what a user says of an image; it becomes an array, a float and a UTC time in microseconds, NaN and NaT
    where nothing is known. `InputError` where corners are no longitudes and latitudes, a ground sampling
    distance is 0 or less, or a date doesn't parse or lies in the future."""
    one = metadata or ImageMetadata()
    try:
        return ImageMetadata(
            corners_deg=_corners(one.corners_deg), gsd_m=_gsd_m(one.gsd_m), datetime=_time(one.datetime)
        )
    except InputError as problem:
        raise InputError(f"{name}: {problem}") from problem


def network_metadata(metadata: Sequence[Sequence[ImageMetadata]], input_gsd_m: Float[Array, "set slot"]) -> SetMetadata:
    """Bring what is known of sets of equally many images to what networks take; NaN where unknown."""
    names = ("corners_deg", "gsd_m", "datetime")
    columns = (np.array([[getattr(one, name) for one in images] for images in metadata]) for name in names)
    corners_deg, gsd_m, time = columns
    return set_metadata(corners_deg, gsd_m, time, input_gsd_m)


def check_one_footprint(metadata: Sequence[ImageMetadata], names: Sequence[str]) -> None:
    """See that images whose corners are known show one piece of ground: each at least half of each other's.
    `GeometryError` names two that do not."""
    corners = [np.asarray(one.corners_deg, dtype=np.float64) for one in metadata]
    placed = [(one, name) for one, name in zip(corners, names, strict=True) if not np.isnan(one).any()]
    if len(placed) < 2:
        return
    first, first_name = placed[0]
    for other, name in placed[1:]:
        shared = _shared_area(first, other)
        if shared < _LEAST_SHARED:
            raise GeometryError(
                f"images of a set must show the same ground, but {first_name} and {name} share {shared:.0%} of the "
                f"larger one: {first_name} lies at {_extent(first)}, {name} at {_extent(other)}; cut both to what they "
                "share, or encode them apart"
            )


def _corners(corners: Any) -> Float[Array, "4 2"]:
    if corners is None:
        return np.full((4, 2), np.nan)
    found = np.asarray(corners, dtype=np.float64)
    if found.shape != (4, 2):
        raise InputError(
            f"corners_deg has shape {found.shape}; give four (longitude, latitude): upper left, upper right, "
            "lower right, lower left"
        )
    for what, values, limit in (("longitude", found[:, 0], 180), ("latitude", found[:, 1], 90)):
        wrong = values[~(np.abs(values) <= limit)]
        if len(wrong):
            raise InputError(
                f"{what} {wrong[0]:g} is not from -{limit} to {limit} degrees; corners_deg holds (longitude, latitude)"
            )
    if not _polygon(found, about_deg=found[0, 0]).is_valid:
        raise InputError(
            f"corners_deg ({_extent(found)}) enclose no ground, or their edges cross; give them in the order upper "
            "left, upper right, lower right, lower left"
        )
    return found


def _gsd_m(gsd_m: float | int | None) -> float:
    if gsd_m is None:
        return float("nan")
    if not (np.isfinite(gsd_m) and gsd_m > 0):
        raise InputError(f"gsd_m is {gsd_m:g}; it must be a number of metres over 0; leave it out if it is unknown")
    return float(gsd_m)


def _time(time: Any) -> np.datetime64:
    if time is None or (isinstance(time, np.datetime64) and np.isnat(time)):
        return np.datetime64("NaT", "us")
    found = _parsed(time)
    now = dt.datetime.now(dt.UTC)
    if found > now:
        raise InputError(f"datetime {found:%Y-%m-%dT%H:%M:%SZ} lies in the future (now is {now:%Y-%m-%dT%H:%M:%SZ})")
    return np.datetime64(found.replace(tzinfo=None), "us")


def _parsed(time: Any) -> dt.datetime:
    if isinstance(time, dt.date) and not isinstance(time, dt.datetime):
        time = dt.datetime(time.year, time.month, time.day)
    if not isinstance(time, dt.datetime):
        # NumPy writes nanoseconds, which Python does not read.
        text = str(time.astype("datetime64[us]") if isinstance(time, np.datetime64) else time).strip()
        try:
            time = dt.datetime.fromisoformat(text)
        except ValueError as problem:
            raise InputError(f"datetime '{text}' is not ISO 8601, such as 2020-07-01T10:30:00Z") from problem
    found: dt.datetime = time
    try:
        return found.replace(tzinfo=dt.UTC) if found.tzinfo is None else found.astimezone(dt.UTC)
    except OverflowError as problem:
        raise InputError(f"datetime '{time}' is before year 1 or after year 9999 in UTC") from problem


def _shared_area(a: Array, b: Array) -> float:
    """Compute the area that two footprints share, over the larger one's."""
    # Degrees of one latitude compare with each other; footprints are small.
    first, second = (_polygon(one, about_deg=float(a[0, 0])) for one in (a, b))
    return float(first.intersection(second).area / max(first.area, second.area))


def _polygon(corners: Array, *, about_deg: float) -> Any:
    # Late: sets of a chip store need no geographic library.
    import shapely

    # Across longitude 180° the numbers jump, the ground does not.
    longitude = (corners[:, 0] - about_deg + 180) % 360 - 180
    return shapely.Polygon(np.stack([longitude, corners[:, 1]], axis=1))


def _extent(corners: Array) -> str:
    (west, south), (east, north) = corners.min(axis=0), corners.max(axis=0)
    return f"longitude {west:.4f} to {east:.4f}, latitude {south:.4f} to {north:.4f}"


def fitted(
    config: EncoderConfig, shapes: Sequence[tuple[int, int]], options: EncodeOptions, *, is_set: bool = False
) -> tuple[int | None, tuple[int, int] | None, tuple[str, ...]]:
    """Choose how images meet the network: the side to which they are resized, or the edges of the tiles that they
    are filled up to, or neither; and say what was chosen by default."""
    patch, how, requested = config.patch_size, options.resize, options.img_size
    height, width = shapes[0]
    if how not in (None, "whole", "pad", "tiles"):
        raise InputError(f"resize must be 'whole', 'pad' or 'tiles', found '{how}'")
    if requested is not None and (requested < patch or requested % patch):
        raise InputError(f"img_size {requested} is not a multiple of the patch size {patch}")
    if how == "tiles" and not is_set:
        edge = requested or config.img_size
        return None, (edge, edge), ()
    if how in ("pad", "tiles"):
        if how == "tiles" or len(set(shapes)) > 1 or requested is not None:
            raise InputError(
                "resize='pad' keeps the pixels of images, so it goes with no img_size, and the images of a set "
                "have one size; use 'whole', or `anyband embed` with a list, which makes tiles of sets"
            )
        return None, (-(-height // patch) * patch, -(-width // patch) * patch), ()
    if all(min(shape) < patch for shape in shapes):
        raise InputError(
            f"images of {height} × {width} pixels are smaller than one patch of {patch} × {patch}; "
            "use larger images, or resize='pad'"
        )
    uneven = len(set(shapes)) > 1 or height % patch or width % patch
    if requested is not None or (how is None and not uneven):
        return requested, None, ()
    own = config.img_size
    sizes = ", ".join(f"{rows} × {cols}" for rows, cols in dict.fromkeys(shapes))
    note = (
        f"images of {sizes} pixels were resized to {own} × {own}, the size of the network; "
        "EncodeOptions(resize='pad') or 'tiles' keeps their pixels, 'whole' says that this is meant"
    )
    return own, None, () if how == "whole" else (note,)


def metadata_of_tiles(
    metadata: ImageMetadata, shape: tuple[int, int], tile: tuple[int, int], grid: tuple[int, int]
) -> list[ImageMetadata]:
    """Give the tiles of an image what is known of it, each with its own corners."""
    edges = [np.arange(count + 1) * edge / side for count, edge, side in zip(grid, tile, shape, strict=True)]
    parts = [(top, bottom, left, right) for top, bottom in pairwise(edges[0]) for left, right in pairwise(edges[1])]
    corners = np.asarray(metadata.corners_deg, dtype=np.float64)
    # Across longitude 180° the numbers jump, the ground does not.
    near = np.stack([(corners[:, 0] - corners[0, 0] + 180) % 360 - 180, corners[:, 1]], axis=1)
    found = []
    for top, bottom, left, right in parts:
        at = np.array([(top, left), (top, right), (bottom, right), (bottom, left)])
        down, along = at[:, :1], at[:, 1:]
        upper, lower = near[0] + along * (near[1] - near[0]), near[3] + along * (near[2] - near[3])
        lon, lat = (upper + down * (lower - upper)).T
        own = np.stack([(lon + corners[0, 0] + 180) % 360 - 180, np.clip(lat, -90, 90)], axis=1)
        found.append(replace(metadata, corners_deg=own))
    return found


def checked_all(metadata: ImageMetadata | Sequence[ImageMetadata] | None, count: int) -> list[ImageMetadata]:
    """Check what is known of the images of a batch; empty where nothing is."""
    if metadata is None:
        return []
    given = [metadata] if isinstance(metadata, ImageMetadata) else metadata
    if len(given) != count:
        raise InputError(f"'metadata' is of {counted(len(given), 'image')}, the array holds {count}; give one for each")
    return [checked_metadata(one, name=f"image {position}") for position, one in enumerate(given)]


def resized_gsd_m(
    metadata: Sequence[Sequence[ImageMetadata]], shapes: Sequence[tuple[int, int]], img_size: int | None
) -> Float[Array, "set slot"]:
    """Compute how large the network's pixels are on the ground, metres, when images are resized whole."""
    gsd_m = np.array([[one.gsd_m for one in images] for images in metadata])
    sides = np.array([math.sqrt(height * width) for height, width in shapes])
    return gsd_m if img_size is None else gsd_m * sides / img_size


def same_features(features: Float[Tensor, "sample ..."], *, what: str = "images") -> tuple[str, ...]:
    """Say it where several samples have the same features, but for rounding."""
    if len(features) < 2 or not all(torch.allclose(one, features[0], rtol=1e-4, atol=1e-5) for one in features[1:]):
        return ()
    return (
        f"the features of all {len(features)} {what} are equal: unless these are the same, the network sees one number "
        "everywhere; check the encoding and the statistics",
    )
