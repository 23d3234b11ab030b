"""Encoders that read sets of images, and what is known of each image."""

import datetime as dt
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_networks import INFORMED, small_checkpoint

from anyband.encode import encoder as memory
from anyband.encode.encoder import (
    EncodeOptions,
    ImageMetadata,
    SensorEncoder,
    SetImage,
    load_encoder,
    pooled,
    sequence_bytes,
)
from anyband.errors import GeometryError, InputError
from anyband.models.encodings import EncodingConfig
from anyband.models.vit import EncoderOutput, configure_blocks

_S2, _S1 = "sentinel2-l2a", "sentinel1-grd"
_CORNERS = ((8.0, 49.0), (8.01, 49.0), (8.01, 48.99), (8.0, 48.99))


def _set_encoder(encodings: EncodingConfig) -> SensorEncoder:
    made = small_checkpoint(patch_size=16, embed_dim=32, depth=2, encodings=encodings, images="set")
    return SensorEncoder(made).eval()


@pytest.fixture(scope="module")
def plain(golden: Path) -> SensorEncoder:
    """A network of pairs: no encodings."""
    return load_encoder(golden / "smarties" / "checkpoint.safetensors")


@pytest.fixture(scope="module")
def informed() -> SensorEncoder:
    """A network of sets, with all encodings."""
    return _set_encoder(INFORMED)


def _optical(seed: int = 0, size: int = 64) -> np.ndarray:
    return np.random.default_rng(seed).integers(200, 3500, (12, size, size)).astype(np.uint16)


def _radar(seed: int = 0, size: int = 64) -> np.ndarray:
    return np.random.default_rng(seed).normal(-12, 3, (2, size, size)).astype(np.float32)


def _set(size: int = 64) -> list[SetImage]:
    return [
        SetImage(array=_optical(0, size), sensor=_S2, datetime="2020-06-01", gsd_m=10, corners_deg=_CORNERS),
        SetImage(array=_radar(1, size), sensor=_S1, datetime="2020-06-03"),
        SetImage(array=_optical(2, size), sensor=_S2),
    ]


@pytest.mark.parametrize("name", ["plain", "informed"])
def test_one_image_of_which_nothing_is_known_gets_the_features_of_encode(
    name: str, request: pytest.FixtureRequest
) -> None:
    encoder: SensorEncoder = request.getfixturevalue(name)
    alone = encoder.encode(_optical(), sensor=_S2)
    features = encoder.encode_set([SetImage(array=_optical(), sensor=_S2)])
    assert torch.equal(features.place, alone.cls)
    assert torch.equal(features.images[0].map, alone.map)
    assert (features.images[0].support, features.images[0].notes) == (alone.support, alone.notes)
    assert features.notes == ()


def test_what_is_known_of_one_image_means_the_same_to_encode_and_to_encode_set(informed: SensorEncoder) -> None:
    known = ImageMetadata(datetime="2020-06-01", gsd_m=10, corners_deg=_CORNERS)
    alone = informed.encode(_optical(size=48), sensor=_S2, options=EncodeOptions(metadata=known, img_size=64))
    features = informed.encode_set([_set(48)[0]], options=EncodeOptions(img_size=64))
    assert torch.allclose(features.place, alone.cls, atol=1e-6)
    assert torch.allclose(features.images[0].map, alone.map, atol=1e-6)


@pytest.mark.parametrize("fact", [{"datetime": "2020-06-01"}, {"gsd_m": 10.0}, {"corners_deg": _CORNERS}])
def test_each_fact_changes_features_only_where_a_network_encodes_it(
    plain: SensorEncoder, informed: SensorEncoder, fact: dict[str, object]
) -> None:
    options = EncodeOptions(metadata=ImageMetadata(**fact))  # type: ignore[arg-type]
    for encoder, matters in ((plain, False), (informed, True)):
        told = encoder.encode(_optical(), sensor=_S2, options=options).cls
        untold = encoder.encode(_optical(), sensor=_S2).cls
        assert torch.allclose(told, untold, atol=1e-5) is not matters


