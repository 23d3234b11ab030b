"""TorchGeo's data sets as labelled samples."""

import contextlib
import functools
import importlib
import inspect
import re
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from anyband.arrays import Array, Int
from anyband.data.store import Split
from anyband.errors import InputError, ManifestError, RasterError, RecipeError, nearest_name
from anyband.files import parse_yaml, read_yaml
from anyband.labelled.images import published_splits
from anyband.labelled.samples import (
    DENSE_KINDS,
    DataSpec,
    Sample,
    SampleImage,
    Targets,
    TaskData,
    TaskKind,
    declared_slots,
    quick_fingerprint,
)
from anyband.progress import progress
from anyband.sensors.catalogue import find_bands, get_sensor
from anyband.sensors.sensor import Sensor

__all__ = [
    "ImageSlot",
    "Items",
    "Reading",
    "TorchgeoRow",
    "TorchgeoSet",
    "class_values",
    "files_of",
    "find_torchgeo",
    "list_torchgeo",
    "open_torchgeo",
    "read_sample",
    "targets_of",
    "torchgeo_names",
    "variant_of",
]

_FOLDER = Path(__file__).parent / "torchgeo_tables"


@dataclass(frozen=True, kw_only=True)
class ImageSlot:
    """One image of a TorchGeo sample: some channels of one of its tensors."""

    key: str = "image"
    """Slots of one key take its channels one after the other."""
    sensor: str | None
    """Catalogue name; None: a user declares it."""
    bands: tuple[str, ...] = ()
    """Of the channels, in TorchGeo's order; empty: all of the sensor's."""
    names: tuple[str, ...] = ()
    """TorchGeo's names of the bands, where the catalogue does not understand those; empty: as `bands`."""
    encoding: str | None = None
    """None: the sensor's default."""
    steps: int = 0
    """So many dates of a (time, band, row, col) tensor, spread evenly, each an image; 0: there is no time."""
    channels: tuple[int, ...] = ()
    """Those of the tensor that are bands, where others (heights, ratios) are not; empty: all."""
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
    kinds: tuple[TaskKind, ...]
    """What can be predicted, the default first."""
    images: tuple[ImageSlot, ...]
    splits: Mapping[Split, Any] = field(default_factory=dict)
    """Value of `split_argument` for each; empty: the class has none."""
    split_argument: str = "split"
    bands_option: str | None = None
    """Argument that selects bands by TorchGeo's names, if any."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Given always, unless options say otherwise."""
    classes: str | tuple[str, ...] | Mapping[int, str] = ()
    """Names by label: a list, by value, or where the class keeps them (`classes`, `class_sets.{num_classes}`)."""
    ignore: tuple[int, ...] = ()
    """Values of maps that are no class."""
    target: str | None = None
    """Key; None: `mask` for maps, else `label`."""
    targets: str | None = None
    """Attribute with all labels, or method that reads the label of one sample; None: samples are read."""
    targets_key: str | None = None
    """Where entries of `targets` are mappings: the key of the label, a number or the names of classes."""
    files: str | None = None
    """Attribute that lists the files of each sample; None: samples are known by number."""
    file_keys: tuple[str, ...] = ()
    """Where entries of `files` are mappings: the keys of files that are read; empty: all."""
    names: str | None = None
    """Attribute that lists them, where files do not."""
    place_pattern: str = ""
    """Its group is the place in a sample's name; empty: each sample has its own."""
    layout: str = ""
    """What stands in the folder."""
    statistics: str | None = None
    """Name of the published normalisation."""
    variants: Mapping[str, Mapping[Any, Mapping[str, Any]]] = field(default_factory=dict)
    """By argument and its value: fields that are then others."""
    tested: bool = False
    """Whether a test reads real samples laid out as TorchGeo wants them."""
    notes: tuple[str, ...] = ()
    source: str = ""
    """Of sensors, units and order, beside TorchGeo's own documentation of the class."""
    not_mapped: str = ""
    """Why the set can't be used; empty: it can."""


