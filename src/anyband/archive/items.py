"""What an item of a catalogue says of a sensor's bands: files, numbers, grid, time and mask. Nothing is guessed."""

import datetime
import functools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anyband.archive.catalogues import item_times, on_globe
from anyband.arrays import Array, Bool
from anyband.data.places import footprint
from anyband.errors import ArchiveError, nearest_name
from anyband.rasters.products import product_scaling
from anyband.sensors.catalogue import match_band
from anyband.sensors.sensor import Band, RadarBeam, Scaling, Sensor, dn_formula, scaling_in

__all__ = ["MASKS", "BandAsset", "ItemBands", "is_clear", "read_item"]

Item = Mapping[str, Any]

MASKS = ("SCL", "QA_PIXEL", "Fmask")
"""Layers that tell what each pixel shows, as `is_clear` reads them."""
# Source: ESA, Sentinel-2 Level-2A ATBD: classes 4 vegetation, 5 bare, 6 water, 7 unclassified, 11 snow or ice.
_CLEAR_SCL = (4, 5, 6, 7, 11)
# Source: USGS, Landsat Collection 2 Level-2 Science Product Guide: bits fill, dilated cloud, cirrus, cloud, shadow.
_UNCLEAR_QA_PIXEL = 0b11111
# Source: NASA, HLS Product User Guide, version 2.0: bits 1 cloud, 2 adjacent to it, 3 shadow; 255 is fill.
_UNCLEAR_FMASK, _FILL_FMASK = 0b1110, 255

_MASK_KEY = re.compile(r"(scl|qa_pixel|fmask)(?:[_.-].*)?", re.IGNORECASE)
# Pictures for people, whose bands have the names of measured ones.
_PICTURE_ROLES = {"overview", "thumbnail", "visual", "metadata"}
_PICTURE_KEY = re.compile(
    r"(visual|overview|preview|rendered_preview|thumbnail|tci|true_color)(?:[_.-].*)?", re.IGNORECASE
)
_RASTER = re.compile(r"image/(?:tiff|jp2|vnd\.stac\.geotiff)|application/x-hdf", re.IGNORECASE)
# chosen: catalogues round centres to a hundredth of a micrometre, those of thermal bands to a tenth.
_ROUNDED = ((5_000.0, 5.0), (math.inf, 50.0))
# chosen: catalogues write factors with five digits or more.
_SAME_FACTOR = 1e-4
_UTC = datetime.UTC


@dataclass(frozen=True, kw_only=True)
class BandAsset:
    """One band of a sensor, or a mask, in a file of an item; None: the item does not say it."""

    band: str
    asset: str
    href: str
    index: int
    """Number of the band in the file, from 1."""
    scale: float | None
    offset: float | None
    nodata: float | None
    dtype: str | None
    gsd_m: float
    crs: str | None
    transform: tuple[float, ...] | None
    """Six numbers: x = a·column + b·row + c, y = d·column + e·row + f."""
    shape: tuple[int, int] | None


@dataclass(frozen=True, kw_only=True)
class ItemBands:
    """What an item holds of a sensor, in the order of the sensor's bands."""

    item: str
    collection: str
    sensor: str
    platform: str
    datetime: datetime.datetime
    bands: tuple[BandAsset, ...]
    encoding: str
    mask: BandAsset | None
    cloud_share: float | None
    """Of the whole scene, from 0 to 1, as the catalogue gives it."""
    notes: tuple[str, ...]
    """What was taken by default, or looks odd: to be said once."""


def is_clear(layer: str, values: Array) -> Bool[Array, "..."]:
    """Tell for the values of a layer, one of `MASKS`, which pixels show ground, water, snow or ice."""
    if layer == "SCL":
        return np.isin(values, _CLEAR_SCL)
    unclear = _UNCLEAR_QA_PIXEL if layer == "QA_PIXEL" else _UNCLEAR_FMASK
    is_seen = (values.astype(np.uint32) & unclear) == 0
    return np.asarray(is_seen & (values != _FILL_FMASK) if layer == "Fmask" else is_seen)


