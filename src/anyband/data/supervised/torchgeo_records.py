"""What the tables say of TorchGeo's data sets: which sensors took the images, and where the labels are."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from anyband.data.chip_index import Split
from anyband.data.supervised.records import TaskKind
from anyband.errors import ManifestError, nearest_name
from anyband.sensors.catalogue import get_sensor
from anyband.sensors.names import find_bands
from anyband.sensors.sensor import Sensor
from anyband.yaml_files import read_yaml

__all__ = [
    "ImageSlot",
    "TorchgeoRow",
    "TorchgeoSet",
    "find_torchgeo",
    "list_torchgeo",
    "torchgeo_names",
    "variant_of",
]

_FOLDER = Path(__file__).parent / "torchgeo_tables"


@dataclass(frozen=True, kw_only=True)
class ImageSlot:
    """One image of a TorchGeo sample: some channels of one of its tensors."""

    key: str = "image"
    """Key of the sample; slots of one key take its channels one after the other."""
    sensor: str | None
    """Catalogue name; None: the catalogue does not have it, so a user declares one."""
    bands: tuple[str, ...] = ()
    """Bands of the sensor that the channels are, in TorchGeo's order; empty: all of the sensor's."""
    names: tuple[str, ...] = ()
    """TorchGeo's names of them, where the catalogue does not understand those; empty: as `bands`."""
    encoding: str | None = None
    """How the numbers are stored; None: the sensor's default."""
    steps: int = 0
    """So many dates of a (time, band, row, col) tensor, spread evenly, each an image; 0: there is no time."""
    channels: tuple[int, ...] = ()
    """Channels of the tensor that are bands, where others (heights, ratios) are not; empty: all."""
    factor: float = 1.0
    """TorchGeo's values times this are the numbers that the files store."""

    def described(self) -> Sensor:
        """Give the sensor with the bands of the channels, in their order, and the encoding of the numbers.

        Raises:
            CatalogueError: a sensor, band or encoding is not in the catalogue.
            ManifestError: the table names no sensor.
        """
        if self.sensor is None:
            raise ManifestError(f"the catalogue has no sensor for '{self.key}'; declare one in `sensors`")
        sensor = get_sensor(self.sensor)
        if self.bands:
            sensor = find_bands(self.bands, sensor)
        if self.encoding is None:
            return sensor
        for band in sensor.bands:
            band.encoding(self.encoding)
        return replace(sensor, default_encoding=self.encoding)


@dataclass(frozen=True, kw_only=True)
class TorchgeoSet:
    """How one of TorchGeo's classes is read."""

    name: str
    """Of the class."""
    kinds: tuple[TaskKind, ...]
    """What can be predicted; the first one where nothing is asked."""
    images: tuple[ImageSlot, ...]
    """Of each sample."""
    splits: Mapping[Split, Any] = field(default_factory=dict)
    """Value of the class's argument for each part; empty: the class has no parts."""
    split_argument: str = "split"
    """Name of that argument."""
    bands_option: str | None = None
    """Argument that selects bands by TorchGeo's names; None: there is none, or it selects otherwise."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Arguments that are always given, unless options say otherwise."""
    classes: str | tuple[str, ...] | Mapping[int, str] = ()
    """Names by label: a list, by value, or where the class keeps them (`classes`, `class_sets.{num_classes}`)."""
    ignore: tuple[int, ...] = ()
    """Values of maps that are no class."""
    target: str | None = None
    """Key of the label; None: `mask` for maps, else `label`."""
    targets: str | None = None
    """Attribute with all labels, or method that reads the label of one sample; None: samples are read."""
    targets_key: str | None = None
    """Where entries of `targets` are mappings: the key of the label, a number or the names of classes."""
    files: str | None = None
    """Attribute that lists the files of each sample; None: samples are known by number."""
    file_keys: tuple[str, ...] = ()
    """Where entries of `files` are mappings: which keys have files that are read; empty: all."""
    names: str | None = None
    """Attribute that lists the names of the samples, where files do not name them."""
    place_pattern: str = ""
    """Pattern in the names of samples whose group is the place, where several samples show one."""
    layout: str = ""
    """What stands in the folder."""
    statistics: str | None = None
    """Name of the published normalisation."""
    variants: Mapping[str, Mapping[Any, Mapping[str, Any]]] = field(default_factory=dict)
    """By argument and its value: fields that are then others."""
    tested: bool = False
    """Whether a test reads real samples laid out as TorchGeo wants them."""
    notes: tuple[str, ...] = ()
    """What a reader of results should know."""
    source: str = ""
    """Where sensors, units and order come from, beside TorchGeo's own documentation of the class."""
    not_mapped: str = ""
    """Why the set can't be used; empty: it can."""