@dataclass(frozen=True, kw_only=True)
class TorchgeoRow:
    """One line of the list of data sets."""

    name: str
    kinds: tuple[TaskKind, ...]
    sensors: tuple[str, ...]
    """`?`: to be declared."""
    splits: tuple[str, ...]
    """Empty: they are drawn."""
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
    """Look up a data set by the name of its class; `ManifestError` says why there is none or it can't be used."""
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
    listed: list[dict[str, Any]] = [dict(one) for one in raw]
    return tuple(ImageSlot(**{key: _frozen(value) for key, value in one.items()}) for one in listed)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def variant_of(one: TorchgeoSet, arguments: Mapping[str, Any]) -> TorchgeoSet:
    """Apply what the arguments of the class change in the entry.
    Raises `ManifestError` for a value that the table does not know of an argument that it distinguishes.
    """
    for argument, by_value in one.variants.items():
        given = arguments.get(argument)
        value = " ".join(given) if isinstance(given, tuple | list) else given  # names of bands, since TorchGeo 0.10
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


@dataclass(frozen=True, kw_only=True, eq=False)
class Items:
    """The samples of one split, as TorchGeo gives them."""

    part: Split | None
    """None: the set has none."""
    data: Any
    """Instance of TorchGeo's class."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Reading:
    """How samples of a data set become ours."""

    one: TorchgeoSet
    kind: TaskKind
    sensors: tuple[Sensor, ...]
    """Of the slots."""
    classes: Mapping[int, str]
    """Name of each label or value; a class's number is its position here. Empty: of kinds without classes."""

    @property
    def target(self) -> str:
        return self.one.target or ("mask" if self.kind in DENSE_KINDS else "label")


def class_values(one: TorchgeoSet, data: Any, arguments: Mapping[str, Any]) -> dict[int, str]:
    """Give the name of each label or value of a data set, without those that are no class.
    Raises `ManifestError` where neither the table nor the class says.
    """
    named = _attribute(data, one.classes, arguments) if isinstance(one.classes, str) else one.classes
    if isinstance(named, Mapping):
        by_value = {int(value): str(name) for value, name in named.items()}
    else:
        by_value = {value: str(name) for value, name in enumerate(named)}
    by_value = {value: name for value, name in by_value.items() if value not in one.ignore}
    if not by_value:
        raise ManifestError(f"TorchGeo's '{one.name}' does not say what its classes are")
    return by_value


def _attribute(data: Any, path: str, arguments: Mapping[str, Any]) -> Any:
    """Follow a dotted path of attributes and keys; `{name}` stands for an argument."""
    for word in path.split("."):
        key: Any = arguments[word[1:-1]] if word.startswith("{") else word
        data = data[key] if isinstance(data, Mapping) else getattr(data, str(key))
    return data


def targets_of(reading: Reading, items: Sequence[Items]) -> Targets:
    """Collect the labels of all samples, without the images where TorchGeo can give them so; None for maps.
    Raises `InputError` for a label that is no class.
    """
    if reading.kind in DENSE_KINDS:
        return None
    found: list[Any] = []
    total = sum(len(one.data) for one in items)
    with progress(f"labels of {reading.one.name}", total) as advance:
        for one in items:
            known = _known_labels(reading, one.data)
            for index in range(len(one.data)):
                found.append(_label(known, index, reading) if known is not None else one.data[index][reading.target])
                advance(1)
    values = np.stack([np.squeeze(np.asarray(one)) for one in found])
    if values.ndim != (2 if reading.kind == "labels" else 1):
        raise InputError(f"'{reading.one.name}' gives targets of shape {values.shape[1:]}; choose one by its options")
    if reading.kind == "number":
        return values.astype(np.float64)
    if reading.kind == "labels":
        return values.astype(bool)
    return _positions(values, reading, name=reading.one.name)


def _known_labels(reading: Reading, data: Any) -> Any:
    """Find the list of labels, or the method that reads one, if any."""
    return None if reading.one.targets is None else _attribute(data, reading.one.targets, {})


def _label(known: Any, index: int, reading: Reading) -> Any:
    entry = known(index) if callable(known) else known[index]
    if reading.one.targets_key is not None:
        entry = entry[reading.one.targets_key]
    names = [entry] if isinstance(entry, str) else entry
    if isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names):
        return _from_names(names, reading)
    return entry


def _from_names(names: Sequence[str], reading: Reading) -> Any:
    """Turn names of classes, or numbers written as text, into what TorchGeo would give."""
    known = {name: value for value, name in reading.classes.items()}
    if reading.kind == "labels":
        return [name in names for name in known]
    if reading.kind == "class" and names[0] in known:
        return known[names[0]]
    try:
        return float(names[0])
    except ValueError:
        raise InputError(f"'{names[0]}' is no class of '{reading.one.name}'{nearest_name(names[0], known)}") from None


