"""Images from the others of their place: what is kept to the bit, what is predicted, and what is refused."""

import datetime as dt
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine

from anyband.data.manifest import ImageEntry, parse_entry
from anyband.encode.complete import SetCompleter
from anyband.errors import AssignmentError, GeometryError, InputError, OutputError
from anyband.models.autoencoder import Autoencoder, AutoencoderConfig
from anyband.models.checkpoint import Checkpoint, state_of
from anyband.models.encodings import EncodingConfig
from anyband.rasters.formats import QuietReader
from anyband.rasters.grid import IDENTITY
from anyband.rasters.writer import write_geotiff
from anyband.scenes.reconstruct import ReconstructReport, TargetImage, reconstruct
from anyband.sensors.catalogue import get_sensor

_S2 = get_sensor("sentinel2-l2a")
_DATE = dt.datetime(2020, 6, 10, tzinfo=dt.UTC)


def _clouds(height: int = 32, width: int = 32) -> np.ndarray:
    cloudy = np.zeros((height, width), dtype=bool)
    cloudy[3:14, 5:21] = True
    return cloudy


def _covered(entry: ImageEntry, mask: Path) -> ImageEntry:
    return replace(entry, source=replace(entry.source, valid_paths=(mask,), valid_values=(0.0,)))


def _filled(
    completer: SetCompleter, place: Any, cloudy: np.ndarray, *, context: list[ImageEntry] | None = None
) -> tuple[np.ndarray, np.ndarray, ReconstructReport]:
    """Cover the true image with clouds of 9999 and fill it; give what was stored, and what is now."""
    stored = np.where(cloudy, np.uint16(9999), place.truth)
    entry = _covered(place.optical("2020-06-10", pixels=stored, name="target"), place.clouds(cloudy))
    others = context or [place.optical("2020-06-05"), place.radar("2020-06-11"), place.optical("2020-07-01")]
    target = TargetImage(sensor=_S2, time=_DATE, entry=entry)
    report = reconstruct(completer, others, target, place.folder / "out.tif")
    with rasterio.open(report.image) as file:
        return stored, file.read(), report


def test_seen_pixels_keep_their_numbers_to_the_bit(completer: SetCompleter, make_place: Callable[..., Any]) -> None:
    cloudy = _clouds(50, 70)
    stored, written, report = _filled(completer, make_place(50, 70), cloudy)
    assert (written[:, ~cloudy] == stored[:, ~cloudy]).all()
    assert written.dtype == np.uint16
    assert report.num_filled == cloudy.sum()


def test_cloudy_pixels_are_predicted_and_are_not_nodata(
    completer: SetCompleter, make_place: Callable[..., Any]
) -> None:
    cloudy = _clouds(50, 70)
    _, written, _ = _filled(completer, make_place(50, 70), cloudy)
    assert (written[:, cloudy] != 9999).all()
    assert (written[:, cloudy] > 0).all()


@pytest.mark.parametrize("size", [(32, 32), (50, 70), (64, 40), (300, 33)])
def test_where_the_answer_is_known_it_comes_back_in_digital_numbers_exactly(
    oracle: SetCompleter, make_place: Callable[..., Any], size: tuple[int, int]
) -> None:
    place = make_place(*size)
    _, written, report = _filled(oracle, place, _clouds(*size))
    assert (written == place.truth).all()
    assert report.num_unfilled == 0


def test_a_whole_image_comes_back_in_digital_numbers_exactly(
    oracle: SetCompleter, make_place: Callable[..., Any], tmp_path: Path
) -> None:
    place = make_place(50, 70)
    target = TargetImage(sensor=_S2, time=_DATE)
    others = [place.optical("2020-06-05"), place.radar("2020-06-20")]
    report = reconstruct(oracle, others, target, tmp_path / "out.tif")
    with rasterio.open(report.image) as file:
        assert (file.read() == place.truth).all()


