"""Write the manifest of a folder of real images of many sensors and formats; `anyband prepare` takes all of it.

    python tests/real/kit.py IMAGES MANIFEST.yaml [--sets [--singles]] [--short]

IMAGES holds small pieces of public data sets; docs/real_data.md names them. Everything here is declared: which sensor
an image is of, what its bands are called in the file, how its numbers are stored, which images show one place.

For pairs, a date of a WorldCereal site is a clear Sentinel-2 image with the Sentinel-1 image nearest to it. For sets
(`--sets`) each sensor has all its dates on which half of the site or more shows the ground; what does not is no data.
Images that stand alone are left out of sets, because they are so many; `--singles` keeps them.
"""

import argparse
import datetime as dt
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5netcdf
import numpy as np
import yaml

Row = dict[str, Any]

FOLDERS = (
    "bigearthnet_mm_pairs",
    "bigearthnet_v2_unpaired",
    "eurosat_ms",
    "landsat8_11band_30m",
    "landsat_timelapse_peru_uint8",
    "landsat_tm_cd",
    "majortom_s2l2a_scene",
    "naip_10dates_5m",
    "rsvqa_hr_rgb_geotiff",
    "sen12mscr",
    "sen1floods11_spain",
    "spacenet6_optical_sar_vhr",
    "ssl4eo_s12_multidate",
    "ucmerced_jpg",
    "worldcereal_monthly_s1_s2",
    "worldcereal_s1_s2_l8_timeseries",
)
SENSORS = Path(__file__).parent / "sensors"
S2_L2A = ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12"]
S2_L1C = ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12"]
EUROSAT = ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09", "B10", "B11", "B12", "B8A"]
# 20·log10(stored) − 83 dB, as scale of the amplitude. Source: ESA WorldCereal, description of the openEO extractions.
WORLDCEREAL_AMPLITUDE = 10 ** (-83 / 20)
# Scene classes that show the ground: vegetation, bare, water, unclassified, snow.
# Source: ESA, Sen2Cor ATBD, table of SCL.
CLEAR_CLASSES = [4, 5, 6, 7, 11]
# Land, water and snow, each with clouds of low or medium confidence and no cirrus.
# Source: USGS, Landsat 8 Collection 1 LaSRC Product Guide, LSDS-1368, values of pixel_qa.
CLEAR_LANDSAT = [322, 324, 336, 386, 388, 400]
# chosen: as the least share of data of a chip in `anyband prepare`.
LEAST_CLEAR_OF_A_SET = 0.5


def _by_index(names: list[str]) -> dict[str, int]:
    return {name: index + 1 for index, name in enumerate(names)}


def _bigearthnet(images: Path) -> Iterator[Row]:
    for folder in sorted((images / "bigearthnet_mm_pairs").glob("S2A_*")):
        both = {
            "path": str(folder),
            "place": f"bigearthnet {folder.name[-5:]}",
            "datetime": "2017-06-13T10:10:31Z",
        }
        yield both | {"sensor": "sentinel2-l2a", "encoding": "dn"}
        yield both | {"sensor": "sentinel1-grd", "encoding": "db"}
    for folder in sorted((images / "bigearthnet_v2_unpaired").glob("S*")):
        radar = folder.name.startswith("S1")
        yield {
            "path": str(folder),
            "sensor": "sentinel1-grd" if radar else "sentinel2-l2a",
            "encoding": "db" if radar else "dn",
            "datetime": _stamp(folder.name),
        }


def _stamp(name: str) -> str:
    found = re.search(r"(\d{8}T\d{6})", name)
    if found is None:
        raise ValueError(f"no date in '{name}'")
    return dt.datetime.strptime(found[1], "%Y%m%dT%H%M%S").replace(tzinfo=dt.UTC).isoformat()


def _ssl4eo(images: Path) -> Iterator[Row]:
    declared = {"s1": ("sentinel1-grd", "db"), "s2c": ("sentinel2-l1c", "dn"), "s2a": ("sentinel2-l2a", "dn")}
    for kind, (sensor, encoding) in declared.items():
        for folder in sorted((images / "ssl4eo_s12_multidate" / kind).glob("*/*")):
            row = {"path": str(folder), "sensor": sensor, "encoding": encoding, "place": "ssl4eo 0000200"}
            yield row | {"datetime": _stamp(folder.name)}