def files_of(one: TorchgeoSet, data: Any, root: Path) -> list[tuple[Path, ...]]:
    """List the files or folders of each sample; nothing where the class does not keep them."""
    if one.files is None:
        return [()] * len(data)
    entries = _attribute(data, one.files, {})
    return [tuple(_paths_in(_read_of(entries[index], one), root)) for index in range(len(data))]


def _read_of(entry: Any, one: TorchgeoSet) -> Any:
    return [entry[key] for key in one.file_keys] if isinstance(entry, Mapping) and one.file_keys else entry


def _paths_in(entry: Any, root: Path) -> list[Path]:
    if isinstance(entry, Mapping):
        entry = list(entry.values())
    if isinstance(entry, (list, tuple)):
        return [path for one in entry for path in _paths_in(one, root)]
    if not isinstance(entry, (str, Path)):
        return []
    return [path for path in (Path(entry), root / entry) if path.exists()][:1]


def read_sample(raw: Mapping[str, Any], reading: Reading, *, name: str) -> Sample:
    """Turn a sample's dictionary into images by slot, and a map where that is the target.
    Raises `InputError` for other channels than the sensors have, a map of another shape, or values that are no class.
    """
    slots = _by_slot(raw, reading, name=name)
    images = tuple(_image(dn, one, name=name) for dn, one in zip(slots, reading.sensors, strict=True))
    if reading.kind not in DENSE_KINDS:
        return Sample(images=images)
    values = np.asarray(raw[reading.target])
    values = values[0] if values.ndim == 3 and len(values) == 1 else values
    if values.shape != images[0].dn.shape[1:]:
        raise InputError(f"'{name}' has a map of shape {values.shape} over an image of {images[0].dn.shape[1:]}")
    if reading.kind == "number_map":
        return Sample(images=images, number_map=values.astype(np.float32))
    return Sample(images=images, class_map=_positions(values, reading, name=name))


def _image(dn: Array, sensor: Sensor, *, name: str) -> SampleImage:
    if dn.ndim != 3 or len(dn) != len(sensor.bands):
        raise InputError(
            f"'{name}' gives an image of shape {dn.shape}, sensor '{sensor.name}' has {len(sensor.bands)} bands here "
            f"({', '.join(sensor.band_names)}); say in `bands` what the channels are"
        )
    valid = np.isfinite(dn)
    if sensor.nodata is not None:
        valid &= dn != sensor.nodata
    return SampleImage(dn=dn, valid=valid, sensor=sensor)


def _by_slot(raw: Mapping[str, Any], reading: Reading, *, name: str) -> list[Array]:
    """Cut the tensors into images: channels one after the other, dates spread evenly."""
    found: list[Array] = []
    taken: dict[str, int] = {}
    for slot in reading.one.images:
        if slot.key not in raw:
            raise InputError(f"'{name}' has no '{slot.key}'; TorchGeo gives {', '.join(raw)}")
        stored = _stored(np.asarray(raw[slot.key]), slot)
        if slot.steps:
            dates = np.linspace(0, len(stored) - 1, slot.steps).round().astype(int)
            found += list(stored[dates])
            continue
        start = taken.get(slot.key, 0)
        is_shared = sum(other.key == slot.key for other in reading.one.images) > 1
        count = len(reading.sensors[len(found)].bands) if is_shared else len(stored)
        found.append(stored[start : start + count])
        taken[slot.key] = start + count
    return found


def _stored(values: Array, slot: ImageSlot) -> Array:
    """Undo what TorchGeo does to the numbers, and leave out channels that are no bands."""
    if slot.channels:
        values = values[..., list(slot.channels), :, :]
    return values if slot.factor == 1 else np.rint(values * slot.factor).astype(np.float32)


def _positions(values: Array, reading: Reading, *, name: str) -> Int[Array, "..."]:
    """Turn labels or values of a map into positions of classes; −1 where the table ignores them."""
    whole = values.astype(np.int64)
    result = np.full(whole.shape, -1, dtype=np.int64)
    for position, value in enumerate(reading.classes):
        result[whole == value] = position
    strange = (result < 0) & ~np.isin(whole, reading.one.ignore)
    if strange.any():
        raise InputError(
            f"'{name}' has the value {whole[strange].flat[0]} {strange.sum()} times, which is no class of "
            f"'{reading.one.name}' ({', '.join(map(str, list(reading.classes)[:8]))} …)"
        )
    return result


