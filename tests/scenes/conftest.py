"""A small place with images of two sensors, and a network of sets that never learned anything."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from small_networks import INFORMED, small_checkpoint

from anyband.data.manifest import ImageEntry, parse_entry
from anyband.encode.complete import SetCompleter
from anyband.models.autoencoder import Autoencoder, AutoencoderConfig
from anyband.models.checkpoint import Checkpoint, state_of
from anyband.models.inputs import SetBatch
from anyband.rasters.grid import Grid
from anyband.rasters.writer import write_geotiff
from anyband.sensors.ranges import load_ranges

BANDS = ("B02", "B03", "B04")


@pytest.fixture(scope="session")
def set_config() -> AutoencoderConfig:
    """Images of 32² pixels, patches of 8², with everything that the unified recipes have."""
    return small_checkpoint(encodings=INFORMED, images="set", levels=True).config


@pytest.fixture(scope="session")
def set_checkpoint(set_config: AutoencoderConfig) -> Checkpoint:
    """First weights, as a checkpoint."""
    return Checkpoint(
        config=set_config,
        state=state_of(Autoencoder(set_config, seed=1)),
        ranges=load_ranges("smarties_v1"),
        recipe={"data": {"sets": {"size": [1, 4]}}, "model": {"hidden_image": 0.25}},
    )


@pytest.fixture
def completer(set_checkpoint: Checkpoint) -> SetCompleter:
    """A network with first weights."""
    return SetCompleter(set_checkpoint).eval()


@pytest.fixture
def oracle(completer: SetCompleter, monkeypatch: pytest.MonkeyPatch) -> SetCompleter:
    """A network that knows the answer of a place where nothing changes: what another image with its bands shows."""

    def complete(batch: SetBatch, masked: torch.Tensor) -> tuple[torch.Tensor, ...]:
        target = batch.groups[-1].pixels
        same = next(group.pixels for group in batch.groups if group.pixels.shape == target.shape)
        hidden = masked[:, -1].view(-1, 1, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
        return (*(group.pixels for group in batch.groups[:-1]), torch.where(hidden, same, target))

    monkeypatch.setattr(completer.model, "complete", complete)
    return completer


@dataclass(frozen=True, kw_only=True)
class Place:
    """Images of one ground, each written when it is asked for."""

    folder: Path
    """Where they are."""
    truth: np.ndarray
    """What Sentinel-2 stores, on every date."""

    def optical(self, date: str, *, pixels: np.ndarray | None = None, name: str | None = None) -> ImageEntry:
        """Write Sentinel-2, 10 m, uint16."""
        path = self.folder / f"{name or 's2_' + date}.tif"
        stored = self.truth if pixels is None else pixels
        write_geotiff(path, stored, grid=self.grid(stored.shape[1:], 10.0), descriptions=BANDS, nodata=0.0)
        row = {"path": path.name, "sensor": "sentinel2-l2a", "bands": ";".join(BANDS), "datetime": date}
        return parse_entry(row, folder=self.folder)

    def radar(self, date: str, *, height: int | None = None) -> ImageEntry:
        """Write Sentinel-1, 20 m, decibels; of the upper rows alone where `height` says so."""
        path = self.folder / f"s1_{date}.tif"
        shape = (2, height or self.truth.shape[1] // 2, self.truth.shape[2] // 2)
        decibel = np.random.default_rng(1).uniform(-20, -5, shape).astype(np.float32)
        write_geotiff(path, decibel, grid=self.grid(shape[1:], 20.0), descriptions=("VV", "VH"))
        return parse_entry({"path": path.name, "sensor": "sentinel1-grd", "datetime": date}, folder=self.folder)

    def clouds(self, cloudy: np.ndarray) -> Path:
        """Write a mask on Sentinel-2's grid."""
        path = self.folder / "clouds.tif"
        grid = self.grid(cloudy.shape, 10.0)
        write_geotiff(path, cloudy[None].astype(np.uint8), grid=grid, descriptions=("clouds",))
        return path

    def grid(self, shape: tuple[int, ...], gsd_m: float) -> Grid:
        """Make the grid of this ground."""
        transform = (gsd_m, 0.0, 399960.0, 0.0, -gsd_m, 5700000.0)
        return Grid(height=shape[0], width=shape[1], transform=transform, crs="EPSG:32632", gsd_m=gsd_m)


@pytest.fixture
def make_place(tmp_path: Path) -> Callable[..., Place]:
    """Make a place of so many pixels; its values lie where normalisation does not clip them."""

    def make(height: int = 32, width: int = 32) -> Place:
        draw = np.random.default_rng(0)
        smooth = np.cumsum(np.cumsum(draw.normal(size=(3, height, width)), axis=1), axis=2)
        span = np.abs(smooth).max(axis=(1, 2), keepdims=True)
        return Place(folder=tmp_path, truth=(1000 + 300 * smooth / span).astype(np.uint16))

    return make
