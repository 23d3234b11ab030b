"""The arrays of a store are plain Zarr v3: zarr-python reads from them what `ChipStore.read` gives."""

import numpy as np
import pytest
import zarr


@pytest.mark.parametrize("array", ["testoptical_8x8", "testradar_4x4"])
def test_zarr_reads_the_digital_numbers(make_store, array: str) -> None:
    store = make_store(6, dates=2, holes=True)
    stored, _ = store.read(array, range(store.arrays[array].num_chips))
    second = zarr.open_array(store.path / "chips" / array, mode="r")
    assert second.dtype == stored.dtype
    assert np.array_equal(second[:], stored)


def test_zarr_reads_the_same_validity(make_store) -> None:
    store = make_store(6, holes=True)
    _, valid = store.read("testoptical_8x8", range(6))
    second = zarr.open_array(store.path / "valid" / "testoptical_8x8", mode="r")
    assert np.array_equal(second[:] != 0, valid)


def test_zarr_finds_shards_dimensions_and_codecs_as_declared(make_store) -> None:
    second = zarr.open_array(make_store(3).path / "chips" / "testoptical_8x8", mode="r")
    assert second.metadata.dimension_names == ("chip", "band", "row", "col")
    assert second.shards == (256, 2, 8, 8)
    assert second.chunks == (1, 2, 8, 8)


def test_zarr_reads_shards_that_are_only_partly_filled(make_store, monkeypatch) -> None:
    monkeypatch.setattr("anyband.data.store_writer.CHIPS_PER_SHARD", 4)
    store = make_store(10)
    rows = np.array([9, 0, 4, 3])
    second = zarr.open_array(store.path / "chips" / "testoptical_8x8", mode="r")
    assert np.array_equal(second.oindex[rows], store.read("testoptical_8x8", rows)[0])


def test_zarr_finds_what_bands_and_numbers_mean(make_store) -> None:
    path = make_store(2).path
    said = zarr.open_array(path / "chips" / "testradar_4x4", mode="r").attrs
    assert (said["sensor"], said["bands"], said["units"], said["nodata"]) == (
        "testradar",
        ["VV"],
        ["sigma0_db"],
        -32768,
    )
    assert said["encoding"]["VV"]["scale"] == 0.01
    assert said["wavelength_nm"] == [pytest.approx(5.55e7, rel=0.01)]
    optical = zarr.open_array(path / "chips" / "testoptical_8x8", mode="r").attrs
    assert optical["units"] == ["reflectance", "reflectance"]
    assert all(300 < wavelength < 3000 for wavelength in optical["wavelength_nm"])
