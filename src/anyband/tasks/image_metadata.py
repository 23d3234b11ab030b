"""What users say of where, how finely and when images were taken: checked, and as arrays."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from anyband.errors import GeometryError, InputError
from anyband.models.inputs import SetMetadata
from anyband.shapes import Array, Float
from anyband.tasks.feature_records import ImageMetadata
from anyband.tasks.metadata import set_metadata

__all__ = ["CheckedFacts", "check_one_footprint", "checked_facts", "network_metadata"]

# chosen: images that share less of their ground would put different places under one patch.
_LEAST_SHARED = 0.5


@dataclass(frozen=True, kw_only=True, eq=False)
class CheckedFacts:
    """What is known of one image; NaN and NaT where something is not."""

    corners_deg: Float[Array, "4 2"]
    """(longitude, latitude): upper left, upper right, lower right, lower left."""
    gsd_m: float
    """Ground sampling distance of the image's own pixels, metres."""
    time: np.datetime64
    """UTC, in microseconds."""


def checked_facts(metadata: ImageMetadata | None, *, name: str) -> CheckedFacts:
    """Check what a user says of an image.

    Args:
        metadata: of the image; None: nothing is known.
        name: of the image, for messages.

    Raises:
        InputError: corners that are no longitudes and latitudes, a ground sampling distance of 0 or less, or a date
            that doesn't parse or lies in the future.
    """
    metadata = metadata or ImageMetadata()
    try:
        return CheckedFacts(
            corners_deg=_corners(metadata.corners_deg),
            gsd_m=_gsd_m(metadata.gsd_m),
            time=_time(metadata.datetime),
        )
    except InputError as problem:
        raise InputError(f"{name}: {problem}") from problem


def network_metadata(facts: Sequence[Sequence[CheckedFacts]], input_gsd_m: Float[Array, "set slot"]) -> SetMetadata:
    """Bring the facts of sets of images to what networks take.

    Args:
        facts: of each image of each set, equally many in each.
        input_gsd_m: of the network's input pixels, metres; NaN where unknown.
    """
    return set_metadata(
        np.array([[one.corners_deg for one in images] for images in facts]),
        np.array([[one.gsd_m for one in images] for images in facts]),
        np.array([[one.time for one in images] for images in facts]),
        input_gsd_m,
    )


def check_one_footprint(facts: Sequence[CheckedFacts], names: Sequence[str]) -> None:
    """See that images whose corners are known show one piece of ground: each at least half of each other's.

    Args:
        facts: of the images.
        names: of the images, for messages.

    Raises:
        GeometryError: two of them do not.
    """
    placed = [(one, name) for one, name in zip(facts, names, strict=True) if not np.isnan(one.corners_deg).any()]
    if len(placed) < 2:
        return
    first, first_name = placed[0]
    for other, name in placed[1:]:
        shared = _shared_part(first.corners_deg, other.corners_deg)
        if shared < _LEAST_SHARED:
            raise GeometryError(
                f"images of a set must show the same ground, but {first_name} and {name} share {shared:.0%} of the "
                f"larger one: {first_name} lies at {_said(first.corners_deg)}, {name} at {_said(other.corners_deg)}; "
                "cut both to what they share, or encode them apart"
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
            f"corners_deg ({_said(found)}) enclose no ground, or their edges cross; give them in the order upper left, "
            "upper right, lower right, lower left"
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


def _shared_part(a: Array, b: Array) -> float:
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


def _said(corners: Array) -> str:
    (west, south), (east, north) = corners.min(axis=0), corners.max(axis=0)
    return f"longitude {west:.4f} to {east:.4f}, latitude {south:.4f} to {north:.4f}"