def test_images_of_a_batch_have_facts_of_their_own(informed: SensorEncoder) -> None:
    known = [ImageMetadata(datetime=f"2020-0{month}-01") for month in (2, 5, 8)]
    images = np.stack([_optical(seed) for seed in range(3)])
    together = informed.encode(images, sensor=_S2, options=EncodeOptions(metadata=known, batch_size=2))
    for number, one in enumerate(known):
        alone = informed.encode(images[number], sensor=_S2, options=EncodeOptions(metadata=one))
        assert torch.allclose(together.cls[number], alone.cls, atol=1e-5)


def test_times_count_whatever_their_type_and_zone(informed: SensorEncoder) -> None:
    times = (
        "2020-06-01T10:00:00Z",
        "2020-06-01T12:00:00+02:00",
        dt.datetime(2020, 6, 1, 10),
        dt.datetime(2020, 6, 1, 10, tzinfo=dt.UTC),
        np.datetime64("2020-06-01T10:00:00", "ns"),
    )
    found = [informed.encode_set([SetImage(array=_optical(), sensor=_S2, datetime=time)]).place for time in times]
    assert all(torch.equal(one, found[0]) for one in found[1:])


def test_a_set_is_one_sequence_of_the_tokens_of_its_images(plain: SensorEncoder) -> None:
    network, features = plain.encoder, plain.encode_set(_set())
    tokens = []
    with torch.no_grad():
        for one in _set():
            reading = plain.input_spec(one.sensor)
            pixels = torch.from_numpy(one.array.astype(np.float32))[None]
            n = reading.normalisation
            low, high, mean, std, scale = (
                torch.tensor(values)[:, None, None] for values in (n.p01, n.p99, n.mean, n.std, n.scale)
            )
            network_input = (((pixels * scale).clamp(low, high) - low) / (high - low) - mean) / std
            mixing = torch.from_numpy(reading.assignment.mixing).float()
            patches = network_input.reshape(1, -1, 4, 16, 4, 16).permute(0, 2, 4, 1, 3, 5).reshape(1, 16, -1)
            tokens.append(network.projection(patches, mixing) + network.pos_embed[:, 1:])
        expected = network.encode_tokens(torch.cat(tokens, dim=1), None)[0]
    assert torch.allclose(features.place, expected[0], atol=1e-4)
    for number, image in enumerate(features.images):
        own = expected[1 + 16 * number :][:16]
        assert torch.allclose(image.map.flatten(1).T, own, atol=1e-4)


def test_the_vector_of_an_image_is_the_mean_of_its_patches_with_data(plain: SensorEncoder) -> None:
    valid = np.ones((12, 64, 64), bool)
    valid[:, :32] = False
    images = [SetImage(array=_optical(), sensor=_S2, valid=valid), _set()[1]]
    features = plain.encode_set(images)
    first, second = features.images
    assert torch.isnan(first.map[:, :2]).all()
    assert torch.allclose(first.cls, first.map[:, 2:].mean(dim=(1, 2)), atol=1e-5)
    assert torch.allclose(second.cls, second.map.mean(dim=(1, 2)), atol=1e-5)


def test_the_order_of_images_does_not_matter(informed: SensorEncoder) -> None:
    forward, backward = informed.encode_set(_set()), informed.encode_set(_set()[::-1])
    assert torch.allclose(forward.place, backward.place, atol=1e-5)
    for one, other in zip(forward.images, backward.images[::-1], strict=True):
        assert torch.allclose(one.map, other.map, atol=1e-5)


def test_every_image_has_seen_the_others(informed: SensorEncoder) -> None:
    together = informed.encode_set(_set()).images[0].map
    alone = informed.encode_set(_set()[:1]).images[0].map
    assert not torch.allclose(together, alone, atol=1e-3)


def test_images_of_several_sizes_get_that_of_the_checkpoint(informed: SensorEncoder) -> None:
    images = [SetImage(array=_optical(size=64), sensor=_S2), SetImage(array=_radar(size=13), sensor=_S1)]
    mixed = informed.encode_set(images)
    asked = informed.encode_set(images, options=EncodeOptions(img_size=32))
    assert [one.map.shape for one in mixed.images] == [(32, 2, 2)] * 2
    assert torch.equal(mixed.place, asked.place)


