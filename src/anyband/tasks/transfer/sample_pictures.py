"""Pictures of samples for reports: natural colour where a sensor sees it, never larger than a screen needs."""

import numpy as np
import torch

from anyband.data.harmonise import normalisation_for, to_physical
from anyband.data.pictures import composite, picture
from anyband.data.supervised.records import SampleImage
from anyband.sensors.sensor import BandStatistics
from anyband.shapes import Array, Float, Shaped

__all__ = ["picture_title", "sample_picture", "thinned"]

_LONGEST_PX = 384
# Physical values are drawn, so that no statistics are needed.
_ANY = BandStatistics(p01=0.0, p99=1.0, mean=0.0, std=1.0)


def sample_picture(image: SampleImage) -> Float[Array, "3 row col"]:
    """Draw an image in the bands that its sensor's composite chooses; NaN where a shown band has no data."""
    decoding = normalisation_for(image.sensor, statistics=dict.fromkeys(image.sensor.band_names, _ANY))
    numbers = np.ascontiguousarray(thinned(image.dn)).astype(np.float64)
    physical = to_physical(torch.from_numpy(numbers), decoding).numpy()
    colours = picture(physical, image.sensor, valid=thinned(image.valid), missing_grey=float("nan"))
    return np.moveaxis(colours, -1, 0).astype(np.float32)


def picture_title(image: SampleImage) -> str:
    """Say what a picture shows, in two lines: sensor and date, and the bands."""
    when = f" {image.datetime:%Y-%m-%d}" if image.datetime else ""
    return f"{image.sensor.name}{when}\n{composite(image.sensor).title}"


def thinned(array: Shaped[Array, "*plane row col"]) -> Shaped[Array, "*plane y x"]:
    """Keep every so many pixels, so that the longer side fits a picture."""
    step = max(1, -(-max(array.shape[-2:]) // _LONGEST_PX))
    return array[..., ::step, ::step]