def read_item(
    item: Item,
    sensor: Sensor,
    encoding: str | None = None,
    assets: Mapping[str, str | tuple[str, int]] | None = None,
) -> ItemBands:
    """Find the bands of a sensor in an item.
    Args:
        encoding: of the sensor; None: the one that scale and offset or the processing baseline of the item mean, else
            the sensor's default, which is said in `notes`.
        assets: band of the sensor → asset, or asset and number of the band in it (from 1): where names do not tell.
    Raises:
        ArchiveError: a band is missing or found twice; the item's scale, baseline, wavelength or coordinate system
            contradicts what the sensor or the item itself says.
    """
    where = f"item '{item.get('id')}' of collection '{item.get('collection')}'"
    entries = _entries(item)
    chosen = [_entry_of(band, sensor, entries, dict(assets or {}), where) for band in sensor.bands]
    for band, entry in zip(sensor.bands, chosen, strict=True):
        _check_wavelength(band, entry, where)
    _check_polarisations(item, sensor, where)
    name, notes = _encoding_of(item, sensor, chosen, encoding, where)
    bands = tuple(_band_asset(band.name, entry, band.gsd_m) for band, entry in zip(sensor.bands, chosen, strict=True))
    if sensor.name.startswith("sentinel1-grd"):
        # In the geometry of the flight: what items say of its grid is a box around it.
        bands = tuple(_without_grid(one) for one in bands)
        notes.append("its grid is that of its ground control points")
    _check_grids(item, bands, where)
    odd = sorted({one.nodata for one in bands if one.nodata is not None and one.nodata != sensor.nodata}, key=str)
    if odd and sensor.nodata is not None:
        notes.append(f"no data is {', '.join(f'{value:g}' for value in odd)} as the item says, not {sensor.nodata:g}")
    first, last = (time.astimezone(_UTC) for time in item_times(dict(item)))
    cloud = item["properties"].get("eo:cloud_cover")
    return ItemBands(
        item=str(item["id"]),
        collection=str(item.get("collection") or ""),
        sensor=sensor.name,
        platform=str(item["properties"].get("platform") or ""),
        datetime=first + (last - first) / 2,
        bands=bands,
        encoding=name,
        mask=_mask_of(item, sensor),
        # Landsat writes -1 where it was not computed.
        cloud_share=None if cloud is None or not 0 <= cloud <= 100 else cloud / 100,
        notes=tuple(notes),
    )


# Bands of assets.


def _entries(item: Item) -> list[dict[str, Any]]:
    """List each band of each asset with what it, its asset and the item say of it, the nearest first."""
    properties = item["properties"]
    shared = {key: value for key, value in properties.items() if key.startswith("proj:")}
    found = []
    for key, asset in item.get("assets", {}).items():
        bands = asset.get("bands") or asset.get("eo:bands") or [{}]
        rasters = asset.get("raster:bands") or []
        for index, band in enumerate(bands):
            raster = rasters[index] if index < len(rasters) else {}
            plain = {name.removeprefix("eo:").removeprefix("raster:"): value for name, value in band.items()}
            own = {name.removeprefix("raster:"): value for name, value in asset.items() if not name.endswith("bands")}
            found.append(
                shared | own | raster | plain | {"key": key, "index": index + 1, "band_name": band.get("name")}
            )
    return found


def _is_measured(entry: Mapping[str, Any]) -> bool:
    roles = {str(role).casefold() for role in entry.get("roles") or ()}
    is_raster = "type" not in entry or bool(_RASTER.match(str(entry["type"])))
    return is_raster and not roles & _PICTURE_ROLES and not _PICTURE_KEY.fullmatch(entry["key"])