def test_a_whole_image_is_stored_as_the_nearest_one_of_its_sensor(
    completer: SetCompleter, make_place: Callable[..., Any], tmp_path: Path
) -> None:
    place = make_place(32, 32)
    others = [place.radar("2020-06-09"), place.optical("2020-06-01")]
    report = reconstruct(completer, others, TargetImage(sensor=_S2, time=_DATE), tmp_path / "out.tif")
    with rasterio.open(report.image) as file:
        assert file.descriptions == ("B02", "B03", "B04")
        assert (set(file.dtypes), file.nodata) == ({"uint16"}, 0.0)
        # The first image of the list has pixels of 20 m; the sensor has 10 m.
        assert (file.height, file.width, file.transform.a, file.crs.to_epsg()) == (32, 32, 10.0, 32632)
        assert file.tags()["ANYBAND_CONTEXT"] == "sentinel1-grd 2020-06-09; sentinel2-l2a 2020-06-01"
    assert any("stored as uint16" in note and "s2_2020-06-01.tif" in note for note in report.notes)


def test_a_sensor_without_another_image_is_stored_by_its_own_encoding(
    completer: SetCompleter, make_place: Callable[..., Any], tmp_path: Path
) -> None:
    place = make_place(32, 32)
    others = [place.optical("2020-06-01")]
    radar = TargetImage(sensor=get_sensor("sentinel1-grd"), time=_DATE)
    report = reconstruct(completer, others, radar, tmp_path / "out.tif")
    with rasterio.open(report.image) as file:
        assert set(file.dtypes) == {"float32"}
        assert np.isnan(file.nodata)
        assert np.isfinite(file.read()).all()
    coded = replace(radar, encoding="db_int100", dtype="int16")
    report = reconstruct(completer, others, coded, tmp_path / "coded.tif")
    with rasterio.open(report.image) as file, rasterio.open(tmp_path / "out.tif") as plain:
        assert np.abs(file.read() * 0.01 - plain.read()).max() <= 0.0051


def test_the_grid_of_another_raster_can_be_taken(
    completer: SetCompleter, make_place: Callable[..., Any], tmp_path: Path
) -> None:
    place = make_place(64, 64)
    like = place.optical("2020-01-01", pixels=place.truth[:, :40, :48], name="like").source.paths[0]
    target = TargetImage(sensor=_S2, time=_DATE, like=like)
    report = reconstruct(completer, [place.optical("2020-06-01")], target, tmp_path / "out.tif")
    assert (report.grid.height, report.grid.width) == (40, 48)


def test_pixels_without_data_are_filled_though_no_mask_says_so(
    oracle: SetCompleter, make_place: Callable[..., Any], tmp_path: Path
) -> None:
    place = make_place()
    stored = place.truth.copy()
    stored[1, 4:9, 4:9] = 0
    entry = place.optical("2020-06-10", pixels=stored, name="target")
    target = TargetImage(sensor=_S2, time=_DATE, entry=entry)
    report = reconstruct(oracle, [place.optical("2020-06-05")], target, tmp_path / "out.tif")
    with rasterio.open(report.image) as file:
        assert (file.read() == place.truth).all()
    assert report.num_filled == 25


def test_numbers_under_clouds_change_nothing(completer: SetCompleter, make_place: Callable[..., Any]) -> None:
    place = make_place(40, 40)
    cloudy = _clouds(40, 40)
    _, first, _ = _filled(completer, place, cloudy)
    entry = place.optical("2020-06-10", pixels=np.where(cloudy, np.uint16(77), place.truth), name="target")
    target = TargetImage(sensor=_S2, time=_DATE, entry=_covered(entry, place.clouds(cloudy)))
    others = [place.optical("2020-06-05"), place.radar("2020-06-11"), place.optical("2020-07-01")]
    with rasterio.open(reconstruct(completer, others, target, place.folder / "again.tif").image) as file:
        assert (file.read() == first).all()