def _sen12mscr(images: Path) -> Iterator[Row]:
    folder, name = images / "sen12mscr", "ROIs1970_fall_139_p839.tif"
    place = {"place": "sen12mscr p839"}
    yield place | {
        "path": str(folder / "s1" / name),
        "sensor": "sentinel1-grd",
        "encoding": "db",
        "bands": _by_index(["VV", "VH"]),
    }
    for sky in ("s2_cloudfree", "s2_cloudy"):
        optical = {"sensor": "sentinel2-l1c", "encoding": "dn", "bands": _by_index(S2_L1C)}
        yield place | optical | {"path": str(folder / sky / name)}


def _sen1floods11(images: Path) -> Iterator[Row]:
    folder = images / "sen1floods11_spain"
    place = {"place": "sen1floods11 Spain_7370579"}
    yield place | {
        "path": str(folder / "S1" / "Spain_7370579_S1Hand.tif"),
        "sensor": "sentinel1-grd",
        "encoding": "db",
    }
    optical = {"sensor": "sentinel2-l1c", "encoding": "dn", "bands": _by_index(S2_L1C)}
    yield place | optical | {"path": str(folder / "S2" / "Spain_7370579_S2Hand.tif")}


def _times(path: Path) -> list[dt.datetime]:
    with h5netcdf.File(path, "r", invalid_netcdf=True) as file:
        variable = file.variables["timestamp"]
        start = dt.datetime.fromisoformat(str(variable.attrs["units"]).removeprefix("seconds since "))
        return [start + dt.timedelta(seconds=int(seconds)) for seconds in variable[...]]


def _clear_dates(path: Path, variable: str, classes: list[int], least: float) -> list[int]:
    with h5netcdf.File(path, "r", invalid_netcdf=True) as file:
        found = file.variables[variable][...]
    return [int(i) for i in np.flatnonzero(np.isin(found, classes).mean((1, 2)) >= least)]


def _spread(dates: list[int], most: int) -> list[int]:
    """Take at most so many, evenly spread over the series."""
    return [dates[int(i)] for i in np.linspace(0, len(dates) - 1, min(most, len(dates))).round()]


def _worldcereal(images: Path, most: int) -> Iterator[Row]:
    """Clear Sentinel-2 dates, each with the Sentinel-1 date nearest to it; Landsat-8 where the site has it."""
    for site, optical, radar in _worldcereal_sites(images):
        dates, radar_dates = _times(optical[-1]), _times(radar)
        for index in _clear_dates(optical[-1], "SCL", CLEAR_CLASSES, 0.95)[:most]:
            nearest = min(range(len(radar_dates)), key=lambda other: abs(radar_dates[other] - dates[index]))
            yield _worldcereal_optical(site, optical, index, dates[index])
            yield _worldcereal_radar(site, radar, nearest, radar_dates[nearest])
        yield from _worldcereal_landsat(site, most)


def _worldcereal_sets(images: Path, most: int) -> Iterator[Row]:
    """All dates of each sensor that show enough ground; clouds and their shadows are no data."""
    for site, optical, radar in _worldcereal_sites(images):
        dates, radar_dates = _times(optical[-1]), _times(radar)
        for index in _spread(_clear_dates(optical[-1], "SCL", CLEAR_CLASSES, LEAST_CLEAR_OF_A_SET), most):
            row = _worldcereal_optical(site, optical, index, dates[index])
            yield row | {"valid": str(optical[-1]), "valid_variable": "SCL", "valid_values": CLEAR_CLASSES}
        for index in _spread(list(range(len(radar_dates))), most):
            yield _worldcereal_radar(site, radar, index, radar_dates[index])
        yield from _worldcereal_landsat(site, most)