def test_the_ground_resolution_follows_a_resize(informed: SensorEncoder) -> None:
    # A flat image looks the same at each size, so only the pixel size that is told can differ.
    flat = [np.full((12, size, size), 1500, np.uint16) for size in (32, 64)]

    def place(array: np.ndarray, gsd_m: float) -> torch.Tensor:
        known = ImageMetadata(gsd_m=gsd_m)
        return informed.encode(array, sensor=_S2, options=EncodeOptions(metadata=known, img_size=64)).cls

    assert not torch.allclose(place(flat[0], 20.0), place(flat[1], 20.0), atol=1e-4)


def test_a_network_of_pairs_says_that_it_never_saw_sets(plain: SensorEncoder, informed: SensorEncoder) -> None:
    assert plain.encode_set(_set()).notes == (
        "the checkpoint was trained on pairs: training never showed it several images as one sequence",
    )
    assert informed.encode_set(_set()).notes == ()


def test_bf16_is_near_float32(informed: SensorEncoder) -> None:
    exact, quick = (
        informed.encode_set(_set(), options=EncodeOptions(precision=precision)).place
        for precision in ("float32", "bf16")
    )
    assert quick.dtype == torch.float32
    assert torch.cosine_similarity(exact, quick, dim=0) > 0.995


def test_an_image_without_a_patch_of_data_does_not_enter_the_mean_of_a_set() -> None:
    tokens = torch.randn(1, 2, 4, 8)
    hidden = torch.tensor([[[False, False, True, False], [True] * 4]])
    output = EncoderOutput(cls=torch.zeros(1, 8), tokens=tokens, hidden=hidden, grid=(2, 2))
    assert torch.allclose(pooled(output, "mean"), tokens[:, 0, [0, 1, 3]].mean(dim=1))
    assert torch.equal(pooled(output, "cls"), output.cls)


def test_footprints_across_longitude_180_overlap(informed: SensorEncoder) -> None:
    east, west = (
        ((179.99, 1.0), (-179.99, 1.0), (-179.99, 0.98), (179.99, 0.98)),
        ((179.991, 1.0), (-179.989, 1.0), (-179.989, 0.98), (179.991, 0.98)),
    )
    images = [SetImage(array=_optical(), sensor=_S2, corners_deg=corners) for corners in (east, west)]
    assert torch.isfinite(informed.encode_set(images).place).all()


