"""A small network learns one batch of sets: it puts what it knows where it belongs, in each image."""

from dataclasses import replace

import torch
from einops import repeat
from torch import Tensor

from anyband.models.autoencoder import Autoencoder
from anyband.models.encodings import EncodingConfig
from anyband.models.inputs import ImageBatch, SetBatch, SetMetadata, SetNoise
from anyband.models.patches import patchify

STEPS = 300


def _images(seed: int, bands: int) -> ImageBatch:
    """Patches of one colour each, another in every image, with little noise."""
    draw = torch.Generator().manual_seed(seed)
    colours = torch.randn(2, bands, 4, 4, generator=draw)
    pixels = repeat(colours, "n c h w -> n c (h p) (w q)", p=8, q=8)
    pixels = pixels + 0.05 * torch.randn(pixels.shape, generator=draw)
    return ImageBatch(pixels=pixels, mixing=torch.eye(5)[:bands])


def _batch() -> SetBatch:
    metadata = SetMetadata.unknown(2, 2)
    metadata.day_of_year[:] = torch.tensor([[10.0, 200.0], [50.0, 300.0]])
    metadata.year[:] = 2020.0
    return SetBatch(
        groups=(_images(1, 3), _images(2, 2)),
        rows=torch.tensor([[0, 2], [1, 3]]),
        same_source=torch.tensor([[True, False], [True, False]]),
        first_slot=torch.zeros(2, dtype=torch.int64),
        metadata=metadata,
        partnered=True,
    )


def _noise(step: int) -> SetNoise:
    draw = torch.Generator().manual_seed(step)
    masking, tying = torch.rand(2, 2, 2, 16, generator=draw)
    return SetNoise(masking=masking, tying=tying, mixup=torch.rand(2, 16, generator=draw))


def _band_means(images: Tensor) -> Tensor:
    return patchify(images, 8).unflatten(-1, (images.shape[1], -1)).mean(-1)


def test_masked_patches_get_their_own_colour_back(tiny_config):
    encoder = replace(tiny_config.encoder, embed_dim=32, encodings=EncodingConfig(date=True, source=True))
    decoder = replace(tiny_config.decoder, decoder_embed_dim=32)
    config = replace(tiny_config, encoder=encoder, decoder=decoder, images="set", sequence="apart", levels=True)
    model, batch = Autoencoder(config, seed=0), _batch()
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-3, betas=(0.9, 0.95))
    for step in range(STEPS):
        model(batch, _noise(step)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        images, plan = model.reconstruct(batch, _noise(STEPS))
    masked = plan.masked.flatten(0, 1)[torch.argsort(batch.rows.flatten())].split([2, 2])
    for group, image, hidden in zip(batch.groups, images, masked, strict=True):
        target, predicted = (_band_means(one) for one in (group.pixels, image))
        error = (predicted - target)[hidden].square().mean()
        spread = (target - target.mean(dim=1, keepdim=True))[hidden].square().mean()
        # What knows the mean of each image and not the places in it has an error of the whole spread.
        assert error < 0.5 * spread
