"""Physical units back to what files store."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from anyband.data.harmonise import can_hold, normalisation_for, rounded_into, to_physical, to_stored
from anyband.errors import InputError
from anyband.sensors.catalogue import get_sensor


@pytest.mark.parametrize(
    ("sensor", "encoding", "stored"),
    [
        ("sentinel2-l2a", "dn", np.arange(1, 65536, 7)),
        ("sentinel1-grd", "db_int100", np.arange(-3000, 3000)),
        ("sentinel1-grd", "amplitude", np.linspace(1, 3000, 999)),
        ("sentinel1-grd", "linear", np.geomspace(1e-4, 10, 999)),
        ("landsat8-oli-tirs-l1", None, np.arange(1000, 65536, 11)),
    ],
)
def test_what_was_decoded_is_encoded_back(sensor: str, encoding: str | None, stored: np.ndarray) -> None:
    found = get_sensor(sensor)
    known = [band.name for band in found.bands if band.statistics is not None] or list(found.band_names)
    found = found.select(known)
    from anyband.sensors.sensor import BandStatistics

    statistics = dict.fromkeys(found.band_names, BandStatistics(p01=0.0, p99=1.0, mean=0.5, std=0.2))
    n = normalisation_for(found, encoding=encoding, statistics=statistics)
    dn = np.broadcast_to(stored.astype(np.float32), (len(found.bands), 1, stored.size))
    physical = to_physical(torch.from_numpy(dn.copy()), n).numpy()
    assert np.allclose(to_stored(physical, n), dn, rtol=3e-5, atol=2e-3)


def test_reflectance_as_whole_numbers_comes_back_exactly() -> None:
    sensor = get_sensor("sentinel2-l2a").select(["B04"])
    n = normalisation_for(sensor, encoding="dn")
    dn = np.arange(65536, dtype=np.int64).reshape(1, 256, 256)
    stored = to_stored(to_physical(torch.from_numpy(dn), n).numpy(), n)
    assert (rounded_into(stored, "uint16", nodata=None) == dn).all()


@given(
    st.sampled_from(["uint8", "int8", "uint16", "int16", "int32", "float32", "float64"]),
    st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=20),
    st.one_of(st.none(), st.integers(-130, 260).map(float), st.just(float("nan")), st.just(65535.0)),
)
def test_numbers_fit_their_type_and_are_never_nodata(dtype: str, values: list[float], nodata: float | None) -> None:
    stored = np.array(values).reshape(1, 1, -1)
    found = rounded_into(stored, dtype, nodata=nodata)
    assert found.dtype == dtype
    assert np.isfinite(found).all()
    if nodata is not None:
        assert not (found == nodata).any()
    inside = (np.abs(stored) < 100) & ((stored >= 0) | (not dtype.startswith("u")))
    assert (np.abs(found[inside].astype(float) - stored[inside]) <= 1.5).all()


@pytest.mark.parametrize(
    ("dtype", "nodata", "stored", "expected"),
    [
        ("uint16", 0.0, 0.3, 1),
        ("uint16", 0.0, -70.0, 1),
        ("uint8", 255.0, 300.0, 254),
        ("int16", -9999.0, -9998.8, -9998),
        ("int16", -9999.0, -9999.2, -10000),
        ("uint8", None, 300.0, 255),
    ],
)
def test_a_number_beside_nodata_is_on_the_side_of_the_true_one(
    dtype: str, nodata: float | None, stored: float, expected: int
) -> None:
    assert rounded_into(np.full((1, 1, 1), stored), dtype, nodata=nodata).item() == expected


@pytest.mark.parametrize(
    ("dtype", "number", "expected"),
    [
        ("uint16", -9999.0, False),
        ("uint16", 65535.0, True),
        ("uint8", 0.5, False),
        ("int16", float("nan"), False),
        ("float32", float("nan"), True),
        ("float32", 1e300, False),
    ],
)
def test_what_a_type_can_hold(dtype: str, number: float, expected: bool) -> None:
    assert can_hold(dtype, number) == expected


def test_another_number_of_bands_is_refused() -> None:
    n = normalisation_for(get_sensor("sentinel2-l2a").select(["B04"]))
    with pytest.raises(InputError, match="'sentinel2-l2a' has 1 band here"):
        to_stored(np.zeros((2, 4, 4)), n)