def _worldcereal_sites(images: Path) -> Iterator[tuple[Path, list[Path], Path]]:
    """Give each site with its Sentinel-2 files, the one with scene classes last, and its Sentinel-1 file."""
    root = images / "worldcereal_s1_s2_l8_timeseries"
    for site in sorted(path for path in root.iterdir() if path.is_dir()):
        (radar,) = site.glob("S1_GRD-*.nc")
        yield site, sorted(site.glob("S2_L2A_*.nc")), radar


def _worldcereal_optical(site: Path, files: list[Path], index: int, date: dt.datetime) -> Row:
    fine = len(files) == 2
    names = S2_L2A[1:9] + S2_L2A[10:] if fine else ["B05", "B06", "B07", "B8A", "B11", "B12"]
    return {
        "path": ";".join(map(str, files)), "sensor": "sentinel2-l2a", "place": f"worldcereal {site.name}",
        "encoding": "dn", "time": index, "bands": {name: name for name in names}, "datetime": date.isoformat(),
    }  # fmt: skip


def _worldcereal_radar(site: Path, path: Path, index: int, date: dt.datetime) -> Row:
    return {
        "path": str(path), "sensor": "sentinel1-grd", "place": f"worldcereal {site.name}", "scale": 1e-4, "offset": 0.0,
        "time": index, "bands": {"VV": "VV", "VH": "VH"}, "datetime": date.isoformat(),
    }  # fmt: skip


def _worldcereal_landsat(site: Path, most: int) -> Iterator[Row]:
    for path in site.glob("L8_SR_*.nc"):
        dates = _times(path)
        for index in _spread(_clear_dates(path, "pixel_qa", CLEAR_LANDSAT, LEAST_CLEAR_OF_A_SET), most):
            yield {
                "path": str(path), "sensor": str(SENSORS / "landsat8_c1_sr.yaml"), "place": f"worldcereal {site.name}",
                "bands": {f"B{band}": f"B{band:02d}" for band in (2, 3, 4, 5, 6, 7, 10, 11)},
                "valid": str(path), "valid_variable": "pixel_qa", "valid_values": CLEAR_LANDSAT,
                "time": index, "datetime": dates[index].isoformat(),
            }  # fmt: skip


def _worldcereal_monthly(images: Path) -> Iterator[Row]:
    path = images / "worldcereal_monthly_s1_s2" / "worldcereal_preprocessed_inputs.nc"
    names = ["B02", "B03", "B04", "B05", "B06", "B07", "B08", "B11", "B12"]
    for month in range(12):
        row = {"path": str(path), "place": "worldcereal monthly", "time": month}
        row["datetime"] = f"{2020 + (month + 10) // 12}-{(month + 10) % 12 + 1:02d}-01T00:00:00Z"
        yield row | {
            "sensor": "sentinel2-l2a", "encoding": "dn", "nodata": 65535, "bands": {n: f"S2-L2A-{n}" for n in names},
        }  # fmt: skip
        yield row | {
            "sensor": "sentinel1-grd", "encoding": "amplitude", "scale": WORLDCEREAL_AMPLITUDE, "nodata": 65535,
            "bands": {"VV": "S1-SIGMA0-VV", "VH": "S1-SIGMA0-VH"},
        }  # fmt: skip


def _very_high_resolution(images: Path) -> Iterator[Row]:
    folder = images / "spacenet6_optical_sar_vhr"
    place = {"place": "spacenet6 Rotterdam"}
    yield place | {"path": str(folder / "rgb_unmasked.tif"), "sensor": "maxar-rgb"}
    radar = {"sensor": "capella-x", "encoding": "db", "bands": _by_index(["HH", "HV", "VH", "VV"])}
    yield place | radar | {"path": str(folder / "sar_masked.tif")}
    bands = _by_index(["Blue", "Green", "Red", "NIR1"])
    yield {"path": str(folder / "ms3.tif"), "sensor": "worldview2", "bands": bands, "nodata": 0}
    for path in sorted((images / "naip_10dates_5m").glob("*.tif")):
        date = dt.datetime.strptime(path.stem[-8:], "%Y%m%d").date()
        yield {
            "path": str(path),
            "sensor": "naip",
            "place": "naip m_4709963_se",
            "datetime": date.isoformat(),
        }
    for path in sorted((images / "rsvqa_hr_rgb_geotiff").glob("*.tif")):
        yield {"path": str(path), "sensor": "maxar-rgb"}