def test_images_of_different_ground_are_refused(plain: SensorEncoder) -> None:
    beside = tuple((lon + 0.006, lat) for lon, lat in _CORNERS)
    images = [_set()[0], SetImage(array=_radar(), sensor=_S1), replace(_set()[2], corners_deg=beside)]
    message = (
        r"image 0 of the set \(sentinel2-l2a\) and image 2 of the set \(sentinel2-l2a\) share 40% of the larger one: "
        r"image 0 .* lies at longitude 8\.0000 to 8\.0100, latitude 48\.9900 to 49\.0000, image 2 .* at longitude "
        r"8\.0060 to 8\.0160, .*; cut both to what they share, or encode them apart"
    )
    with pytest.raises(GeometryError, match=message):
        plain.encode_set(images)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"gsd_m": 0.0}, r"image 0 of the set \(sentinel2-l2a\): gsd_m is 0; it must be a number of metres over 0"),
        ({"gsd_m": -10.0}, "gsd_m is -10; it must be a number of metres over 0; leave it out if it is unknown"),
        ({"gsd_m": float("nan")}, "gsd_m is nan"),
        ({"gsd_m": float("inf")}, "gsd_m is inf"),
        ({"datetime": "1st of June"}, "datetime '1st of June' is not ISO 8601, such as 2020-07-01T10:30:00Z"),
        ({"datetime": "2999-01-01"}, r"datetime 2999-01-01T00:00:00Z lies in the future \(now is 20"),
        ({"datetime": dt.date(2999, 1, 1)}, "lies in the future"),
        ({"datetime": "0001-01-01T00:00:00+10:00"}, "is before year 1 or after year 9999 in UTC"),
        ({"corners_deg": ((190.0, 49.0), *_CORNERS[1:])}, "longitude 190 is not from -180 to 180 degrees"),
        ({"corners_deg": ((8.0, 95.0), *_CORNERS[1:])}, "latitude 95 is not from -90 to 90 degrees"),
        ({"corners_deg": ((float("nan"), 49.0), *_CORNERS[1:])}, "longitude nan is not"),
        ({"corners_deg": _CORNERS[:3]}, r"corners_deg has shape \(3, 2\); give four \(longitude, latitude\)"),
        ({"corners_deg": [_CORNERS[n] for n in (0, 2, 1, 3)]}, "their edges cross; give them in the order upper left"),
        ({"corners_deg": (_CORNERS[0],) * 4}, "enclose no ground"),
    ],
)
def test_metadata_that_can_not_be_are_refused(plain: SensorEncoder, facts: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        plain.encode_set([SetImage(array=_optical(), sensor=_S2, **facts)])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "a set needs at least one image; found none"),
        (
            [SetImage(array=_optical()[None], sensor=_S2)],
            r"image 0 .*: it is an array of shape \(1, 12, 64, 64\); each",
        ),
        ([SetImage(array=_optical()[:3], sensor=_S2)], r"image 0 of the set \(sentinel2-l2a\): the array has 3 bands"),
        (
            [_set()[0], SetImage(array=_radar() * np.nan, sensor=_S1)],
            r"^image 1 of the set \(sentinel1-grd\) has no pixel with data",
        ),
        (
            [SetImage(array=_optical(size=8), sensor=_S2)],
            "images of 8 × 8 pixels are smaller than one patch of 16 × 16",
        ),
        (
            [SetImage(array=_optical(), sensor=_S2, valid=np.ones((12, 3, 3), bool))],
            r"image 0 .*: 'valid' has shape \(12, 3, 3\), the array \(12, 64, 64\)",
        ),
    ],
)
def test_sets_that_can_not_be_encoded_are_refused(plain: SensorEncoder, images: list[SetImage], message: str) -> None:
    with pytest.raises(InputError, match=message):
        plain.encode_set(images)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (EncodeOptions(statistics={}), "the images of a set have statistics of their own: give them to each SetImage"),
        (EncodeOptions(metadata=ImageMetadata()), "the images of a set have metadata of their own"),
        (EncodeOptions(img_size=20), "img_size 20 is not a multiple of the patch size 16"),
    ],
)
def test_options_that_sets_do_not_have_are_refused(plain: SensorEncoder, options: EncodeOptions, message: str) -> None:
    with pytest.raises(InputError, match=message):
        plain.encode_set(_set(), options=options)


def test_metadata_of_another_number_of_images_is_refused(plain: SensorEncoder) -> None:
    with pytest.raises(InputError, match="'metadata' is of 1 image, the array holds 2; give one for each"):
        options = EncodeOptions(metadata=ImageMetadata(gsd_m=10))
        plain.encode(np.stack([_optical()] * 2), sensor=_S2, options=options)


def test_four_images_are_too_many_for_what_a2mae_composes() -> None:
    encoder = _set_encoder(EncodingConfig(geographic="a2mae"))
    assert torch.isfinite(encoder.encode_set(_set()).place).all()
    with pytest.raises(InputError, match=r"sets of 4 images were given; .* 'a2mae' composes the positions of three"):
        encoder.encode_set([*_set(), _set()[0]])


def test_a_set_that_memory_does_not_hold_is_refused_with_what_it_needs(
    plain: SensorEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda device: 100_000)
    message = (
        r"1 set of 3 images with 16 tokens each \(48 tokens that attend to each other\) need about 0\.0 GB, and "
        r"0\.0 GB are free on 'cpu'; take fewer or smaller images"
    )
    with pytest.raises(InputError, match=message):
        plain.encode_set(_set())


def test_memory_that_nobody_tells_is_not_checked(plain: SensorEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_MEMINFO", Path("/nowhere"))
    assert memory.available_bytes(torch.device("cpu")) is None
    assert torch.isfinite(plain.encode_set(_set()).place).all()


def test_plain_attention_needs_memory_for_all_pairs_of_tokens(golden: Path) -> None:
    network = load_encoder(golden / "smarties" / "checkpoint.safetensors").encoder
    fused = [sequence_bytes(network, num_sets=1, num_tokens=tokens) for tokens in (10_000, 20_000)]
    configure_blocks(network, fused=False)
    whole = [sequence_bytes(network, num_sets=1, num_tokens=tokens) for tokens in (10_000, 20_000)]
    assert fused[1] / fused[0] == pytest.approx(2, rel=0.01)
    assert whole[1] / whole[0] == pytest.approx(4, rel=0.1)
