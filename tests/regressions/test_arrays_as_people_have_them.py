"""Arrays as people hold them, given to encoders: right features, or a refusal that says what is wanted."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from anyband.encode.encoder import EncodeOptions, SensorEncoder, SetImage, load_encoder
from anyband.errors import InputError
from anyband.sensors.catalogue import get_sensor

_S2 = "sentinel2-l2a"
_NAMES = get_sensor(_S2).band_names
_ARRAY = np.random.default_rng(0).integers(300, 3000, (12, 64, 64)).astype(np.uint16)
_HIDDEN = np.zeros(_ARRAY.shape, bool)
_HIDDEN[:, :32] = True


@pytest.fixture(scope="module")
def encoder(golden: Path) -> SensorEncoder:
    return load_encoder(golden / "smarties" / "checkpoint.safetensors")


@pytest.fixture(params=["encode", "encode_set"])
def features(request: pytest.FixtureRequest, encoder: SensorEncoder) -> Callable[..., torch.Tensor]:
    """The vector of one image, by either way in."""

    def vector(array: Any, **given: Any) -> torch.Tensor:
        if request.param == "encode":
            return encoder.encode(array, sensor=_S2, **given).cls
        return encoder.encode_set([SetImage(array=array, sensor=_S2, **given)]).cls

    return vector


def data_array(
    values: np.ndarray, dims: tuple[str, ...], *, names: tuple[str, ...] = (), encoding: Any = None, **attrs: Any
) -> Any:
    """Stands for an xarray DataArray, of which no more is used."""
    coords = {"band": SimpleNamespace(values=np.array(names))} if names else {}
    return SimpleNamespace(
        dims=dims, values=values, shape=values.shape, coords=coords, attrs=attrs, encoding=encoding or {}
    )


def _with(values: float) -> np.ndarray:
    array = _ARRAY.astype(np.float32)
    array[_HIDDEN] = values
    return array


_MISSING: dict[str, Any] = {
    "masked array": np.ma.masked_array(_ARRAY, _HIDDEN),
    "masked numbers that are no numbers": np.ma.masked_array(_with(np.nan), _HIDDEN),
    "list of masked bands": [np.ma.masked_array(band, hidden) for band, hidden in zip(_ARRAY, _HIDDEN, strict=True)],
    "masked and plain bands": [np.where(hidden, 0, band) for band, hidden in zip(_ARRAY, _HIDDEN, strict=True)],
    "NaN": _with(np.nan),
    "infinity": _with(np.inf),
    "DataArray with NaN": data_array(_with(np.nan), ("band", "y", "x")),
    "DataArray with a fill value": data_array(_with(65535).astype(np.uint16), ("band", "y", "x"), _FillValue=65535),
    "DataArray with a fill value of float32": data_array(_with(-3.4e38), ("band", "y", "x"), nodata=-3.4e38),
    "bands last": data_array(np.moveaxis(_with(np.nan), 0, -1), ("lat", "lon", "band")),
}


@pytest.mark.parametrize("name", _MISSING)
def test_what_the_array_itself_hides_is_missing(features: Callable[..., torch.Tensor], name: str) -> None:
    assert torch.equal(features(_MISSING[name]), features(_ARRAY, valid=~_HIDDEN))


@pytest.mark.parametrize(
    "valid",
    [~_HIDDEN[0], np.ma.masked_array(np.ones(_ARRAY.shape, bool), _HIDDEN), torch.from_numpy(~_HIDDEN), [*~_HIDDEN]],
    ids=["plane", "masked", "torch", "list"],
)
def test_validity_comes_as_a_plane_a_mask_or_a_list(features: Callable[..., torch.Tensor], valid: Any) -> None:
    assert torch.equal(features(_ARRAY, valid=valid), features(_ARRAY, valid=~_HIDDEN))


def test_a_mask_counts_beside_a_given_validity(features: Callable[..., torch.Tensor]) -> None:
    right = np.zeros(_ARRAY.shape, bool)
    right[:, :, 32:] = True
    both = features(np.ma.masked_array(_ARRAY, _HIDDEN), valid=~right)
    assert torch.equal(both, features(_ARRAY, valid=~(_HIDDEN | right)))


@pytest.mark.parametrize("nodata", [-9999, 7, np.nan])
def test_a_declared_nodata_takes_the_place_of_the_sensors(features: Callable[..., torch.Tensor], nodata: float) -> None:
    array = _with(nodata) if np.isnan(nodata) else np.where(_HIDDEN, nodata, _ARRAY.astype(np.int16))
    array[0, 40:, 40:] = 0
    assert torch.equal(features(array, nodata=nodata), features(array, valid=~_HIDDEN))


def test_a_nodata_that_the_type_can_not_hold_hides_nothing(encoder: SensorEncoder) -> None:
    array = np.full((3, 64, 64), 241, np.uint8)
    array[:, ::2] = 17
    bands, options = "B02;B03;B04", EncodeOptions(statistics="scene")
    whole = encoder.encode(array, sensor=_S2, bands=bands, options=options)
    assert torch.equal(encoder.encode(array, sensor=_S2, bands=bands, nodata=-9999, options=options).cls, whole.cls)


_EQUAL: dict[str, Any] = {
    "read-only": np.frombuffer(_ARRAY.tobytes(), np.uint16).reshape(_ARRAY.shape),
    "of 8 bytes": _ARRAY.astype(np.uint64),
    "of 16 bytes": _ARRAY.astype(np.longdouble),
    "list of bands": list(_ARRAY),
    "list of tensors": list(torch.from_numpy(_ARRAY.astype(np.int32))),
    "without a mask": np.ma.masked_array(_ARRAY),
    "DataArray of rows, columns and bands": data_array(_ARRAY.transpose(1, 2, 0), ("y", "x", "band")),
    "DataArray without names": data_array(_ARRAY, ("dim_0", "dim_1", "dim_2")),
    "DataArray of bands by name": data_array(_ARRAY[::-1], ("band", "y", "x"), names=_NAMES[::-1]),
    "DataArray of bands by tag": data_array(_ARRAY[::-1], ("band", "y", "x"), long_name=_NAMES[::-1]),
}


@pytest.mark.parametrize("name", _EQUAL)
def test_equal_numbers_give_equal_features(features: Callable[..., torch.Tensor], name: str) -> None:
    assert torch.allclose(features(_EQUAL[name]), features(_ARRAY), atol=1e-5)


def test_a_list_of_images_is_a_batch(encoder: SensorEncoder) -> None:
    batch = encoder.encode([np.ma.masked_array(_ARRAY, _HIDDEN), _ARRAY], sensor=_S2)
    assert torch.allclose(batch.cls[0], encoder.encode(_ARRAY, sensor=_S2, valid=~_HIDDEN).cls, atol=1e-5)
    assert torch.allclose(batch.cls[1], encoder.encode(_ARRAY, sensor=_S2).cls, atol=1e-5)


def test_times_of_one_band_are_no_bands(encoder: SensorEncoder) -> None:
    series = data_array(_ARRAY[:5], ("time", "y", "x"))
    assert encoder.encode(series, sensor=_S2, bands="B04").cls.shape == (5, 64)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        ("scene.tif", r"found 'scene.tif' \(str\); read a file first, .*rasterio.*masked=True.*`anyband embed`"),
        (Path("scene.tif"), r"must be a NumPy array, a torch tensor or an xarray DataArray of \(band, row, col\)"),
        (_ARRAY.tolist(), "an item of .* must be a NumPy array, .*found int"),
        ([], "a list of arrays of one shape; found nothing"),
        ([_ARRAY, _ARRAY[:, :32]], r"a list of arrays of one shape; found \(12, 64, 64\), \(12, 32, 64\)"),
        (None, "found NoneType"),
        (_ARRAY.astype(np.complex64), r"complex numbers \(complex64\).*np.abs\(array\)"),
        (_ARRAY > 0, "holds bool, which is no number of an image; a mask is given as `valid`"),
        (_ARRAY.astype(object), "holds object, which is no number of an image"),
        (_ARRAY.transpose(1, 2, 0), r"has 64 bands, but 12 of .*np.moveaxis\(array, -1, -3\)"),
        (data_array(_ARRAY, ("band", "a", "b")), "dimensions band, a, b, which do not say what is band, y and x"),
        (data_array(_ARRAY, ("band", "y", "x"), names=(*_NAMES[:11], "B99")), "'B99' is none of 'sentinel2-l2a'"),
    ],
)
def test_what_is_no_image_is_refused_with_what_is_wanted(
    features: Callable[..., torch.Tensor], array: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        features(array)


@pytest.mark.parametrize(
    ("valid", "message"),
    [
        ((~_HIDDEN).astype(np.uint8) * 254, "'valid' holds uint8; give truth values"),
        (np.ones((12, 64, 60), bool), r"'valid' has shape \(12, 64, 60\), the array \(12, 64, 64\)"),
        ("mask.tif", "'valid' must be a NumPy array"),
    ],
)
def test_a_validity_that_is_none_is_refused(encoder: SensorEncoder, valid: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        encoder.encode(_ARRAY, sensor=_S2, valid=valid)


@pytest.mark.parametrize("images", ["scene.tif", [_ARRAY, _ARRAY], _ARRAY])
def test_a_set_of_anything_but_images_is_refused(encoder: SensorEncoder, images: Any) -> None:
    # As users call it, without the checks of types that tests have.
    encode_set: Any = getattr(SensorEncoder.encode_set, "__wrapped__", SensorEncoder.encode_set)
    with pytest.raises(InputError, match="a set is a list of SetImage, each with its array and sensor; found"):
        encode_set(encoder, images)


def test_what_a_data_array_says_against_the_declaration_is_said(encoder: SensorEncoder) -> None:
    tagged = data_array(_ARRAY, ("band", "y", "x"), scale_factor=0.0001)
    (note,) = [note for note in encoder.encode(tagged, sensor=_S2).notes if "scale_factor" in note]
    assert note.startswith("the DataArray has scale_factor 0.0001, which is not applied; its numbers are read as the ")
    decoded = data_array(_ARRAY, ("band", "y", "x"), encoding={"scale_factor": 0.0001})
    assert any("which xarray has applied" in note for note in encoder.encode(decoded, sensor=_S2).notes)
    strange = data_array(_ARRAY, ("band", "y", "x"), names=tuple("abcdefghijkl"))
    assert any("bands are taken in order" in note for note in encoder.encode(strange, sensor=_S2).notes)
    turned = data_array(_ARRAY, ("band", "y", "x"), names=_NAMES[::-1])
    notes = encoder.encode(turned, sensor=_S2, bands=_NAMES).notes
    assert any("the declared B01, B02, " in note for note in notes)


@pytest.mark.parametrize("bands", ["B02;B03", "B02, B03", ["B02", "B03"]])
def test_bands_are_read_as_names_and_not_as_letters(encoder: SensorEncoder, bands: Any) -> None:
    expected = encoder.encode(_ARRAY[[1, 2]], sensor=get_sensor(_S2).select(["B02", "B03"])).cls
    assert torch.equal(encoder.encode(_ARRAY[[1, 2]], sensor=_S2, bands=bands).cls, expected)
    ranges = "blue_1;red_2" if isinstance(bands, str) else ["blue_1", "red_2"]
    assert encoder(torch.zeros(1, 2, 64, 64), bands=ranges).cls.shape == (1, 64)


_LARGE = np.random.default_rng(1).integers(300, 3000, (12, 100, 70)).astype(np.uint16)


def test_a_size_that_the_patch_does_not_divide_is_resized_and_that_is_said(encoder: SensorEncoder) -> None:
    found = encoder.encode(_LARGE, sensor=_S2)
    assert "images of 100 × 70 pixels were resized to 64 × 64, the size of the network" in found.notes[-1]
    meant = encoder.encode(_LARGE, sensor=_S2, options=EncodeOptions(resize="whole"))
    assert torch.equal(meant.cls, found.cls)
    assert not any("resized" in note for note in meant.notes)
    assert not any("resized" in note for note in encoder.encode(_ARRAY, sensor=_S2).notes)
    of_set = encoder.encode_set([SetImage(array=_LARGE, sensor=_S2)])
    assert "100 × 70 pixels were resized to 64 × 64" in of_set.notes[-1]


def test_padding_keeps_every_pixel_and_adds_none(encoder: SensorEncoder) -> None:
    options = EncodeOptions(resize="pad")
    padded = encoder.encode(_LARGE, sensor=_S2, options=options)
    by_hand = np.zeros((12, 112, 80), np.uint16)
    by_hand[:, :100, :70] = _LARGE
    assert torch.equal(padded.cls, encoder.encode(by_hand, sensor=_S2).cls)
    assert padded.map.shape == (64, 7, 5)
    # 4 of the last 16 rows have data: too few for features.
    assert padded.map[:, 6].isnan().all()
    assert not padded.map[:, :6, :4].isnan().any()
    of_set = encoder.encode_set([SetImage(array=_LARGE, sensor=_S2)], options=options)
    assert torch.equal(of_set.cls, padded.cls)


def test_tiles_are_encoded_one_by_one(encoder: SensorEncoder) -> None:
    tiles = encoder.encode(_LARGE, sensor=_S2, options=EncodeOptions(resize="tiles", batch_size=3))
    assert tiles.map.shape == (64, 7, 5)
    first = encoder.encode(_LARGE[:, :64, :64], sensor=_S2)
    assert torch.allclose(tiles.map[:, :4, :4], first.map, atol=1e-5)
    rest = [_LARGE[:, 64:, :64], _LARGE[:, :64, 64:], _LARGE[:, 64:, 64:]]
    filled = [np.pad(part, ((0, 0), (0, 64 - part.shape[1]), (0, 64 - part.shape[2]))) for part in rest]
    vectors = torch.stack([first.cls, *(encoder.encode(part, sensor=_S2).cls for part in filled)])
    assert torch.allclose(tiles.cls, vectors.mean(dim=0), atol=1e-5)


def test_tiles_without_data_do_not_count(encoder: SensorEncoder) -> None:
    options = EncodeOptions(resize="tiles")
    wide = np.concatenate([_ARRAY, np.zeros_like(_ARRAY)], axis=2)
    found = encoder.encode(wide, sensor=_S2, options=options)
    assert torch.allclose(found.cls, encoder.encode(_ARRAY, sensor=_S2).cls, atol=1e-5)
    assert found.map[:, :, 4:].isnan().all()
    with pytest.raises(InputError, match="image 1 has no pixel with data"):
        encoder.encode(np.stack([wide, np.zeros_like(wide)]), sensor=_S2, options=options)


def test_padding_to_a_size_is_refused(encoder: SensorEncoder) -> None:
    with pytest.raises(InputError, match="resize='pad' keeps the pixels of images"):
        encoder.encode(_LARGE, sensor=_S2, options=EncodeOptions(resize="pad", img_size=64))


def test_statistics_of_the_scene_are_counted_from_its_valid_pixels(
    features: Callable[..., torch.Tensor], encoder: SensorEncoder
) -> None:
    from anyband.data.harmonise import count_statistics

    counted = count_statistics([(_ARRAY, ~_HIDDEN)], get_sensor(_S2))
    expected = encoder.encode(_ARRAY, sensor=_S2, valid=~_HIDDEN, options=EncodeOptions(statistics=counted)).cls
    masked = np.ma.masked_array(_ARRAY, _HIDDEN)
    found = encoder.encode(masked, sensor=_S2, options=EncodeOptions(statistics="scene")).cls
    assert torch.equal(found, expected)
    own = encoder.encode_set([SetImage(array=masked, sensor=_S2, statistics="scene")])
    default = encoder.encode_set([SetImage(array=masked, sensor=_S2)], options=EncodeOptions(statistics="scene"))
    assert torch.equal(own.cls, expected)
    assert torch.equal(default.cls, expected)


def test_physical_values_are_declared_as_such(encoder: SensorEncoder) -> None:
    scaled = encoder.encode((_ARRAY * 1e-4).astype(np.float32), sensor=_S2, encoding="physical").cls
    assert torch.allclose(scaled, encoder.encode(_ARRAY, sensor=_S2, encoding="dn").cls, atol=1e-5)