@dataclass(frozen=True, kw_only=True)
class TorchgeoRow:
    """One line of the list of data sets."""

    name: str
    """To write after `torchgeo:`."""
    kinds: tuple[TaskKind, ...]
    """What can be predicted."""
    sensors: tuple[str, ...]
    """Of the images; `?`: to be declared."""
    splits: tuple[str, ...]
    """Parts that the class has; empty: they are drawn."""
    state: str
    """`tested`, `untested` or `not mapped`."""
    note: str
    """Why it is not mapped, or what to know."""


def torchgeo_names() -> tuple[str, ...]:
    """List the data sets that the tables know, mapped or not."""
    return tuple(sorted(_sets()))


def list_torchgeo() -> tuple[TorchgeoRow, ...]:
    """List the data sets for people: those that can be opened first tested, then untested, then the others."""
    order = {"tested": 0, "untested": 1, "not mapped": 2}
    return tuple(sorted((_row(one) for one in _sets().values()), key=lambda row: (order[row.state], row.name)))


def _row(one: TorchgeoSet) -> TorchgeoRow:
    state = "not mapped" if one.not_mapped else "tested" if one.tested else "untested"
    return TorchgeoRow(
        name=one.name,
        kinds=one.kinds,
        sensors=tuple(dict.fromkeys(slot.sensor or "?" for slot in one.images)),
        splits=tuple(one.splits),
        state=state,
        note=one.not_mapped or " ".join(one.notes),
    )


def find_torchgeo(name: str) -> TorchgeoSet:
    """Look up a data set by the name of its class.

    Raises:
        ManifestError: there is none, or it can't be used; the reason is given.
    """
    known = _sets()
    if name not in known:
        usable = sorted(one for one in known if not known[one].not_mapped)
        raise ManifestError(
            f"there is no TorchGeo data set '{name}' in the tables ({len(usable)} can be used)"
            f"{nearest_name(name, usable)}"
        )
    if known[name].not_mapped:
        raise ManifestError(f"TorchGeo's '{name}' can't be used: {known[name].not_mapped}")
    return known[name]


@functools.cache
def _sets() -> dict[str, TorchgeoSet]:
    found: dict[str, TorchgeoSet] = {}
    for path in sorted(_FOLDER.glob("*.yaml")):
        entries = read_yaml(path, error=ManifestError)
        for name, raw in entries.items():
            # Classes that differ in little from another of the file say so.
            whole = {**entries[raw["like"]], **raw} if "like" in raw else raw
            found[name] = TorchgeoSet(name=name, **_parsed(whole, where=f"{path.name}: {name}"))
    return found


def _parsed(raw: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """Turn an entry's plain values into the fields of the record."""
    known = {one.name for one in fields(TorchgeoSet)} | {"kind", "like"}
    unknown = sorted(set(raw) - known)
    if unknown:
        raise ManifestError(f"{where}: unknown key '{unknown[0]}'{nearest_name(unknown[0], known)}")
    values = {key: _frozen(value) for key, value in raw.items()}
    values.pop("like", None)
    kind = values.pop("kind", ())
    values["kinds"] = kind if isinstance(kind, tuple) else (kind,)
    values["images"] = _slots(raw.get("images", ()))
    if isinstance(values.get("notes"), str):
        values["notes"] = (values["notes"],)
    return values


def _slots(raw: Any) -> tuple[ImageSlot, ...]:
    """Make the slots that a table lists."""
    listed: list[dict[str, Any]] = [dict(one) for one in raw]
    return tuple(ImageSlot(**{key: _frozen(value) for key, value in one.items()}) for one in listed)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def variant_of(one: TorchgeoSet, arguments: Mapping[str, Any]) -> TorchgeoSet:
    """Apply what the arguments of the class change in the entry.

    Raises:
        ManifestError: an argument that the table distinguishes has a value that it does not know.
    """
    for argument, by_value in one.variants.items():
        value = arguments.get(argument)
        if value not in by_value:
            raise ManifestError(
                f"'{one.name}' is not mapped for {argument} {value!r} (mapped: {', '.join(map(str, by_value))})"
            )
        changed = dict(by_value[value] or {})
        if "images" in changed:
            changed["images"] = _slots(changed["images"])
        fields_of: dict[str, Any] = {key: _frozen(value) for key, value in changed.items()}
        one = replace(one, **fields_of)
    return one