_PREFIX = "torchgeo:"
_HOW = ". Give its folder in `root`, or allow the download with `--download` where TorchGeo can fetch it"
_ARCHIVES = (".zip", ".gz", ".tar", ".tgz")
_OURS = {
    "root": "the folder is `root` of the data, not an option",
    "download": "the download is allowed by `--download`, not by an option",
    "transforms": "images are read as stored",
}


def open_torchgeo(spec: DataSpec, *, seed: int, download: bool) -> TaskData:
    """Open a data set of TorchGeo: its splits, labels and images as stored, with sensors of the catalogue.
    Where it has no validation split, that is drawn from training; where it has none at all, all are drawn.

    Args:
        spec: `source` is `torchgeo:NAME`; `options` are arguments of the class.
        download: whether TorchGeo may fetch what is not there.

    Raises:
        ManifestError: the set is not mapped, or its folder is not as TorchGeo wants it.
        RecipeError: an option that the class does not have, or refuses.
    """
    one = find_torchgeo(spec.source.removeprefix(_PREFIX))
    root, make = _root(spec, one), _class(one.name)
    arguments = _arguments(spec, one, make)
    one = _selected(variant_of(one, arguments), arguments, spec)
    kind = _kind(spec, one)
    sensors = declared_slots(_described(one, spec), spec, name=spec.source)
    _check_exists(root, one, download=download)
    given = {name: value for name, value in arguments.items() if name in spec.options or name in one.arguments}
    if "download" in inspect.signature(make).parameters:
        given["download"] = download
    items = _opened(one, make, root, given)
    has_classes = kind in ("class", "labels", "class_map")
    classes = class_values(one, items[0].data, arguments) if has_classes else {}
    return _task_data(Reading(one=one, kind=kind, sensors=sensors, classes=classes), items, spec=spec, seed=seed)


def _class(name: str) -> Any:
    # Late: this takes seconds.
    return getattr(importlib.import_module("torchgeo.datasets"), name)


def _root(spec: DataSpec, one: TorchgeoSet) -> Path:
    if spec.root is None:
        raise ManifestError(f"'{spec.source}' needs `root`, the folder that holds it{_wanted(one)}")
    if spec.split.blocks is not None or spec.tile_px is not None:
        raise RecipeError(f"`split.blocks` and `tile_px` need to know where pixels lie, which '{spec.source}' hides")
    if spec.split.lists is not None:
        raise ManifestError(
            f"'{spec.source}' has parts of its own, so file lists don't apply; "
            "to use lists, open its folder of images as the source"
        )
    return Path(spec.root)


def _check_exists(root: Path, one: TorchgeoSet, *, download: bool) -> None:
    # Some of TorchGeo's classes make the folder that they look into.
    if not download and not root.is_dir():
        raise ManifestError(f"'{root}' is no folder{_wanted(one)}{_HOW}")


def _arguments(spec: DataSpec, one: TorchgeoSet, make: Any) -> dict[str, Any]:
    """Collect the arguments of the class: its defaults, the table's, and the user's options."""
    parameters = inspect.signature(make).parameters
    values = {name: known.default for name, known in parameters.items() if known.default is not known.empty}
    values |= one.arguments
    allowed = [name for name in parameters if name not in {*_OURS, one.split_argument}]
    for name, text in spec.options.items():
        if name not in allowed:
            raise RecipeError(_no_option(name, one, allowed))
        # A text that looks like a number stays one where the class takes texts.
        is_text = isinstance(values.get(name), str)
        values[name] = text if is_text else parse_yaml(text, name=f"option '{name}'", error=RecipeError)
    return values


def _no_option(name: str, one: TorchgeoSet, allowed: list[str]) -> str:
    if name == one.split_argument:
        return f"parts come from the data set itself; '{name}' is no option"
    if name in _OURS:
        return f"'{name}' is no option: {_OURS[name]}"
    return (
        f"TorchGeo's '{one.name}' has no argument '{name}' (it has: {', '.join(allowed) or 'none'})"
        f"{nearest_name(name, allowed)}"
    )


