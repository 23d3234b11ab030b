"""The bands of a three-band stem: drawn in training, fixed in use, and read so from a checkpoint."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from anyband.encode.encoder import SensorEncoder
from anyband.encode.input_spec import input_spec_for
from anyband.errors import CatalogueError
from anyband.models.autoencoder import Autoencoder, AutoencoderConfig
from anyband.models.checkpoint import Checkpoint, build_encoder, load_checkpoint, save_checkpoint, state_of
from anyband.models.vit import DecoderConfig, EncoderConfig
from anyband.pretraining.batches import draw_stem_bands, take_stem_bands
from anyband.sensors.assignment import AssignmentRules
from anyband.sensors.catalogue import get_sensor
from anyband.sensors.ranges import stem_ranges
from anyband.sensors.sensor import BandStatistics


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    """An untrained network with a stem of three bands."""
    encoder = EncoderConfig(img_size=32, patch_size=8, embed_dim=16, depth=1, num_heads=2, num_ranges=3, max_bands=3)
    decoder = DecoderConfig(decoder_embed_dim=8, decoder_depth=1, decoder_num_heads=2)
    config = AutoencoderConfig(encoder=encoder, decoder=decoder, images="set", mixup="none")
    return Checkpoint(config=config, state=state_of(Autoencoder(config, seed=0)), ranges=stem_ranges())


def test_three_bands_are_drawn_for_each_image() -> None:
    counts = np.array([[12, 2, 1], [3, 4, 2]])
    drawn = draw_stem_bands(counts, seed=1, step=2, samples=[7, 9])
    distinct = [[len(set(image.tolist())) for image in row] for row in drawn]
    assert distinct == [[3, 2, 1], [3, 3, 2]]
    assert (drawn >= 0).all()
    assert (drawn < counts[..., None]).all()


def test_a_draw_is_a_function_of_seed_step_sample_and_slot_alone() -> None:
    counts = np.full((2, 3), 12)
    drawn = draw_stem_bands(counts, seed=1, step=2, samples=[7, 9])
    np.testing.assert_array_equal(draw_stem_bands(counts[1:], seed=1, step=2, samples=[9]), drawn[1:])
    for seed, step in ((2, 2), (1, 3)):
        assert (draw_stem_bands(counts, seed=seed, step=step, samples=[7, 9]) != drawn).any()
    assert len({tuple(image) for image in drawn.reshape(-1, 3).tolist()}) > 1


def test_every_band_stands_in_every_position_equally_often() -> None:
    drawn = draw_stem_bands(np.full((3000, 1), 5), seed=0, step=0, samples=range(3000))[:, 0]
    for position in range(3):
        assert chisquare(np.bincount(drawn[:, position], minlength=5)).pvalue > 1e-3


def test_bands_are_taken_of_each_image_with_their_validity() -> None:
    pixels = torch.rand(4, 6, 3, 2)
    valid = torch.rand(4, 6, 3, 2) > 0.5
    bands = np.array([[0, 1, 2], [5, 5, 0], [3, 1, 4], [2, 0, 2]])
    found, seen = (take_stem_bands(values, bands) for values in (pixels, valid))
    for image, chosen in enumerate(bands):
        np.testing.assert_array_equal(found[image], pixels[image].numpy()[chosen])
        np.testing.assert_array_equal(seen[image], valid[image].numpy()[chosen])


@pytest.mark.parametrize(
    ("name", "bands"), [("sentinel2-l2a", ("B04", "B03", "B02")), ("sentinel1-grd", ("VV", "VH", "VV"))]
)
def test_a_checkpoint_with_a_stem_reads_three_bands_and_says_which(checkpoint, name, bands) -> None:
    reading = input_spec_for(checkpoint, get_sensor(name), rules=AssignmentRules(unseen="refuse"))
    assert reading.normalisation.bands == bands
    assert f"{name}: a stem of three bands reads {', '.join(bands)}" in reading.notes[1]
    assert reading.support == {band: float(band in bands) for band in get_sensor(name).band_names}


def test_only_the_bands_in_the_stem_change_the_features(checkpoint, tmp_path) -> None:
    """The round trip through a file keeps the rule."""
    path = tmp_path / "stem.safetensors"
    save_checkpoint(path, checkpoint)
    encoder = SensorEncoder(load_checkpoint(path)).eval()
    dn = np.random.default_rng(0).integers(300, 2500, (12, 32, 32)).astype(np.uint16)
    other = dn.copy()
    unread = [index for index in range(12) if index not in (1, 2, 3)]
    other[unread] += 100
    found = [encoder.encode(image, sensor="sentinel2-l2a").cls for image in (dn, other)]
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)
    other[3] += 100
    assert (encoder.encode(other, sensor="sentinel2-l2a").cls != found[0]).any()


def test_the_stem_is_one_linear_map_of_three_stacked_bands(checkpoint) -> None:
    """Against plain NumPy: an ordinary patch embedding over three channels."""
    encoder = build_encoder(checkpoint)
    reading = input_spec_for(checkpoint, get_sensor("sentinel1-grd"), rules=AssignmentRules())
    dn = torch.from_numpy(np.random.default_rng(0).uniform(-25, -5, (1, 2, 8, 8)).astype(np.float32))
    batch = reading.image_batch(dn)
    weight = np.concatenate(list(encoder.projection.weight.detach().numpy()))
    expected = batch.pixels.numpy().reshape(1, -1) @ weight + encoder.projection.bias.detach().numpy().sum(0)
    np.testing.assert_array_equal(batch.pixels[0, 0], batch.pixels[0, 2])
    found = encoder.projection(batch.pixels.reshape(1, 1, -1), batch.mixing)
    np.testing.assert_allclose(found.detach().numpy()[0], expected, atol=1e-5)


def test_a_stretch_is_applied_to_statistics_that_the_checkpoint_did_not_bring(checkpoint) -> None:
    trained = dataclasses.replace(checkpoint, recipe={"data": {"stretch": "two_sigma"}})
    sensor = get_sensor("sentinel2-l2a").select(["B04"])
    given = {"B04": BandStatistics(p01=0.0, p99=1.0, mean=0.5, std=0.1)}
    for statistics in (given, None):
        reading = input_spec_for(trained, sensor, rules=AssignmentRules(), statistics=statistics)
        assert (reading.normalisation.mean, reading.normalisation.std) == ((0.0,) * 3, (1.0,) * 3)
        assert "mean ± 2 deviations stretched to [0, 1]" in reading.notes[0]
    found = input_spec_for(trained, sensor, rules=AssignmentRules(), statistics=given).normalisation
    np.testing.assert_allclose((found.p01[0], found.p99[0]), (0.3, 0.7))


def test_the_checkpoints_own_statistics_are_not_stretched_twice(checkpoint) -> None:
    own = input_spec_for(checkpoint, get_sensor("sentinel2-l2a"), rules=AssignmentRules()).normalisation
    stored = dataclasses.replace(
        checkpoint, recipe={"data": {"stretch": "two_sigma"}}, normalisations={"sentinel2-l2a": own.to_dict()}
    )
    reading = input_spec_for(stored, get_sensor("sentinel2-l2a"), rules=AssignmentRules())
    assert reading.normalisation.p01 == own.p01
    assert reading.statistics_source == "statistics of the checkpoint"


def test_single_bands_have_no_position_in_a_stem(checkpoint) -> None:
    """Each alone would stand in the first, so that three of them came out as one."""
    encoder = SensorEncoder(checkpoint).eval()
    images = torch.zeros(1, 3, 8, 8)
    with pytest.raises(CatalogueError, match="name the positions of the channels, red, green, blue"):
        encoder(images, bands=["sentinel2-l2a/B04", "sentinel2-l2a/B03", "sentinel2-l2a/B02"])
    by_position = encoder(images, bands=["red", "green", "blue"]).cls
    torch.testing.assert_close(by_position, encoder(images, bands=get_sensor("maxar-rgb")).cls)
