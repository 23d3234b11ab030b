"""Encoders that read digital numbers."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torchvision.transforms.v2.functional import InterpolationMode, resize

from anyband.data.harmonise import normalisation_for, standardise
from anyband.encode.encoder import EncodeOptions, SensorEncoder, load_encoder, pooled
from anyband.errors import AssignmentError, CatalogueError, InputError
from anyband.models.checkpoint import load_checkpoint
from anyband.sensors.catalogue import get_sensor
from anyband.sensors.sensor import BandStatistics

_S2 = "sentinel2-l2a"


@pytest.fixture(scope="module")
def encoder(golden: Path) -> SensorEncoder:
    return load_encoder(golden / "smarties" / "checkpoint.safetensors")


def _scene(seed: int = 0, *, bands: int = 12, size: int = 64) -> np.ndarray:
    return np.random.default_rng(seed).integers(200, 3500, (bands, size, size)).astype(np.uint16)


def test_standardised_images_give_the_recorded_features(encoder: SensorEncoder, golden: Path) -> None:
    vectors = load_file(golden / "smarties" / "vectors.safetensors")
    with torch.no_grad():
        output = encoder(vectors["s2_l2a.image"], bands=get_sensor(_S2))
    assert torch.allclose(output.cls, vectors["s2_l2a.cls"], atol=1e-5)


def test_bands_may_be_named_by_range_or_by_sensor(encoder: SensorEncoder, golden: Path) -> None:
    vectors = load_file(golden / "smarties" / "vectors.safetensors")
    names = [
        ["red_2", "near_infrared_1", "short_wave_infrared_3"],
        [f"{_S2}/{band}" for band in ("B04", "B08", "B11")],
    ]
    for bands in names:
        with torch.no_grad():
            output = encoder(vectors["s2_subset.image"], bands=bands)
        assert torch.allclose(output.cls, vectors["s2_subset.cls"], atol=1e-5)


def test_an_unknown_range_is_refused_with_the_nearest(encoder: SensorEncoder) -> None:
    with pytest.raises(CatalogueError, match=r"'red_3' is not a trained range .*'sensor/band'"):
        encoder(torch.zeros(1, 1, 64, 64), bands=["red_3"])


def test_gradients_flow_through_the_call(encoder: SensorEncoder) -> None:
    encoder(torch.randn(1, 1, 64, 64), bands=["red_2"]).cls.sum().backward()
    assert encoder.encoder.cls_token.grad is not None
    encoder.zero_grad()


def test_digital_numbers_are_harmonised_with_the_catalogue(encoder: SensorEncoder) -> None:
    scene = _scene()
    standard = standardise(torch.from_numpy(scene)[None], normalisation_for(get_sensor(_S2)))
    with torch.no_grad():
        expected = encoder(standard, bands=get_sensor(_S2))
    features = encoder.encode(scene, sensor=_S2)
    assert torch.allclose(features.cls, expected.cls[0], atol=1e-6)
    assert torch.allclose(features.map, expected.map[0], atol=1e-6)


def test_a_batch_gives_the_features_of_its_images(encoder: SensorEncoder) -> None:
    batch = np.stack([_scene(seed) for seed in range(5)])
    together = encoder.encode(batch, sensor=_S2, options=EncodeOptions(batch_size=2))
    alone = encoder.encode(batch[3], sensor=_S2)
    assert together.map.shape == (5, 64, 4, 4)
    assert torch.allclose(together.cls[3], alone.cls, atol=1e-5)


@settings(max_examples=8)
@given(order=st.permutations(list(range(12))))
def test_features_do_not_depend_on_the_order_of_bands(encoder: SensorEncoder, order: list[int]) -> None:
    names = get_sensor(_S2).band_names
    moved = encoder.encode(_scene()[order], sensor=_S2, bands=[names[index] for index in order])
    assert torch.allclose(moved.cls, encoder.encode(_scene(), sensor=_S2).cls, atol=1e-5)


def test_byte_order_and_strides_do_not_matter(encoder: SensorEncoder) -> None:
    plain = encoder.encode(_scene(), sensor=_S2)
    swapped = encoder.encode(_scene().astype(">u2"), sensor=_S2)
    turned = encoder.encode(_scene()[:, ::-1][:, ::-1], sensor=_S2)
    assert torch.equal(swapped.cls, plain.cls)
    assert torch.equal(turned.cls, plain.cls)


def test_given_statistics_come_before_the_checkpoint_and_those_before_the_catalogue(golden: Path) -> None:
    sensor = get_sensor("sentinel1-grd")
    own = {name: BandStatistics(p01=-30.0, p99=0.0, mean=0.5, std=0.2) for name in sensor.band_names}
    checkpoint = load_checkpoint(golden / "smarties" / "checkpoint.safetensors")
    trained = normalisation_for(sensor, statistics={name: replace(own[name], mean=0.4) for name in own})
    with_own = SensorEncoder(replace(checkpoint, normalisations={sensor.name: trained.to_dict()}))
    plain = SensorEncoder(checkpoint)
    given = with_own.input_spec("sentinel1-grd", statistics=own)
    assert (given.statistics_source, given.normalisation.mean) == (
        "statistics given by the caller",
        (0.5, 0.5),
    )
    stored = with_own.input_spec("sentinel1-grd")
    assert (stored.statistics_source, stored.normalisation.mean) == (
        "statistics of the checkpoint",
        (0.4, 0.4),
    )
    assert plain.input_spec("sentinel1-grd").statistics_source == "statistics of the catalogue"


def test_a_sensor_without_statistics_says_how_to_compute_them(encoder: SensorEncoder) -> None:
    with pytest.raises(CatalogueError, match=r"no normalisation statistics for .* `anyband prepare --stats`"):
        encoder.encode(_scene(bands=2), sensor="worldview3", bands=["blue", "red"])


def test_interpolated_bands_are_reported_with_their_support(encoder: SensorEncoder) -> None:
    sensor = get_sensor("worldview3").select(["blue", "red"])
    statistics = {name: BandStatistics(p01=0.0, p99=1.0, mean=0.5, std=0.2) for name in sensor.band_names}
    features = encoder.encode(_scene(bands=2), sensor=sensor, options=EncodeOptions(statistics=statistics))
    assert set(features.support) == set(sensor.band_names)
    assert all(0.05 <= share <= 1 for share in features.support.values())
    assert any("interpolated, support" in note for note in features.notes)


def test_the_notes_name_encoding_and_statistics(encoder: SensorEncoder) -> None:
    notes = encoder.encode(_scene(), sensor=_S2).notes
    assert "encoding 'dn'" in notes[0]
    assert "statistics of the catalogue" in notes[0]


@pytest.mark.parametrize("size", [48, 64, 96])
def test_images_that_the_patch_divides_keep_their_size(encoder: SensorEncoder, size: int) -> None:
    assert encoder.encode(_scene(size=size), sensor=_S2).map.shape[1:] == (size // 16, size // 16)


def test_other_images_get_the_size_of_the_checkpoint(encoder: SensorEncoder) -> None:
    assert encoder.encode(_scene(size=50), sensor=_S2).map.shape[1:] == (4, 4)


def test_resizing_is_that_of_torchvision(encoder: SensorEncoder) -> None:
    scene = _scene(size=90)
    standard = standardise(torch.from_numpy(scene)[None], normalisation_for(get_sensor(_S2)))
    resized = resize(standard, [32, 32], interpolation=InterpolationMode.BICUBIC, antialias=True)
    with torch.no_grad():
        expected = encoder(resized, bands=get_sensor(_S2))
    features = encoder.encode(scene, sensor=_S2, options=EncodeOptions(img_size=32))
    assert torch.allclose(features.cls, expected.cls[0], atol=1e-4)


def test_patches_without_data_are_nan_and_do_not_change_the_others_much(encoder: SensorEncoder) -> None:
    holed = _scene()
    holed[:, :16, :16] = 0
    other = holed.copy()
    valid = np.ones(holed.shape, bool)
    valid[:, :16, :16] = False
    other[:, :16, :16] = 9999
    by_nodata = encoder.encode(holed, sensor=_S2)
    declared = encoder.encode(other, sensor=_S2, valid=valid)
    assert torch.isnan(by_nodata.map[:, 0, 0]).all()
    assert int(torch.isnan(by_nodata.map[0]).sum()) == 1
    assert torch.equal(by_nodata.cls, declared.cls)


def test_nan_pixels_count_as_missing(encoder: SensorEncoder) -> None:
    radar = np.random.default_rng(0).normal(-12, 3, (2, 64, 64)).astype(np.float32)
    radar[:, 16:32, :16] = np.nan
    features = encoder.encode(radar, sensor="sentinel1-grd", encoding="db")
    assert torch.isfinite(features.cls).all()
    assert torch.isnan(features.map[0]).nonzero().tolist() == [[1, 0]]


def test_the_mean_leaves_hidden_patches_out(encoder: SensorEncoder) -> None:
    holed = _scene()
    holed[:, :16, :16] = 0
    batch = encoder.input_spec(_S2).image_batch(torch.from_numpy(holed)[None])
    output = encoder.encode_batch(batch)
    expected = output.tokens[:, 1:].mean(dim=1)
    assert torch.allclose(pooled(output, "mean"), expected, atol=1e-6)
    assert torch.equal(pooled(output, "cls"), output.cls)


def test_bf16_is_near_float32_and_comes_back_as_float32(encoder: SensorEncoder) -> None:
    plain = encoder.encode(_scene(), sensor=_S2)
    quick = encoder.encode(_scene(), sensor=_S2, options=EncodeOptions(precision="bf16"))
    assert quick.cls.dtype == quick.map.dtype == torch.float32
    assert not torch.equal(quick.cls, plain.cls)
    assert torch.cosine_similarity(quick.cls, plain.cls, dim=0) > 0.999


def test_the_untrained_twin_has_other_weights_and_equal_seeds_equal_ones(encoder: SensorEncoder) -> None:
    twin = encoder.untrained(seed=1)
    same = encoder.untrained(seed=1)
    assert torch.equal(twin.encode(_scene(), sensor=_S2).cls, same.encode(_scene(), sensor=_S2).cls)
    assert not torch.allclose(twin.encode(_scene(), sensor=_S2).cls, encoder.encode(_scene(), sensor=_S2).cls)


def test_dropped_bands_do_not_count(golden: Path) -> None:
    loose = load_encoder(golden / "smarties" / "checkpoint.safetensors", out_of_span="drop", min_support=0.99)
    with_cirrus = get_sensor("sentinel2-l1c")
    scene = _scene(bands=13)
    features = loose.encode(scene, sensor=with_cirrus)
    kept = [index for index, name in enumerate(with_cirrus.band_names) if name != "B10"]
    without = loose.encode(scene[kept], sensor=with_cirrus.select(with_cirrus.band_names[i] for i in kept))
    assert any("B10: dropped" in note for note in features.notes)
    assert torch.allclose(features.cls, without.cls, atol=1e-6)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (
            np.zeros((10, 64, 64), np.uint16),
            r"the array has 10 bands, but 12 of 'sentinel2-l2a' are meant \(B01,",
        ),
        (np.zeros((12, 64, 64), np.uint16), "image 0 has no pixel with data"),
        (np.full((12, 64, 64), np.nan, np.float32), "image 0 has no pixel with data"),
        (np.zeros((12, 0, 64), np.uint16), r"an array of shape \(12, 0, 64\) is no image"),
        (np.zeros((64, 64), np.uint16), r"an array of shape \(64, 64\) is no image"),
        (np.ones((12, 10, 64), np.uint16), "10 × 64 pixels are smaller than one patch of 16 × 16"),
    ],
)
def test_arrays_that_can_not_be_encoded_are_refused(encoder: SensorEncoder, array: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        encoder.encode(array, sensor=_S2)


def test_an_empty_image_in_a_batch_is_named(encoder: SensorEncoder) -> None:
    batch = np.stack([_scene(), _scene(), np.zeros_like(_scene())])
    with pytest.raises(InputError, match="image 2 has no pixel with data"):
        encoder.encode(batch, sensor=_S2, options=EncodeOptions(batch_size=2))


def test_an_image_size_that_the_patch_does_not_divide_is_refused(encoder: SensorEncoder) -> None:
    with pytest.raises(InputError, match="img_size 50 is not a multiple of the patch size 16"):
        encoder.encode(_scene(), sensor=_S2, options=EncodeOptions(img_size=50))


def test_a_validity_of_another_shape_is_refused(encoder: SensorEncoder) -> None:
    with pytest.raises(InputError, match="'valid' has shape"):
        encoder.encode(_scene(), sensor=_S2, valid=np.ones((12, 64, 32), bool))


def test_an_unknown_sensor_or_band_offers_the_nearest(encoder: SensorEncoder) -> None:
    with pytest.raises(CatalogueError, match="did you mean 'sentinel2-l2a'"):
        encoder.encode(_scene(), sensor="sentinel2-l2b")
    with pytest.raises(CatalogueError, match="band 'B10' is not in sensor 'sentinel2-l2a'"):
        encoder.encode(_scene(bands=1), sensor=_S2, bands=["B10"])


def test_a_band_outside_the_trained_span_is_refused(encoder: SensorEncoder) -> None:
    with pytest.raises(AssignmentError, match="can't be expressed"):
        encoder.encode(np.ones((1, 64, 64), np.float32), sensor="nisar-l", bands=["HH"])