def _kind(spec: DataSpec, one: TorchgeoSet) -> TaskKind:
    """Choose what is predicted: what is asked where the set has it. `class` is what recipes say by default."""
    if spec.kind in one.kinds:
        return spec.kind
    if spec.kind == "class":
        return one.kinds[0]
    raise ManifestError(f"'{spec.source}' has targets of kind {', '.join(one.kinds)}, not '{spec.kind}'")


def _selected(one: TorchgeoSet, arguments: Mapping[str, Any], spec: DataSpec) -> TorchgeoSet:
    """Keep the slots and bands that an option chooses, in its order."""
    if not (one.bands_option and one.bands_option in spec.options):
        return one
    chosen = [str(name) for name in arguments[one.bands_option]]
    names = {slot: slot.names or slot.bands for slot in one.images}
    known = [name for slot in one.images for name in names[slot]]
    for name in chosen:
        if name not in known:
            raise RecipeError(
                f"TorchGeo's '{one.name}' has no band '{name}' that can be used{nearest_name(name, known)}"
            )
    slots = tuple(_with_bands(slot, [name for name in chosen if name in names[slot]]) for slot in one.images)
    slots = tuple(slot for slot in slots if slot.bands)
    if [name for slot in slots for name in slot.names] != chosen:
        raise RecipeError(f"name the bands of '{one.name}' sensor by sensor, found {', '.join(chosen)}")
    return replace(one, images=slots)


def _with_bands(slot: ImageSlot, chosen: Sequence[str]) -> ImageSlot:
    names = slot.names or slot.bands
    bands = tuple(slot.bands[names.index(name)] for name in chosen)
    return replace(slot, bands=bands, names=tuple(chosen))


def _described(one: TorchgeoSet, spec: DataSpec) -> tuple[Sensor, ...]:
    """Give the sensors of the slots; nothing where a user declares them."""
    if spec.sensors:
        count = sum(max(slot.steps, 1) for slot in one.images)
        if len(spec.sensors) != count:
            raise ManifestError(f"'{spec.source}' has {count} images a sample, `sensors` declares {len(spec.sensors)}")
        return ()
    unknown = [slot for slot in one.images if slot.sensor is None]
    if unknown:
        raise ManifestError(
            f"the catalogue has no sensor for the images of '{spec.source}'; declare one in `sensors`, "
            f"a catalogue name or a YAML file. {' '.join(one.notes)}".strip()
        )
    return tuple(sensor for slot in one.images for sensor in [slot.described()] * max(slot.steps, 1))


def _opened(one: TorchgeoSet, make: Any, root: Path, given: Mapping[str, Any]) -> list[Items]:
    parts: Mapping[Split | None, Mapping[str, Any]] = {None: {}}
    if one.splits:
        parts = {part: {one.split_argument: value} for part, value in one.splits.items()}
    return [
        Items(part=part, data=_made(one, partial(make, root=str(root), **given, **more), root))
        for part, more in parts.items()
    ]


def _made(one: TorchgeoSet, make: Callable[[], Any], root: Path) -> Any:
    from torchgeo.datasets.errors import DatasetNotFoundError, DependencyNotFoundError

    try:
        with _kept_randomness():
            return make()
    except DatasetNotFoundError as problem:
        raise ManifestError(
            f"'{root}' does not hold '{one.name}' as TorchGeo wants it{_wanted(one)}{_HOW}"
        ) from problem
    except DependencyNotFoundError as problem:
        raise ManifestError(f"TorchGeo's '{one.name}' needs another package: {problem}") from problem
    except (OSError, RuntimeError, IndexError) as problem:
        raise ManifestError(
            f"'{root}' does not hold '{one.name}' as TorchGeo wants it: {problem}{_wanted(one)}"
        ) from problem
    except (AssertionError, ValueError, TypeError, KeyError) as problem:
        raise RecipeError(f"TorchGeo's '{one.name}' refuses the options or files: {problem!r}") from problem


@contextlib.contextmanager
def _kept_randomness() -> Iterator[None]:
    """Give NumPy's global generator back as it was; some of TorchGeo's classes seed it to draw their parts."""
    state = np.random.get_state()  # noqa: NPY002 (theirs)
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002 (theirs)


