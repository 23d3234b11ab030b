"""Tiny networks and random pairs for the tests of models, and the oracle."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from anyband.models.autoencoder import AutoencoderConfig
from anyband.models.inputs import ImageBatch, SetBatch, SetNoise
from anyband.models.vit import DecoderConfig, EncoderConfig

NUM_RANGES = 5


@pytest.fixture(scope="session")
def oracle() -> ModuleType:
    """The plain reference implementation."""
    path = Path(__file__).resolve().parents[1] / "oracles" / "smarties_reference.py"
    spec = importlib.util.spec_from_file_location("smarties_reference", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tiny_config() -> AutoencoderConfig:
    """An architecture of a few thousand weights: 32² images, patches of 8², 16 tokens, 5 ranges."""
    encoder = EncoderConfig(img_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_ranges=NUM_RANGES)
    decoder = DecoderConfig(decoder_embed_dim=8, decoder_depth=1, decoder_num_heads=2)
    return AutoencoderConfig(encoder=encoder, decoder=decoder)


@pytest.fixture(scope="session")
def make_image() -> Callable[..., ImageBatch]:
    """Make random images with random mixing; with `missing`, most of some tokens has no data."""

    def make(
        seed: int, *, bands: int, batch: int = 2, size: tuple[int, int] = (32, 32), missing: bool = False
    ) -> ImageBatch:
        draw = torch.Generator().manual_seed(seed)
        pixels = torch.randn(batch, bands, *size, generator=draw)
        mixing = torch.rand(bands, NUM_RANGES, generator=draw)
        mixing = torch.where(torch.rand(mixing.shape, generator=draw) < 0.5, 0.0, mixing)
        mixing[:, 0] += 0.1
        mixing = mixing / mixing.sum(dim=1, keepdim=True)
        if not missing:
            return ImageBatch(pixels=pixels, valid=None, mixing=mixing)
        valid = torch.rand(pixels.shape, generator=draw) > 0.1
        holes = torch.rand(batch, 1, size[0] // 8, size[1] // 8, generator=draw) < 0.3
        holes = holes.repeat_interleave(8, 2).repeat_interleave(8, 3)
        valid &= ~holes | (torch.rand(pixels.shape, generator=draw) < 0.2)
        return ImageBatch(pixels=torch.where(valid, pixels, 0.0), valid=valid, mixing=mixing)

    return make


@pytest.fixture(scope="session")
def make_pair(make_image: Callable[..., ImageBatch]) -> Callable[..., tuple[SetBatch, SetNoise]]:
    """Make a random pair and its noise."""

    def make(
        seed: int, *, bands: tuple[int, int] = (3, 2), batch: int = 2, missing: bool = False
    ) -> tuple[SetBatch, SetNoise]:
        a = make_image(seed, bands=bands[0], batch=batch, missing=missing)
        b = make_image(seed + 1000, bands=bands[1], batch=batch, missing=missing)
        draw = torch.Generator().manual_seed(seed + 2000)
        mixup, masking = torch.rand(batch, 16, generator=draw), torch.rand(batch, 16, generator=draw)
        return SetBatch(groups=(a, b)), SetNoise(mixup=mixup, masking=masking[:, None].expand(-1, 2, -1))

    return make
