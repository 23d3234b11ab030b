"""What training on a pair of Sentinel-2 (12 bands) and Sentinel-1 (2 bands) takes, as torch counts it on a CPU."""

from functools import partial

import torch
from torch import Tensor

from anyband.models.autoencoder import Autoencoder, AutoencoderConfig
from anyband.models.inputs import ImageBatch, SetBatch, SetNoise
from anyband.models.vit import configure_blocks
from anyband.pretraining.cost import count_flops, count_kept_bytes

BANDS = (12, 2)


def pair_flops(config: AutoencoderConfig) -> float:
    """Count the operations of training on a pair."""
    model = Autoencoder(config, seed=0)
    configure_blocks(model, fused=False)
    return count_flops(partial(_loss, model, config, 1))


def pair_bytes(config: AutoencoderConfig) -> int:
    """Count what a pair more in a batch keeps for the gradient, in bf16."""
    model = Autoencoder(config, seed=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        one, two = (count_kept_bytes(partial(_loss, model, config, count), model) for count in (1, 2))
    return two - one


def _loss(model: torch.nn.Module, config: AutoencoderConfig, count: int) -> Tensor:
    side = config.encoder.img_size
    rows = cols = side // config.encoder.patch_size
    a, b = (
        ImageBatch(pixels=torch.randn(count, bands, side, side), mixing=torch.eye(config.encoder.num_ranges)[:bands])
        for bands in BANDS
    )
    noise = SetNoise(mixup=torch.rand(count, rows * cols), masking=torch.rand(count, 2, rows * cols))
    terms: Tensor = model(SetBatch(groups=(a, b)), noise).terms
    return terms.mean()