def _wanted(one: TorchgeoSet) -> str:
    return f". It wants: {one.layout.strip()}"


def _task_data(reading: Reading, items: Sequence[Items], *, spec: DataSpec, seed: int) -> TaskData:
    places = [(item, index) for item in items for index in range(len(item.data))]
    if not places:
        raise ManifestError(f"'{spec.source}' at '{spec.root}' has no samples")
    root = Path(spec.root or ".")
    files = [paths for item in items for paths in files_of(reading.one, item.data, root)]
    names = _names(reading.one, items, files, root)
    targets, classes = targets_of(reading, items), tuple(reading.classes.values())
    declared = [item.part for item, _ in places]
    shown = _places(reading.one, names)
    splits, shown, contents, drawn = published_splits(
        declared, targets, spec.split, files=files, places=shown, seed=seed, classes=classes
    )

    def read(position: int) -> Sample:
        item, index = places[position]
        return read_sample(_raw(item, index, names[position]), reading, name=names[position])

    return TaskData(
        name=spec.source,
        kind=reading.kind,
        classes=classes,
        names=names,
        splits=splits,
        places=shown,
        sensors=(reading.sensors,) * len(places),
        targets=targets,
        read=read,
        fingerprint=quick_fingerprint(
            names, files if any(files) else _top_files(root), targets, splits, settings=_settings(spec, reading)
        ),
        contents=contents,
        notes=(*_notes(reading.one), *drawn),
        statistics=reading.one.statistics,
    )


class _Quiet:
    """Keep from the user that TorchGeo's own code opens images without a place, in any number of threads at once.

    Filters of warnings belong to the process: the first thread sets one, the last puts back what was there.
    """

    def __init__(self) -> None:
        self._lock, self._inside, self._filters = threading.Lock(), 0, warnings.catch_warnings()

    def __enter__(self) -> None:
        from rasterio.errors import NotGeoreferencedWarning

        with self._lock:
            if not self._inside:
                self._filters = warnings.catch_warnings(category=NotGeoreferencedWarning, action="ignore")
                self._filters.__enter__()
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._filters.__exit__(None, None, None)


_QUIET = _Quiet()


def _raw(item: Items, index: int, name: str) -> Mapping[str, Any]:
    try:
        with _QUIET:
            found: Mapping[str, Any] = item.data[index]
    except (OSError, ValueError, RuntimeError, LookupError) as problem:
        raise RasterError(f"TorchGeo can't read sample '{name}': {problem}") from problem
    return found


def _top_files(root: Path) -> list[tuple[Path, ...]]:
    """List the files that tell data apart where no sample has files of its own, such as HDF5 files of them all."""
    found = sorted(path for path in root.iterdir() if path.is_file() and path.suffix.lower() not in _ARCHIVES)
    return [(path,) for path in found]


def _names(one: TorchgeoSet, items: Sequence[Items], files: Sequence[Sequence[Path]], root: Path) -> tuple[str, ...]:
    """Name samples by the class's own list, by their first file, or by split and number."""
    own = [str(name) for item in items for name in getattr(item.data, one.names)] if one.names else []
    firsts = own or [_below(paths[0], root) for paths in files if paths]
    numbered = [f"{item.part or 'sample'}/{index:06d}" for item in items for index in range(len(item.data))]
    return tuple(firsts if len(set(firsts)) == len(numbered) else numbered)


def _below(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def _places(one: TorchgeoSet, names: Sequence[str]) -> tuple[str, ...]:
    """Find what each sample shows in its name; nothing where each has a place of its own."""
    if not one.place_pattern:
        return ()
    found = (re.search(one.place_pattern, name) for name in names)
    return tuple(match.group(1) if match else name for match, name in zip(found, names, strict=True))


def _settings(spec: DataSpec, reading: Reading) -> list[str]:
    """Give whatever changes what is read from equal files."""
    sensors = [f"{one.name} {one.default_encoding} {' '.join(one.band_names)}" for one in reading.sensors]
    return [reading.one.name, reading.kind, *sensors, *(f"{key}={spec.options[key]}" for key in sorted(spec.options))]


def _notes(one: TorchgeoSet) -> tuple[str, ...]:
    if one.tested:
        return one.notes
    return (*one.notes, f"the mapping of TorchGeo's '{one.name}' to sensors is not tested on its data")