def test_the_target_is_not_looked_at_through_the_list(
    completer: SetCompleter, make_place: Callable[..., Any], tmp_path: Path
) -> None:
    place = make_place()
    others = [place.optical("2020-06-10T10:00:00"), place.optical("2020-06-01")]
    report = reconstruct(completer, others, TargetImage(sensor=_S2, time=_DATE), tmp_path / "out.tif")
    assert report.context == ("sentinel2-l2a 2020-06-01",)
    assert any("it is the target itself" in note for note in report.notes)
    with pytest.raises(InputError, match="no image but the target itself"):
        reconstruct(completer, others[:1], TargetImage(sensor=_S2, time=_DATE), tmp_path / "out.tif")


def test_where_no_image_has_data_nothing_is_invented(
    completer: SetCompleter, make_place: Callable[..., Any], tmp_path: Path
) -> None:
    place = make_place(128, 32)
    like = place.optical("2020-01-01", name="like").source.paths[0]
    target = TargetImage(sensor=_S2.select(["B02"]), time=_DATE, like=like)
    report = reconstruct(completer, [place.radar("2020-06-09", height=16)], target, tmp_path / "out.tif")
    with rasterio.open(report.image) as file:
        written = file.read(1)
    # Windows of 32 rows every 16: what begins below row 32 sees no radar.
    assert (written[:32] > 0).all()
    assert (written[48:] == 0).all()
    assert report.num_unfilled == (written == 0).sum() == 80 * 32


def test_a_failure_leaves_the_old_output_and_no_pieces(
    completer: SetCompleter, make_place: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = make_place(300, 40)
    (place.folder / "out.tif").write_text("old")
    calls = []

    def failing(*_: object) -> None:
        calls.append(1)
        raise InputError("stopped half way")

    monkeypatch.setattr(completer.model, "complete", failing)
    with pytest.raises(InputError, match="stopped half way"):
        _filled(completer, place, np.ones((300, 40), dtype=bool))
    assert calls
    assert (place.folder / "out.tif").read_text() == "old"
    assert not [path.name for path in place.folder.iterdir() if "partial" in path.name or "picture" in path.name]


def test_a_window_larger_than_the_networks_input_still_fills_everything(
    completer: SetCompleter, make_place: Callable[..., Any], tmp_path: Path
) -> None:
    place = make_place(100, 90)
    target = TargetImage(sensor=_S2, time=_DATE)
    options = {"window": 70, "num_context": 1, "precision": "bf16"}
    report = reconstruct(completer, [place.optical("2020-06-01")], target, tmp_path / "out.tif", **options)
    assert (report.num_filled, report.num_unfilled) == (9000, 0)


def test_a_clear_target_is_copied(completer: SetCompleter, make_place: Callable[..., Any]) -> None:
    place = make_place()
    _, written, report = _filled(completer, place, np.zeros((32, 32), dtype=bool))
    assert (written == place.truth).all()
    assert report.num_filled == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [({"window": 7}, "a window of 7 pixels does not fit a target of 32 × 32; take 8 to 32"), ({"window": 33}, "33")],
)
def test_a_window_that_does_not_fit_is_refused(
    completer: SetCompleter, make_place: Callable[..., Any], tmp_path: Path, options: Any, message: str
) -> None:
    target = TargetImage(sensor=_S2, time=_DATE)
    with pytest.raises(GeometryError, match=message):
        others = [make_place().optical("2020-06-01")]
        reconstruct(completer, others, target, tmp_path / "out.tif", **options)


def test_bands_that_the_network_can_not_reconstruct_are_named(
    completer: SetCompleter, make_place: Callable[..., Any], tmp_path: Path
) -> None:
    place = make_place()
    others = [place.optical("2020-06-01")]
    landsat = TargetImage(sensor=get_sensor("capella-x"), time=_DATE)
    completer.rules = replace(completer.rules, min_support=0.9)
    with pytest.raises(AssignmentError, match=r"can't reconstruct 'capella-x'(.|\n)*HH(.|\n)*--bands"):
        reconstruct(completer, others, landsat, tmp_path / "out.tif")