def _scenes(images: Path) -> Iterator[Row]:
    (scene,) = (images / "majortom_s2l2a_scene").glob("*/*/*")
    yield {
        "path": str(scene),
        "sensor": "sentinel2-l2a",
        "encoding": "dn",
        "datetime": "2020-02-23T03:27:39Z",
    }
    landsat = {f"B{band}": f"B{band}" for band in (1, 2, 3, 4, 5, 6, 7, 10, 11)}
    yield {"path": str(images / "landsat8_11band_30m"), "sensor": "landsat8-oli-tirs-l1", "bands": landsat}
    for year, date in (("2000", "2000-03-17"), ("2003", "2003-02-06")):
        yield {
            "path": str(images / "landsat_tm_cd" / "Taizhou" / f"{year}TM"), "place": "taizhou", "datetime": date,
            "sensor": str(SENSORS / "landsat7_dn8.yaml"), "bands": _by_index(["B1", "B2", "B3", "B4", "B5", "B7"]),
        }  # fmt: skip
    for path in sorted((images / "eurosat_ms").glob("*/*.tif")):
        yield {"path": str(path), "sensor": "sentinel2-l1c", "encoding": "dn", "bands": _by_index(EUROSAT)}


def _peru(images: Path) -> Iterator[Row]:
    for path in sorted((images / "landsat_timelapse_peru_uint8").glob("*.tif")):
        # The files say the year alone; its middle stands for it.
        yield {
            "path": str(path), "sensor": str(SENSORS / "landsat_peru8.yaml"), "place": "peru",
            "datetime": f"{path.stem}-07-02", "bands": _by_index(["B5", "B4", "B3", "B2"]),
        }  # fmt: skip


def _photographs(images: Path, most: int) -> Iterator[Row]:
    for folder in sorted((images / "ucmerced_jpg").iterdir()):
        for path in sorted(folder.glob("*.jpg"))[:most]:
            yield {"path": str(path), "sensor": "maxar-rgb"}


def manifest_rows(images: Path, *, short: bool = False, sets: bool = False, singles: bool = True) -> list[Row]:
    """List every image of the kit with all that must be declared of it.

    Args:
        images: folder of the kit.
        short: a few dates and photographs only.
        sets: all usable dates of each sensor, not pairs of dates.
        singles: images of no declared place too; those have no others beside them.
    """
    dates, photographs = (3, 2) if short else (1_000, 1_000)
    sources = [
        _bigearthnet(images),
        _ssl4eo(images),
        _sen12mscr(images),
        _sen1floods11(images),
        _worldcereal_sets(images, dates) if sets else _worldcereal(images, dates),
        _worldcereal_monthly(images),
        _very_high_resolution(images),
        _scenes(images),
        _peru(images),
        _photographs(images, photographs),
    ]
    return [row for source in sources for row in source if singles or "place" in row]


def main() -> None:
    """Write the manifest."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=Path)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--short", action="store_true", help="a few dates and photographs")
    parser.add_argument("--sets", action="store_true", help="all usable dates of each sensor, not pairs of dates")
    parser.add_argument("--singles", action="store_true", help="with --sets: also images that stand alone")
    arguments = parser.parse_args()
    missing = [name for name in FOLDERS if not (arguments.images / name).is_dir()]
    if missing:
        parser.error(
            f"'{arguments.images}' lacks the folders {', '.join(missing)}; docs/real_data.md says what they hold"
        )
    singles = arguments.singles or not arguments.sets
    rows = manifest_rows(arguments.images.resolve(), short=arguments.short, sets=arguments.sets, singles=singles)
    arguments.manifest.write_text(yaml.safe_dump(rows, sort_keys=False))
    print(json.dumps({"rows": len(rows)}))


if __name__ == "__main__":
    main()