def _entry_of(
    band: Band,
    sensor: Sensor,
    entries: Sequence[dict[str, Any]],
    assets: dict[str, str | tuple[str, int]],
    where: str,
) -> dict[str, Any]:
    """Choose the entry of a band: as `assets` says, else by names; of several files of one band the finest."""
    keys = sorted({entry["key"] for entry in entries if _is_measured(entry)})
    if band.name in assets:
        named = assets[band.name]
        key, index = (named, 1) if isinstance(named, str) else named
        found = [entry for entry in entries if (entry["key"], entry["index"]) == (key, index)]
        if not found:
            raise ArchiveError(
                f"{where} has no asset '{key}' with a band {index}, which `assets` names for '{band.name}'; it has "
                f"{', '.join(keys)}{nearest_name(key, keys)}"
            )
        return found[0]
    found = [entry for entry in entries if _is_measured(entry) and _band_meant(entry, sensor, where) == band.name]
    if not found:
        raise ArchiveError(
            f"{where} has no band '{band.name}' of sensor '{sensor.name}'; it has {', '.join(keys)}. Leave the band "
            f"out, or name its asset: `assets: {{{band.name}: …}}`"
        )
    best = sorted(found, key=_rank)
    if len(best) > 1 and _rank(best[0]) == _rank(best[1]):
        raise ArchiveError(
            f"{where} has band '{band.name}' in asset '{best[0]['key']}' and in '{best[1]['key']}'; say which: "
            f"`assets: {{{band.name}: {best[0]['key']}}}`"
        )
    return best[0]


def _rank(entry: Mapping[str, Any]) -> tuple[float, bool]:
    """Put finer pixels first, then what is read by ranges of bytes quickly."""
    return _gsd_m(entry, math.inf), "tiff" not in str(entry.get("type", "tiff"))


def _band_meant(entry: Mapping[str, Any], sensor: Sensor, where: str) -> str | None:
    """Tell which band the names of an entry mean; `ArchiveError` where they mean two."""
    names = {"its band": entry["band_name"], "its common name": entry.get("common_name"), "its asset": entry["key"]}
    meant = {what: match_band((str(name),), sensor) for what, name in names.items() if name}
    known = {what: band for what, band in meant.items() if band is not None}
    if len(set(known.values())) > 1:
        said = ", ".join(f"{what} '{names[what]}' means {band}" for what, band in known.items())
        raise ArchiveError(
            f"{where}: names of asset '{entry['key']}' contradict each other for '{sensor.name}': {said}"
        )
    return next(iter(known.values()), None)


def _check_wavelength(band: Band, entry: Mapping[str, Any], where: str) -> None:
    center_um = entry.get("center_wavelength")
    if center_um is None or isinstance(band.spectrum, RadarBeam):
        return
    center_nm, low_nm, high_nm = 1_000.0 * float(center_um), band.spectrum.low_nm, band.spectrum.high_nm
    slack_nm = next(slack for most_nm, slack in _ROUNDED if center_nm < most_nm)
    if not low_nm - slack_nm <= center_nm <= high_nm + slack_nm:
        raise ArchiveError(
            f"{where}: asset '{entry['key']}' is centred at {center_nm:g} nm, but band '{band.name}' reaches from "
            f"{low_nm:g} to {high_nm:g} nm; it is of another sensor, or name the right asset by `assets`"
        )


def _check_polarisations(item: Item, sensor: Sensor, where: str) -> None:
    stated = item["properties"].get("sar:polarizations")
    for band in sensor.bands:
        if stated and isinstance(band.spectrum, RadarBeam) and band.spectrum.polarisation not in stated:
            raise ArchiveError(f"{where} was taken in {', '.join(stated)}, without {band.spectrum.polarisation}")


# Numbers.


def _encoding_of(
    item: Item, sensor: Sensor, entries: Sequence[dict[str, Any]], declared: str | None, where: str
) -> tuple[str, list[str]]:
    """Find the encoding that all bands agree on, and what is to be said of it."""
    names = [name for name, _ in sensor.bands[0].encodings]
    if declared is not None and declared not in names:
        raise ArchiveError(
            f"{where}: encoding '{declared}' is not one of sensor '{sensor.name}': {', '.join(names)}"
            f"{nearest_name(declared, names)}"
        )
    is_applied = _offset_applied(item)
    allowed, said = list(names), list[str]()
    for band, entry in zip(sensor.bands, entries, strict=True):
        stated = _stated(item, band, entry)
        for scale, offset, source in stated:
            fits = [name for name in names if _fits(band, name, scale, offset)]
            if not fits or (declared is not None and declared not in fits):
                meant = declared and band.encoding(declared)
                against = dn_formula(meant.scale, meant.offset) if meant else "no encoding of it"
                raise ArchiveError(
                    f"{where}: by {source} band '{band.name}' is {dn_formula(scale, offset)}, but sensor "
                    f"'{sensor.name}' has {against}" + (f" as '{declared}'" if meant else f" ({', '.join(names)})")
                )
            allowed = [name for name in allowed if name in fits]
            said += [source]
    if not allowed:
        raise ArchiveError(
            f"{where} contradicts itself: {' and '.join(sorted(set(said)))} mean different encodings of sensor "
            f"'{sensor.name}'; declare `encoding` ({', '.join(names)})"
        )
    if declared is not None:
        return declared, []
    if said and is_applied is not False:
        return allowed[0], []
    return _default_encoding(sensor, is_applied, where)