def test_dates_are_needed_and_not_of_the_future(
    completer: SetCompleter, make_place: Callable[..., Any], tmp_path: Path
) -> None:
    others = [make_place().optical("2020-06-01")]
    with pytest.raises(InputError, match="when was the target taken"):
        reconstruct(completer, others, TargetImage(sensor=_S2), tmp_path / "out.tif")
    later = dt.datetime.now(dt.UTC) + dt.timedelta(days=3)
    with pytest.raises(InputError, match="lies in the future"):
        reconstruct(completer, others, TargetImage(sensor=_S2, time=later), tmp_path / "out.tif")


def test_images_elsewhere_are_named(completer: SetCompleter, make_place: Callable[..., Any], tmp_path: Path) -> None:
    place = make_place()
    grid = place.grid((32, 32), 10.0)
    away = replace(grid, transform=(10.0, 0.0, 500000.0, 0.0, -10.0, 5700000.0))
    write_geotiff(tmp_path / "like.tif", place.truth[:1], grid=away, descriptions=("B02",))
    target = TargetImage(sensor=_S2, time=_DATE, like=tmp_path / "like.tif")
    with pytest.raises(InputError, match=r"none of the 1 image shows ground of the target(.|\n)*s2_2020-06-01.tif"):
        reconstruct(completer, [place.optical("2020-06-01")], target, tmp_path / "out.tif")


def test_another_coordinate_system_is_named(
    completer: SetCompleter, make_place: Callable[..., Any], tmp_path: Path
) -> None:
    place = make_place()
    other = replace(place.grid((32, 32), 10.0), crs="EPSG:32633")
    write_geotiff(tmp_path / "like.tif", place.truth[:1], grid=other, descriptions=("B02",))
    target = TargetImage(sensor=_S2, time=_DATE, like=tmp_path / "like.tif")
    with pytest.raises(InputError, match="it has EPSG:32632, the target EPSG:32633; reproject one of them"):
        reconstruct(completer, [place.optical("2020-06-01")], target, tmp_path / "out.tif")


def test_images_without_coordinates_are_placed_by_their_shapes(
    oracle: SetCompleter, make_place: Callable[..., Any], tmp_path: Path
) -> None:
    place = make_place(40, 48)
    nowhere = replace(place.grid((40, 48), 10.0), crs=None, transform=IDENTITY)
    stored = place.truth.copy()
    stored[:, 5:9, 7:20] = 0
    entries = []
    for name, pixels in (("other", place.truth), ("target", stored)):
        write_geotiff(tmp_path / f"{name}.tif", pixels, grid=nowhere, descriptions=("B02", "B03", "B04"), nodata=0.0)
        row = {"path": f"{name}.tif", "sensor": "sentinel2-l2a", "bands": "B02;B03;B04"}
        entries.append(parse_entry({**row, "datetime": f"2020-0{len(name)}-01"}, folder=tmp_path))
    target = TargetImage(sensor=_S2, time=_DATE, entry=entries[1])
    report = reconstruct(oracle, entries[:1], target, tmp_path / "out.tif")
    assert report.grid.crs is None
    with rasterio.Env(), QuietReader(str(report.image)) as file:
        assert (file.read() == place.truth).all()


def test_many_images_elsewhere_are_counted_and_not_all_named(
    completer: SetCompleter, make_place: Callable[..., Any], tmp_path: Path
) -> None:
    place = make_place()
    others = [place.optical(f"2020-05-{day:02d}") for day in range(1, 7)]
    for entry in others[1:]:
        with rasterio.open(entry.source.paths[0], "r+") as file:
            file.transform = Affine(10.0, 0.0, 500000.0, 0.0, -10.0, 5700000.0)
    report = reconstruct(completer, others, TargetImage(sensor=_S2, time=_DATE), tmp_path / "out.tif")
    assert report.context == ("sentinel2-l2a 2020-05-01",)
    assert sum("'s2_" in note and "is left out" in note for note in report.notes) == 3
    assert "and 2 more images are left out" in report.notes


