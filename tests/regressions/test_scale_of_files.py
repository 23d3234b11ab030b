"""What a file says of the scale and offset of its numbers: a contradiction to the declared encoding is said, and
`encoding: tags` applies it."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

from anyband.data.harmonise import decode
from anyband.data.manifest import entry_sensor, parse_entry
from anyband.data.prepare import PrepareOptions, prepare
from anyband.data.store import ChipStore
from anyband.errors import ManifestError, RasterError
from anyband.rasters.reader import open_raster
from anyband.sensors.sensor import Encoding

_BANDS = ("B02", "B03", "B04", "B08")
_ROW = {"sensor": "sentinel2-l2a", "bands": ";".join(_BANDS)}
_CONTRADICTS = "that contradicts encoding 'dn' (DN · 0.0001), which was taken"
_ADVICE = "; if the file is right, declare `encoding: baseline_04.00`"


def _tif(path: Path, *, scale: float = 1.0, offset: float = 0.0, count: int = 4, x: int = 500_000, **tags) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    ground = {"crs": "EPSG:32632", "transform": Affine(10, 0, x, 0, -10, 5_500_000)}
    shape = {"driver": "GTiff", "count": count, "height": 32, "width": 32, "dtype": "uint16"}
    with rasterio.open(path, "w", **shape, **ground) as file:
        file.write(np.full((count, 32, 32), 3000, "uint16"))
        file.scales, file.offsets = (scale,) * count, (offset,) * count
        file.update_tags(**tags)
    return path


def _entry(path: Path, **row):
    return parse_entry({"path": str(path), **_ROW, **row}, folder=Path())


def _notes(path: Path, **row) -> tuple[str, ...]:
    entry = _entry(path, **row)
    with open_raster(entry.source, entry.sensor, entry.encoding) as reader:
        return tuple(note for note in reader.notes if "physical values" in note)


def test_tags_that_contradict_the_encoding_are_said(tmp_path) -> None:
    path = _tif(tmp_path / "a.tif", scale=1e-4, offset=-0.1)

    (note,) = _notes(path)

    tags = "by its scale and offset tags physical values of B02 and 3 more bands are DN · 0.0001 − 0.1"
    assert note == f"{tags}; {_CONTRADICTS}{_ADVICE} or `tags`"


@pytest.mark.parametrize(
    ("tags", "row"),
    [
        ({"scale": 1e-4}, {"encoding": "dn"}),
        ({"scale": 1e-4, "offset": -0.1}, {"encoding": "baseline_04.00"}),
        ({"scale": 1e-4, "offset": -0.1}, {"scale": "0.0001", "offset": "-0.1"}),
        ({}, {}),
    ],
)
def test_tags_that_agree_and_files_without_any_say_nothing(tmp_path, tags, row) -> None:
    assert _notes(_tif(tmp_path / "a.tif", **tags), **row) == ()


def test_numbers_of_the_list_that_contradict_the_tags_are_said(tmp_path) -> None:
    path = _tif(tmp_path / "a.tif", scale=1e-4, offset=-0.1)

    (note,) = _notes(path, scale="0.001")

    assert "that contradicts the declared encoding (DN · 0.001), which was taken" in note


def test_the_offset_of_a_product_in_the_tags_contradicts_the_encoding(tmp_path) -> None:
    path = _tif(tmp_path / "a.tif", BOA_ADD_OFFSET="-1000", BOA_QUANTIFICATION_VALUE="10000")

    (note,) = _notes(path)

    assert "by its tags BOA_ADD_OFFSET and QUANTIFICATION_VALUE physical values" in note
    assert _CONTRADICTS + _ADVICE in note
    assert "contradicts" not in "".join(_notes(path, encoding="baseline_04.00"))


_METADATA = """<n1:Level-2A_User_Product><PROCESSING_BASELINE>05.09</PROCESSING_BASELINE>
<BOA_QUANTIFICATION_VALUE unit="none">10000</BOA_QUANTIFICATION_VALUE>
<AOT_QUANTIFICATION_VALUE unit="none">1000.0</AOT_QUANTIFICATION_VALUE>
<BOA_ADD_OFFSET_VALUES_LIST>{}</BOA_ADD_OFFSET_VALUES_LIST></n1:Level-2A_User_Product>"""


def _product(folder: Path, offsets) -> Path:
    fields = "".join(f'<BOA_ADD_OFFSET band_id="{number}">{one}</BOA_ADD_OFFSET>' for number, one in enumerate(offsets))
    product = folder / "S2A_MSIL2A_20230701T102601_N0509_R108_T32UQD_20230701T163855.SAFE"
    images = product / "GRANULE" / "L2A_T32UQD" / "IMG_DATA" / "R10m"
    for name in _BANDS:
        _tif(images / f"T32UQD_20230701T102601_{name}_10m.tif", count=1)
    (product / "MTD_MSIL2A.xml").write_text(_METADATA.format(fields))
    return images


def test_the_metadata_of_a_product_say_the_offset_of_each_band(tmp_path) -> None:
    images = _product(tmp_path, [-1000, -1000, 0, -1000, -1000, -1000, -1000, -1000, -1000])

    (note,) = _notes(images)

    said = "by 'MTD_MSIL2A.xml' of its product physical values of B02 and 2 more bands are DN · 0.0001 − 0.1"
    assert note.startswith(f"{said}; {_CONTRADICTS}")
    assert dict(entry_sensor(_entry(images, encoding="tags")).bands[0].encodings)["tags"].offset == -0.1


@pytest.mark.parametrize(
    ("baseline", "encoding", "is_said"),
    [
        ("N0509", "dn", True),
        ("N0400", "dn", True),
        ("N0301", "dn", False),
        ("N0301", "baseline_04.00", True),
        ("N0509", "baseline_04.00", False),
        ("N0509", "reflectance", False),
        ("N9999", "dn", False),
    ],
)
def test_the_processing_baseline_in_a_name_contradicts_the_encoding(tmp_path, baseline, encoding, is_said) -> None:
    path = _tif(tmp_path / f"S2A_MSIL2A_20230701T102601_{baseline}_R108_T32UQD_20230701T163855.tif")

    notes = _notes(path, encoding=encoding)

    assert len(notes) == is_said
    assert all(note.startswith("by its processing baseline 0") for note in notes)


def test_a_baseline_alone_is_never_applied(tmp_path) -> None:
    path = _tif(tmp_path / "S2A_MSIL2A_20230701T102601_N0509_R108_T32UQD_20230701T163855.tif")

    with pytest.raises(RasterError, match=r"nothing in '.*' says the scale and offset of band 'B02'"):
        entry_sensor(_entry(path, encoding="tags"))


@pytest.mark.parametrize("encoding", ["tags", "physical"])
def test_tags_are_applied_by_the_decoding_of_all_and_stand_in_the_store(tmp_path, encoding) -> None:
    paths = [
        _tif(tmp_path / "a.tif", scale=1e-4, offset=-0.1),
        _tif(tmp_path / "b.tif", scale=2e-4, x=900_000),
        _tif(tmp_path / "c.tif", scale=1e-4, offset=-0.1, x=100_000),
    ]
    entries = [_entry(path, encoding=encoding) for path in paths]

    report = prepare(entries, tmp_path / "store", PrepareOptions(fractions=(1.0, 0.0, 0.0)))

    store = ChipStore.open(tmp_path / "store")
    assert {next(iter(info.encoding.values())): info.num_chips for info in store.arrays.values()} == {
        Encoding(scale=1e-4, offset=-0.1, source="its scale and offset tags"): 2,
        Encoding(scale=2e-4, source="its scale and offset tags"): 1,
    }
    assert tuple(note for note in report.notes if "physical values" in note) == (
        "by its scale and offset tags physical values of B02 and 3 more bands are DN · 0.0001 − 0.1, which is applied "
        f"('{paths[0]}' and 1 more)",
        "by its scale and offset tags physical values of B02 and 3 more bands are DN · 0.0002, which is applied "
        f"('{paths[1]}')",
    )
    for name in store.arrays:
        dn, _ = store.read(name, [0])
        sensor = store.array_sensor(name)
        values = decode(dn, sensor)
        expected = 0.2 if sensor.bands[0].encoding(sensor.default_encoding).offset else 0.6
        np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_a_file_without_tags_is_refused_where_tags_are_declared(tmp_path) -> None:
    with pytest.raises(RasterError, match=r"encoding 'tags' is declared, and nothing in '.*a.tif' says the scale"):
        entry_sensor(_entry(_tif(tmp_path / "a.tif"), encoding="tags"))


def test_physical_numbers_need_no_tags(tmp_path) -> None:
    sensor = entry_sensor(_entry(_tif(tmp_path / "a.tif"), encoding="physical"))

    assert sensor.bands[0].encoding("physical") == Encoding()


def test_tags_and_declared_numbers_do_not_go_together(tmp_path) -> None:
    with pytest.raises(ManifestError, match="encoding 'tags' takes scale and offset from the file"):
        _entry(tmp_path / "a.tif", encoding="tags", scale="0.001")


_OF_UNITS = {"degC": (0.01, 273.15), "°C": (0.01, 273.15), "%": (0.0001, 0.0), "K": (0.01, 0.0)}


@pytest.mark.parametrize("unit", _OF_UNITS)
def test_tags_are_brought_to_kelvin_and_shares_by_the_unit_that_the_file_names(tmp_path, unit) -> None:
    path = _tif(tmp_path / "a.tif", scale=0.01)
    with rasterio.open(path, "r+") as file:
        file.units = (unit,) * 4

    encoding = entry_sensor(_entry(path, encoding="tags")).bands[0].encoding("tags")

    assert (encoding.scale, encoding.offset) == pytest.approx(_OF_UNITS[unit])


def test_a_scale_in_degrees_celsius_agrees_with_an_encoding_in_kelvin(tmp_path) -> None:
    path = _tif(tmp_path / "B10.tif", scale=0.01, count=1)

    assert _notes(path, sensor="hls-l30", bands="B10=1") == ()


def test_metadata_beside_the_files_of_a_product_say_the_offset_too(tmp_path) -> None:
    images = _product(tmp_path / "a", [-1000] * 13)
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in [*images.iterdir(), *(tmp_path / "a").glob("*.SAFE/MTD_MSIL2A.xml")]:
        path.rename(flat / path.name)

    (note,) = _notes(flat)

    assert note.startswith("by 'MTD_MSIL2A.xml' of its product physical values of B02 and 3 more bands are")


def test_numbers_of_a_product_that_are_none_say_nothing(tmp_path) -> None:
    assert _notes(_tif(tmp_path / "a.tif", BOA_ADD_OFFSET="--", BOA_QUANTIFICATION_VALUE="1.2.3")) == ()
