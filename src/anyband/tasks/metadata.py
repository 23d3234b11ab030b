"""From what is known of images (corners, ground resolution, time) to what networks take, unknown staying unknown."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from anyband.models.geosot import corner_bits
from anyband.models.inputs import SetMetadata
from anyband.shapes import Array, Bool, Float, Shaped

__all__ = ["FACTS", "hide_facts", "set_metadata"]

FACTS = ("place", "resolution", "date")
"""What may be known of an image, each by itself."""


def set_metadata(
    corners_deg: Float[Array, "set slot 4 2"],
    gsd_m: Float[Array, "set slot"],
    time: Shaped[Array, "set slot"],
    input_gsd_m: Float[Array, "set slot"],
) -> SetMetadata:
    """Bring what is known of images to what networks take, on the CPU. A fact that is not known is NaN there.

    A place counts as known where all its corners are.

    Args:
        corners_deg: (longitude, latitude) of the corners of the network's input image: upper left, upper right, lower
            right, lower left; NaN where unknown.
        gsd_m: ground sampling distance of the image's own pixels, metres; NaN where unknown.
        time: UTC as `datetime64`; NaT where unknown.
        input_gsd_m: ground sampling distance of the network's input pixels, metres; NaN where unknown.

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


def hide_facts(metadata: SetMetadata, hidden: Bool[Tensor, "set slot fact"]) -> SetMetadata:
    """Forget facts of some images, as if they had never been known.

    Args:
        metadata: of images.
        hidden: whether place, resolution and date of each image are forgotten, in the order of `FACTS`.
    """
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
