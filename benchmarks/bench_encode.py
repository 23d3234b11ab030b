"""Encoding: what many bands cost, and what bf16 brings.

    python benchmarks/bench_encode.py [--size base] [--images 8] [--repeats 5]

- bands: network input of 12 and of 224 bands through one encoder with the 17 published ranges, in turn. The bands of
  the second are 224 narrow ones between 450 and 2200 nm, each read as `anyband sensors` says of a band that is not
  trained.
- precision: `encode_batch` in float32 and in bf16, in turn, with the norm of the difference of the CLS tokens over
  the norm of those in float32. On a processor without bf16 arithmetic torch emulates it, and bf16 is slower; one
  image is then encoded once, for the difference alone.
"""

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from measure import circumstances, report, time_in_turn

from anyband.encode.encoder import SensorEncoder
from anyband.models.autoencoder import Autoencoder, AutoencoderConfig
from anyband.models.checkpoint import Checkpoint, state_of
from anyband.models.inputs import ImageBatch
from anyband.models.vit import SIZES, EncoderConfig
from anyband.sensors.assignment import assign
from anyband.sensors.catalogue import get_sensor
from anyband.sensors.ranges import load_ranges
from anyband.training.steps import has_bf16

_IMG_SIZE = 224
_NARROW_NM = (450.0, 2200.0)


def _narrow_mixing(num_bands: int) -> torch.Tensor:
    """Mix each narrow band of the two trained centres that bracket it, linear in log-wavelength."""
    table = load_ranges("smarties_v1")
    sentinel2 = assign(get_sensor("sentinel2-l2a"), table)
    centres = np.array([band.spectrum.center_nm for band in get_sensor("sentinel2-l2a").bands])
    order = np.argsort(centres)
    wanted = np.geomspace(*_NARROW_NM, num_bands)
    rows = np.asarray(sentinel2.mixing)[order]
    at = np.interp(np.log(wanted), np.log(centres[order]), np.arange(len(order)))
    low = np.minimum(at.astype(int), len(order) - 2)
    share = (at - low)[:, None]
    return torch.from_numpy((1 - share) * rows[low] + share * rows[low + 1]).float()


def _images(mixing: torch.Tensor, count: int) -> ImageBatch:
    noise = torch.Generator().manual_seed(len(mixing))
    return ImageBatch(pixels=torch.randn(count, len(mixing), _IMG_SIZE, _IMG_SIZE, generator=noise), mixing=mixing)


def _encoder(size: str) -> SensorEncoder:
    table = load_ranges("smarties_v1")
    config = AutoencoderConfig(encoder=EncoderConfig(img_size=_IMG_SIZE, num_ranges=len(table.ranges), **SIZES[size]))
    return SensorEncoder(Checkpoint(config=config, state=state_of(Autoencoder(config, seed=0)), ranges=table)).eval()


def _band_rows(encoder: SensorEncoder, count: int, repeats: int) -> list[dict[str, Any]]:
    sentinel2 = torch.from_numpy(np.asarray(assign(get_sensor("sentinel2-l2a"), load_ranges("smarties_v1")).mixing))
    batches = {"12 bands": _images(sentinel2.float(), count), "224 bands": _images(_narrow_mixing(224), count)}
    ways: dict[str, Callable[[], object]] = {
        name: partial(encoder.encode_batch, batch) for name, batch in batches.items()
    }
    timings = time_in_turn(ways, repeats=repeats)
    return [
        {
            "what": name,
            "precision": "float32",
            "images/s": count / timing.median_s,
            "spread": timing.spread,
            "time, times the first": timing.median_s / timings["12 bands"].median_s,
            "relative difference": 0.0,
        }
        for name, timing in timings.items()
    ]


def _precision_rows(encoder: SensorEncoder, count: int, repeats: int) -> list[dict[str, Any]]:
    sentinel2 = torch.from_numpy(np.asarray(assign(get_sensor("sentinel2-l2a"), load_ranges("smarties_v1")).mixing))
    batch = _images(sentinel2.float(), count)
    exact, rounded = (encoder.encode_batch(batch, precision=one).cls for one in ("float32", "bf16"))
    difference = float((exact - rounded).norm() / exact.norm())
    timings = time_in_turn(
        {
            "float32": lambda: encoder.encode_batch(batch, precision="float32"),
            "bf16": lambda: encoder.encode_batch(batch, precision="bf16"),
        },
        repeats=repeats,
    )
    return [
        {
            "what": "12 bands",
            "precision": name,
            "images/s": count / timing.median_s,
            "spread": timing.spread,
            "time, times the first": timing.median_s / timings["float32"].median_s,
            "relative difference": difference if name == "bf16" else 0.0,
        }
        for name, timing in timings.items()
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["tiny", "small", "base", "large"], default="base")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    encoder = _encoder(arguments.size)
    rows = _band_rows(encoder, arguments.images, arguments.repeats)
    measured = (arguments.images, arguments.repeats) if has_bf16(torch.device("cpu")) else (1, 1)
    rows += _precision_rows(encoder, *measured)
    settings = {
        "size": arguments.size,
        "images": arguments.images,
        "repeats": arguments.repeats,
        "threads": torch.get_num_threads(),
        "processor_has_bf16": has_bf16(torch.device("cpu")),
    }
    report("bench_encode", rows, {**circumstances(("torch", "timm")), "settings": settings})


if __name__ == "__main__":
    main()
