"""The network against the plain per-band implementation: outputs, losses and gradients."""

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from anyband.encode.verify import follow_pairs
from anyband.models.autoencoder import Autoencoder, AutoencoderConfig
from anyband.models.checkpoint import to_published
from anyband.models.inputs import ImageBatch
from anyband.models.masking import SetPlan


def _reference(oracle: ModuleType, model: Autoencoder) -> Any:
    config = model.config
    return oracle.Reference(
        to_published(model.state_dict()),
        num_heads=config.encoder.num_heads,
        decoder_num_heads=config.decoder.decoder_num_heads,
        patch_size=config.encoder.patch_size,
        norm_pix_loss=config.norm_pix_loss,
        repeated=config.target_variance == "repeated",
    )


def _image(oracle: ModuleType, image: ImageBatch) -> Any:
    return oracle.Image(pixels=image.pixels, valid=image.valid, mixing=image.mixing)


def _planned(config: AutoencoderConfig, plan: SetPlan) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor]:
    """Say of each position whether a' and b' carry the token of a, whether it is masked, and which are visible."""
    masked, keep = plan.masked[:, 0], plan.in_images()[0][:, 0]
    swapped = torch.zeros_like(masked) if plan.swapped is None else plan.swapped
    second = torch.zeros_like(swapped) if config.mixup == "released" else swapped
    return (~swapped, second), masked, keep


def _close(found: Tensor, expected: Tensor) -> bool:
    # The sum of many float32 terms in another order differs by a few units in the last place of the largest.
    return bool((found - expected).abs().max() <= 1e-5 * expected.abs().max().clamp(min=1e-3))


CASES = {
    "mirrored": {},
    "released": {"mixup": "released"},
    "none": {"mixup": "none"},
    "raw pixels": {"norm_pix_loss": False},
    "repeated variance": {"target_variance": "repeated"},
}


@pytest.mark.parametrize("missing", [False, True], ids=["complete", "missing data"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("bands", [(3, 2), (7, 1), (2, 13)])
def test_loss_and_gradients_equal_the_oracle(
    oracle: ModuleType,
    tiny_config: AutoencoderConfig,
    make_pair: Callable[..., Any],
    case: str,
    bands: tuple[int, int],
    missing: bool,
) -> None:
    config = replace(tiny_config, **CASES[case])
    model = Autoencoder(config, seed=1)
    pair, noise = make_pair(5, bands=bands, batch=3, missing=missing)
    output = model(pair, noise)
    output.loss.backward()
    reference = _reference(oracle, model)
    result = reference(*(_image(oracle, image) for image in pair.groups), *_planned(config, output.plan))
    result.loss.backward()

    assert _close(output.loss, result.loss)
    assert _close(output.terms[0], result.terms[0])
    assert _close(output.terms[1], result.terms[1])
    gradients = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    found, expected = to_published(gradients), reference.gradients()
    assert found.keys() == expected.keys()
    assert [name for name in found if not _close(found[name], expected[name])] == []


@pytest.mark.parametrize("missing", [False, True], ids=["complete", "missing data"])
def test_latent_and_decoded_tokens_equal_the_oracle(
    oracle: ModuleType, tiny_config: AutoencoderConfig, make_pair: Callable[..., Any], missing: bool
) -> None:
    model = Autoencoder(tiny_config, seed=2)
    pair, noise = make_pair(8, missing=missing)
    with torch.no_grad():
        plan = model(pair, noise).plan
        latent, decoded, _ = follow_pairs(model, pair, plan)
        images = (_image(oracle, image) for image in pair.groups)
        result = _reference(oracle, model)(*images, *_planned(tiny_config, plan))
    expected_latent, expected_decoded = torch.cat(result.latents), torch.cat(result.decoded)
    # The oracle leaves hidden tokens out, so there its rows are 0.
    seen = expected_latent.abs().sum(dim=2, keepdim=True) > 0
    assert _close(torch.where(seen, latent, 0.0), expected_latent)
    seen = expected_decoded.abs().sum(dim=2, keepdim=True) > 0
    assert _close(torch.where(seen, decoded, 0.0), expected_decoded)


@pytest.mark.parametrize("missing", [False, True], ids=["complete", "missing data"])
def test_whole_image_features_equal_the_oracle(
    oracle: ModuleType, tiny_config: AutoencoderConfig, make_image: Callable[..., ImageBatch], missing: bool
) -> None:
    model = Autoencoder(tiny_config, seed=3)
    image = make_image(4, bands=4, missing=missing)
    with torch.no_grad():
        output = model.encoder(image)
        expected = _reference(oracle, model).image_features(_image(oracle, image))
    tokens = output.tokens if output.hidden is None else output.tokens.masked_fill(output.hidden[:, :, None], 0)
    assert _close(output.cls, expected[:, 0])
    assert _close(tokens, expected[:, 1:])


def test_missing_data_leaves_some_tokens_hidden_in_these_tests(
    tiny_config: AutoencoderConfig, make_pair: Callable[..., Any]
) -> None:
    pair, _ = make_pair(5, missing=True)
    output = Autoencoder(tiny_config, seed=1).encoder(pair.groups[0])
    assert output.hidden is not None
    assert 0.1 < output.hidden.float().mean() < 0.6