def test_images_that_the_network_can_not_read_are_left_out_and_named(
    completer: SetCompleter, make_place: Callable[..., Any], tmp_path: Path
) -> None:
    place = make_place()
    grid = place.grid((32, 32), 10.0)
    names = get_sensor("spot6-7").band_names[:3]
    write_geotiff(tmp_path / "spot.tif", place.truth, grid=grid, descriptions=names)
    row = {"path": "spot.tif", "sensor": "spot6-7", "bands": ";".join(names), "datetime": "2020-06-09"}
    spot = parse_entry(row, folder=tmp_path)
    target = TargetImage(sensor=_S2, time=_DATE)
    report = reconstruct(completer, [spot, place.optical("2020-06-01")], target, tmp_path / "out.tif")
    assert report.context == ("sentinel2-l2a 2020-06-01",)
    assert any("'spot.tif' is left out: no normalisation statistics" in note for note in report.notes)
    with pytest.raises(InputError, match="none of the 1 image can be read by this network"):
        reconstruct(completer, [spot], target, tmp_path / "out.tif")


def test_windows_in_which_all_is_seen_are_passed_without_reading_the_others(
    completer: SetCompleter, make_place: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    real = completer.complete

    def complete(places: Any, **options: Any) -> Any:
        seen.append(len(places))
        return real(places, **options)

    monkeypatch.setattr(completer, "complete", complete)
    cloudy = np.zeros((128, 32), dtype=bool)
    cloudy[:4] = True
    _filled(completer, make_place(128, 32), cloudy)
    assert seen == [1]


def test_a_geographic_encoding_has_room_for_three_images(
    set_config: AutoencoderConfig, set_checkpoint: Checkpoint, make_place: Callable[..., Any], tmp_path: Path
) -> None:
    encodings = EncodingConfig(geographic="a2mae")
    encoder = replace(set_config.encoder, embed_dim=32, encodings=encodings)
    config = replace(set_config, encoder=encoder, masking="anchor")
    state = state_of(Autoencoder(config, seed=0))
    network = SetCompleter(replace(set_checkpoint, config=config, state=state)).eval()
    place = make_place()
    others = [place.optical("2020-06-01"), place.optical("2020-06-20"), place.radar("2020-06-12")]
    target = TargetImage(sensor=_S2, time=_DATE)
    with pytest.raises(InputError, match="sets of 4 images were given; the geographic encoding 'a2mae' composes"):
        reconstruct(network, others, target, tmp_path / "out.tif")
    report = reconstruct(network, others, target, tmp_path / "out.tif", num_context=2)
    assert report.num_filled == 32 * 32


def test_an_output_over_an_input_is_refused(completer: SetCompleter, make_place: Callable[..., Any]) -> None:
    place = make_place()
    entry = place.optical("2020-06-01")
    with pytest.raises(OutputError, match="would be lost"):
        reconstruct(completer, [entry], TargetImage(sensor=_S2, time=_DATE), entry.source.paths[0])
    with pytest.raises(OutputError, match=r"must end in \.tif"):
        reconstruct(completer, [entry], TargetImage(sensor=_S2, time=_DATE), place.folder / "out.png")


def test_a_type_that_is_none_is_refused(
    completer: SetCompleter, make_place: Callable[..., Any], tmp_path: Path
) -> None:
    others = [make_place().optical("2020-06-01")]
    with pytest.raises(InputError, match="dtype 'uint12' is not one of uint8"):
        reconstruct(completer, others, TargetImage(sensor=_S2, time=_DATE, dtype="uint12"), tmp_path / "out.tif")


def test_the_picture_shows_every_image_the_target_and_the_result(
    completer: SetCompleter, make_place: Callable[..., Any]
) -> None:
    from PIL import Image

    _, _, report = _filled(completer, make_place(), _clouds())
    with Image.open(report.picture) as picture:
        # Three others, the target as given and filled: four columns, two rows.
        assert picture.width > 1200
        assert picture.height > 600
    assert report.context[0].startswith("sentinel1-grd 2020-06-11")
