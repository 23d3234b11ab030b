"""Published data sets by name, read from the folders in which they are distributed."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from anyband.errors import ManifestError, nearest_name
from anyband.labelled.published.found import known_root
from anyband.labelled.samples import DataSpec, TaskData

__all__ = ["list_published", "open_published"]

_MAPS = ("dfc2020", "hls-burn-scars", "sickle")


@dataclass(frozen=True, kw_only=True)
class _ClassSet:
    """A data set of class folders."""

    title: str
    """As it was published."""
    classes: tuple[str, ...]
    """Names of its folders."""
    places: tuple[str, ...]
    """Folders below the root in which the class folders may lie, after the root itself."""
    sensor: str
    """That took the images."""
    bands: tuple[str, ...] = ()
    """In the order of the files; empty: all of the sensor's."""
    endings: tuple[str, ...]
    """Of its files, for messages."""
    statistics: str
    """Name of its published normalisation."""


# Source: Xia et al., "Structural high-resolution satellite image indexing", ISPRS TC VII 2010; folders of WHU-RS19.
_WHU = _ClassSet(
    title="WHU-RS19",
    classes=(
        *("Airport", "Beach", "Bridge", "Commercial", "Desert", "Farmland", "Forest", "Industrial", "Meadow"),
        *("Mountain", "Park", "Parking", "Pond", "Port", "Residential", "River", "Viaduct"),
        *("footballField", "railwayStation"),
    ),
    places=("WHU-RS19", "RSDataset"),
    sensor="maxar-rgb",
    endings=(".jpg",),
    statistics="WHU-RS19",
)
# Source: Yang and Newsam, "Bag-of-visual-words and spatial extensions", ACM GIS 2010; folders of UCMerced_LandUse.
_UCMERCED = _ClassSet(
    title="UC-Merced",
    classes=(
        *("agricultural", "airplane", "baseballdiamond", "beach", "buildings", "chaparral", "denseresidential"),
        *("forest", "freeway", "golfcourse", "harbor", "intersection", "mediumresidential", "mobilehomepark"),
        *("overpass", "parkinglot", "river", "runway", "sparseresidential", "storagetanks", "tenniscourt"),
    ),
    places=("Images", "UCMerced_LandUse/Images"),
    sensor="maxar-rgb",
    endings=(".tif", ".jpg"),
    statistics="UC-Merced",
)
# Source: Cheng, Han and Lu, "Remote sensing image scene classification", Proc. IEEE 2017; folders of NWPU-RESISC45.
_RESISC = _ClassSet(
    title="RESISC45",
    classes=(
        *("airplane", "airport", "baseball_diamond", "basketball_court", "beach", "bridge", "chaparral", "church"),
        *("circular_farmland", "cloud", "commercial_area", "dense_residential", "desert", "forest", "freeway"),
        *("golf_course", "ground_track_field", "harbor", "industrial_area", "intersection", "island", "lake"),
        *("meadow", "medium_residential", "mobile_home_park", "mountain", "overpass", "palace", "parking_lot"),
        *("railway", "railway_station", "rectangular_farmland", "river", "roundabout", "runway", "sea_ice", "ship"),
        *("snowberg", "sparse_residential", "stadium", "storage_tank", "tennis_court", "terrace"),
        *("thermal_power_station", "wetland"),
    ),
    places=("NWPU-RESISC45",),
    sensor="maxar-rgb",
    endings=(".jpg",),
    statistics="RESISC45",
)
# Source: Helber et al., "EuroSAT", IEEE JSTARS 2019, arXiv:1709.00029; its GeoTIFFs hold B8A last.
_EUROSAT = _ClassSet(
    title="EuroSAT",
    classes=(
        *("AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial", "Pasture", "PermanentCrop"),
        *("Residential", "River", "SeaLake"),
    ),
    places=("tif", "EuroSATallBands", "EuroSAT_MS", "ds/images/remote_sensing/otherDatasets/sentinel_2/tif"),
    sensor="sentinel2-l1c",
    bands=("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09", "B10", "B11", "B12", "B8A"),
    endings=(".tif",),
    statistics="EuroSAT",
)
_CLASS_SETS = {"whu-rs19": _WHU, "ucmerced": _UCMERCED, "resisc45": _RESISC, "eurosat": _EUROSAT}


def list_published() -> tuple[str, ...]:
    """List the names of the data sets, in alphabetic order."""
    return tuple(sorted((*_CLASS_SETS, *_MAPS, "bigearthnet-mm", "fmow-pairs")))


def open_published(spec: DataSpec, *, seed: int) -> TaskData:
    """Open a published data set from its folder. Nothing is ever downloaded.

    Args:
        spec: `source` is its name, `root` its folder.
        seed: of parts that nothing declares.

    Raises:
        ManifestError: there is no such set, or the folder is not as it is published.
    """
    if spec.source in _CLASS_SETS:
        return _open_class_set(_CLASS_SETS[spec.source], spec, seed=seed)
    return _opener(spec.source)(spec, seed)


def _opener(name: str) -> Callable[[DataSpec, int], TaskData]:
    # Late: each set has libraries of its own.
    if name == "bigearthnet-mm":
        from anyband.labelled.published.bigearthnet import open_bigearthnet

        return lambda spec, seed: open_bigearthnet(spec, seed=seed)
    if name == "fmow-pairs":
        from anyband.labelled.published.fmow import open_fmow_pairs

        return lambda spec, seed: open_fmow_pairs(spec, seed=seed)
    if name in _MAPS:
        from anyband.labelled.published.maps import open_map_set

        return lambda spec, seed: open_map_set(spec, seed=seed)
    raise ManifestError(
        f"there is no published data set '{name}' (known: {', '.join(list_published())})"
        f"{nearest_name(name, list_published())}"
    )


def _open_class_set(one: _ClassSet, spec: DataSpec, *, seed: int) -> TaskData:
    from anyband.labelled.images import open_image_level

    folder = _class_folder(one, known_root(spec, wanted=_wanted(one)))
    declared = replace(
        spec,
        source=str(folder),
        root=None,
        kind="class",
        sensors=spec.sensors or (one.sensor,),
        bands=spec.bands or ((one.bands,) if one.bands and not spec.sensors else ()),
    )
    data = open_image_level(declared, seed=seed)
    missing = [name for name in one.classes if name not in data.classes]
    notes = (f"the folder has {len(data.classes)} of the {len(one.classes)} classes of {one.title}",) if missing else ()
    return replace(data, name=spec.source, statistics=one.statistics, notes=(*data.notes, *notes))


def _class_folder(one: _ClassSet, root: Path) -> Path:
    """Find the folder whose folders are the classes."""
    known = {name.casefold() for name in one.classes}
    for folder in (root, *(root / place for place in one.places)):
        names = [child.name for child in folder.iterdir() if child.is_dir()] if folder.is_dir() else []
        meant = [name for name in names if name.casefold() in known]
        if not meant:
            continue
        strange = [name for name in names if name.casefold() not in known and not name.startswith(".")]
        if strange:
            raise ManifestError(
                f"'{folder / strange[0]}' is no class of {one.title}{nearest_name(strange[0], one.classes)}; "
                "take it away, or open the folder itself as class folders"
            )
        return folder
    raise ManifestError(f"'{root}' has no class folder of {one.title}. It wants: {_wanted(one)}")


def _wanted(one: _ClassSet) -> str:
    endings = " or ".join(f"*{ending}" for ending in one.endings)
    return f"the folders {', '.join(one.classes)} with {endings}, in the folder itself or in {' or '.join(one.places)}"