def _default_encoding(sensor: Sensor, is_applied: bool | None, where: str) -> tuple[str, list[str]]:
    names = ", ".join(name for name, _ in sensor.bands[0].encodings)
    if is_applied is False:
        # Source: github.com/Element84/earth-search, issues 66 and 71.
        raise ArchiveError(
            f"{where} says that the offset of its baseline was not taken out. Of this catalogue that is not so of all "
            f"such items: look at dark pixels and declare `encoding` ({names})"
        )
    if _has_baselines(sensor.bands[0]):
        raise ArchiveError(
            f"{where} says neither scale and offset nor processing baseline, so its offset is not known; declare "
            f"`encoding` ({names})"
        )
    if sensor.name.startswith("sentinel1-grd"):
        raise ArchiveError(
            f"{where} holds ground range amplitudes that are not calibrated; calibrate them, take RTC, or declare "
            f"`encoding` ({names})"
        )
    return sensor.default_encoding, [f"encoding '{sensor.default_encoding}' is taken: the item says no scale"]


def _offset_applied(item: Item) -> bool | None:
    """Tell whether a catalogue took out the offset of baseline 04.00 and later; None: it says nothing of it, or there
    is none. Source: Earth Search, `earthsearch:boa_offset_applied` (`sentinel:` in its version 0)."""
    properties = item["properties"]
    flag = properties.get("earthsearch:boa_offset_applied", properties.get("sentinel:boa_offset_applied"))
    baseline = _baseline_scaling(item, "B02")
    return None if flag is None or (not flag and (baseline is None or baseline[1] == 0)) else bool(flag)


def _stated(item: Item, band: Band, entry: Mapping[str, Any]) -> list[Scaling]:
    """List what an item says of the numbers of a band: its scale and offset, and its processing baseline."""
    scale, offset = entry.get("scale"), entry.get("offset")
    is_applied, found = _offset_applied(item), list[Scaling]()
    if is_applied is False:
        return []
    if scale is not None or offset is not None:
        offset_left = 0.0 if is_applied else float(offset or 0.0)
        where = "its scale and offset" + (", of which the offset is taken out already," if is_applied else "")
        one = scaling_in(str(entry.get("unit") or ""), float(1.0 if scale is None else scale), offset_left, where)
        found += [] if one is None else [one]
    baseline = _baseline_scaling(item, band.name) if _has_baselines(band) else None
    if baseline is not None:
        scale, offset, where = baseline
        found.append((scale, 0.0, f"{where}, whose offset is taken out already,") if is_applied else baseline)
    return found


def _has_baselines(band: Band) -> bool:
    return any(name.startswith("baseline_") for name, _ in band.encodings)


def _baseline_scaling(item: Item, band: str) -> Scaling | None:
    """Read scale and offset from a processing baseline of Sentinel-2, stated or in the name of the product."""
    properties = item["properties"]
    stated = properties.get("s2:processing_baseline") or properties.get("sentinel:processing_baseline")
    version = str(properties.get("processing:version") or "")
    if stated is None and re.fullmatch(r"0\d\.\d\d", version) and "S2" in str(item.get("id")):
        stated = version
    names = [properties.get(key) for key in ("s2:product_uri", "sentinel:product_id")] + [item.get("id")]
    if stated is not None:
        # As it would stand in the name of a product.
        names = [f"S2A_MSIL2A_20200101T000000_N{str(stated).replace('.', '')}_"]
    scalings = (product_scaling(Path(str(name)), band) for name in names if name)
    return next((found for found in scalings if found is not None), None)


def _fits(band: Band, encoding: str, scale: float, offset: float) -> bool:
    meant = band.encoding(encoding)
    return math.isclose(meant.scale, scale, rel_tol=_SAME_FACTOR) and math.isclose(
        meant.offset, offset, rel_tol=_SAME_FACTOR, abs_tol=_SAME_FACTOR * abs(scale)
    )


# Grids.


def _band_asset(band: str, entry: Mapping[str, Any], gsd_m: float) -> BandAsset:
    transform, shape = entry.get("proj:transform"), entry.get("proj:shape")
    scale, offset, nodata = (
        None if entry.get(key) is None else float(entry[key]) for key in ("scale", "offset", "nodata")
    )
    return BandAsset(
        band=band,
        asset=entry["key"],
        href=str(entry["href"]),
        index=entry["index"],
        scale=scale,
        offset=offset,
        nodata=nodata,
        dtype=entry.get("data_type"),
        gsd_m=_gsd_m(entry, gsd_m),
        crs=_crs_of(entry),
        transform=None if transform is None else tuple(float(one) for one in transform[:6]),
        shape=None if shape is None else (int(shape[0]), int(shape[1])),
    )


def _gsd_m(entry: Mapping[str, Any], otherwise: float) -> float:
    """Give the size of an entry's pixels in metres: as its grid, its resolution or its asset says."""
    transform = entry.get("proj:transform")
    # In degrees where it is small.
    pixel_m = abs(float(transform[0])) if transform else 0.0
    stated = pixel_m if pixel_m > 0.01 else entry.get("spatial_resolution") or entry.get("gsd")
    return float(stated or otherwise)


def _crs_of(entry: Mapping[str, Any]) -> str | None:
    code, number = entry.get("proj:code"), entry.get("proj:epsg")
    return str(code) if code else f"EPSG:{number}" if number else None


def _without_grid(band: BandAsset) -> BandAsset:
    return BandAsset(**{**vars(band), "crs": None, "transform": None, "shape": None})


def _check_grids(item: Item, bands: Iterable[BandAsset], where: str) -> None:
    """Refuse coordinate systems that there are not, and grids that lie away from the item's outline."""
    for asset, crs, transform, shape in {(one.asset, one.crs, one.transform, one.shape) for one in bands}:
        if crs is None:
            continue
        problem = _crs_problem(crs)
        if problem:
            raise ArchiveError(f"{where}: asset '{asset}' has coordinate system '{crs}', which there is not: {problem}")
        if transform is not None and shape is not None and not _overlaps(item, crs, transform, shape):
            raise ArchiveError(
                f"{where}: asset '{asset}' lies by its coordinate system '{crs}' and its transform away from the "
                "outline of the item; one of them is wrong, so it is left out"
            )


@functools.lru_cache(maxsize=1024)
def _crs_problem(crs: str) -> str:
    import pyproj

    try:
        pyproj.CRS.from_user_input(crs)
    except pyproj.exceptions.CRSError as problem:
        return str(problem)
    return ""


def _overlaps(item: Item, crs: str, transform: tuple[float, ...], shape: tuple[int, int]) -> bool:
    import shapely

    grid = shapely.from_wkb(footprint(transform, height=shape[0], width=shape[1], crs=crs)[0])  # type: ignore[arg-type]
    return bool(on_globe(shapely.geometry.shape(item["geometry"])).intersects(grid))


def _mask_of(item: Item, sensor: Sensor) -> BandAsset | None:
    """Find the layer that tells clouds: of Sentinel-2 SCL, of Landsat QA_PIXEL, of HLS Fmask."""
    found = [(match[1], entry) for entry in _entries(item) if (match := _MASK_KEY.fullmatch(entry["key"])) is not None]
    rasters = [(name, entry) for name, entry in found if "type" not in entry or _RASTER.match(str(entry["type"]))]
    if not rasters:
        return None
    name, entry = min(rasters, key=lambda one: _rank(one[1]))
    return _band_asset(next(mask for mask in MASKS if mask.casefold() == name.casefold()), entry, sensor.gsd_m)
