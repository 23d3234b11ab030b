"""TorchGeo's data sets as labelled samples."""

import functools
import importlib
import inspect
import re
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from anyband.arrays import Array, Int
from anyband.data.store import Split
from anyband.errors import InputError, ManifestError, RasterError, RecipeError, counted, nearest_name
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
    settings_of,
)
from anyband.progress import progress
from anyband.sensors.catalogue import find_bands, get_sensor
from anyband.sensors.sensor import Sensor, checked, encoded

__all__ = ["ImageSlot", "TorchgeoSet", "find_torchgeo", "open_torchgeo", "torchgeo_sets", "variant_of"]

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
        """Give the sensor with the bands of the channels, in their order, and the encoding of the numbers."""
        if self.sensor is None:
            raise ManifestError(f"the catalogue has no sensor for '{self.key}'; declare one in `data.sensors`")
        sensor = find_bands(self.bands, get_sensor(self.sensor)) if self.bands else get_sensor(self.sensor)
        return sensor if self.encoding is None else encoded(sensor, self.encoding)


@dataclass(frozen=True, kw_only=True)
class TorchgeoSet:
    """How one of TorchGeo's classes is read."""

    name: str
    kinds: tuple[TaskKind, ...] = ()
    """What can be predicted, the default first."""
    images: tuple[ImageSlot, ...] = ()
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
    target: str = ""
    """Key; empty: `mask` for maps, else `label`."""
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


@functools.cache
def torchgeo_sets() -> Mapping[str, TorchgeoSet]:
    """Read the tables: the data sets by name, also those that can't be used."""
    found = {}
    for path in sorted(_FOLDER.glob("*.yaml")):
        entries = read_yaml(path, error=ManifestError)
        for name, raw in entries.items():
            # Classes that differ in little from another of the file say so.
            whole = {**entries[raw["like"]], **raw} if "like" in raw else raw
            whole = {key: value for key, value in whole.items() if key != "like"}
            found[name] = checked(TorchgeoSet, {"name": name, **whole}, where=f"{path.name}: {name}")
    return found


def find_torchgeo(name: str) -> TorchgeoSet:
    """Look up a data set by the name of its class; `ManifestError` says why there is none or it can't be used."""
    known = torchgeo_sets()
    if name not in known:
        usable = sorted(one for one in known if not known[one].not_mapped)
        raise ManifestError(
            f"there is no TorchGeo data set '{name}' in the tables ({len(usable)} can be used)"
            f"{nearest_name(name, usable)}"
        )
    if known[name].not_mapped:
        raise ManifestError(f"TorchGeo's '{name}' can't be used: {known[name].not_mapped}")
    return known[name]


def variant_of(one: TorchgeoSet, arguments: Mapping[str, Any]) -> TorchgeoSet:
    """Apply what the arguments of the class change in the entry. Raises `ManifestError` for a value that the table does
    not know of an argument that it distinguishes."""
    for argument, by_value in one.variants.items():
        given = arguments.get(argument)
        value = " ".join(given) if isinstance(given, tuple | list) else given  # names of bands, since TorchGeo 0.10
        if value not in by_value:
            raise ManifestError(
                f"'{one.name}' is not mapped for {argument} {value!r} (mapped: {', '.join(map(str, by_value))})"
            )
        one = checked(TorchgeoSet, vars(one) | dict(by_value[value]), where=f"{one.name}, {argument} {value!r}")
    return one


def _class_values(one: TorchgeoSet, data: Any, arguments: Mapping[str, Any]) -> dict[int, str]:
    """Give the name of each label or value of a data set, without those that are no class."""
    named = _attribute(data, one.classes, arguments) if isinstance(one.classes, str) else one.classes
    pairs = named.items() if isinstance(named, Mapping) else enumerate(named)
    by_value = {int(value): str(name) for value, name in pairs if int(value) not in one.ignore}
    if not by_value:
        raise ManifestError(f"TorchGeo's '{one.name}' does not say what its classes are")
    return by_value


def _attribute(data: Any, path: str, arguments: Mapping[str, Any]) -> Any:
    """Follow a dotted path of attributes and keys; `{name}` stands for an argument."""
    for word in path.split("."):
        key: Any = arguments[word[1:-1]] if word.startswith("{") else word
        data = data[key] if isinstance(data, Mapping) else getattr(data, str(key))
    return data


def _targets(one: TorchgeoSet, kind: TaskKind, classes: Mapping[int, str], opened: Sequence[Any]) -> Targets:
    """Collect the labels of all samples, without the images where TorchGeo can give them so; None for maps. Raises
    `InputError` for a label that is no class."""
    if kind in DENSE_KINDS:
        return None
    found: list[Any] = []
    with progress(f"labels of {one.name}", sum(map(len, opened))) as advance:
        for data in opened:
            # A list of labels, or a method that reads one.
            known = None if one.targets is None else _attribute(data, one.targets, {})
            for index in range(len(data)):
                found.append(data[index][one.target] if known is None else _label(known, index, one, kind, classes))
                advance(1)
    values = np.stack([np.squeeze(np.asarray(label)) for label in found])
    if values.ndim != (2 if kind == "labels" else 1):
        raise InputError(f"'{one.name}' gives targets of shape {values.shape[1:]}; choose one by its options")
    if kind == "class":
        return _positions(values, classes, one, name=one.name)
    return values.astype(np.float64 if kind == "number" else bool)


def _label(known: Any, index: int, one: TorchgeoSet, kind: TaskKind, classes: Mapping[int, str]) -> Any:
    """Give a label as TorchGeo would: names of classes, and numbers written as text, as numbers."""
    entry = known(index) if callable(known) else known[index]
    if one.targets_key is not None:
        entry = entry[one.targets_key]
    names = [entry] if isinstance(entry, str) else entry
    if not (isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names)):
        return entry
    values = {name: value for value, name in classes.items()}
    if kind == "labels":
        return [name in names for name in values]
    if kind == "class" and names[0] in values:
        return values[names[0]]
    try:
        return float(names[0])
    except ValueError:
        raise InputError(f"'{names[0]}' is no class of '{one.name}'{nearest_name(names[0], values)}") from None


def _files(one: TorchgeoSet, data: Any, root: Path) -> list[tuple[Path, ...]]:
    """List the files or folders of each sample; nothing where the class does not keep them."""
    entries: Any = [()] * len(data) if one.files is None else _attribute(data, one.files, {})
    found = []
    for entry in (entries[index] for index in range(len(data))):
        chosen = one.file_keys if isinstance(entry, Mapping) else ()
        found.append(tuple(_paths_in([entry[key] for key in chosen] if chosen else entry, root)))
    return found


def _paths_in(entry: Any, root: Path) -> list[Path]:
    if isinstance(entry, Mapping):
        entry = list(entry.values())
    if isinstance(entry, (list, tuple)):
        return [path for one in entry for path in _paths_in(one, root)]
    if not isinstance(entry, (str, Path)):
        return []
    return [path for path in (Path(entry), root / entry) if path.exists()][:1]


def _sample(
    raw: Mapping[str, Any],
    one: TorchgeoSet,
    kind: TaskKind,
    classes: Mapping[int, str],
    sensors: Sequence[Sensor],
    *,
    name: str,
) -> Sample:
    """Turn a sample's dictionary into images by slot, and a map where that is the target. Raises `InputError` for other
    channels than the sensors have, a map of another shape, or values that are no class."""
    slots = _by_slot(raw, one, sensors, name=name)
    images = tuple(_image(dn, sensor, name=name) for dn, sensor in zip(slots, sensors, strict=True))
    if kind not in DENSE_KINDS:
        return Sample(images=images)
    values = np.asarray(raw[one.target])
    values = values[0] if values.ndim == 3 and len(values) == 1 else values
    if values.shape != images[0].dn.shape[1:]:
        raise InputError(f"'{name}' has a map of shape {values.shape} over an image of {images[0].dn.shape[1:]}")
    if kind == "number_map":
        return Sample(images=images, number_map=values.astype(np.float32))
    return Sample(images=images, class_map=_positions(values, classes, one, name=name))


def _image(dn: Array, sensor: Sensor, *, name: str) -> SampleImage:
    if (dn.ndim, *dn.shape[:1]) != (3, len(bands := sensor.band_names)):
        raise InputError(
            f"'{name}' gives an image of shape {dn.shape}, sensor '{sensor.name}' has "
            f"{counted(len(bands), 'band')} here ({', '.join(bands)}); say in `data.bands` what the channels are"
        )
    nodata = np.nan if sensor.nodata is None else sensor.nodata
    return SampleImage(dn=dn, valid=np.isfinite(dn) & (dn != nodata), sensor=sensor)


def _by_slot(raw: Mapping[str, Any], one: TorchgeoSet, sensors: Sequence[Sensor], *, name: str) -> list[Array]:
    """Cut the tensors into images: channels one after the other, dates spread evenly."""
    found: list[Array] = []
    keys, taken = Counter(slot.key for slot in one.images), Counter[str]()
    for slot in one.images:
        if slot.key not in raw:
            raise InputError(f"'{name}' has no '{slot.key}'; TorchGeo gives {', '.join(raw)}")
        stored = np.asarray(raw[slot.key])
        # Channels that are no bands are left out, and what TorchGeo does to the numbers is undone.
        stored = stored[..., list(slot.channels), :, :] if slot.channels else stored
        stored = stored if slot.factor == 1 else np.rint(stored * slot.factor).astype(np.float32)
        if slot.steps:
            found += list(stored[np.linspace(0, len(stored) - 1, slot.steps).round().astype(int)])
            continue
        start, count = taken[slot.key], len(sensors[len(found)].bands) if keys[slot.key] > 1 else len(stored)
        found.append(stored[start : start + count])
        taken[slot.key] += count
    return found


def _positions(values: Array, classes: Mapping[int, str], one: TorchgeoSet, *, name: str) -> Int[Array, "..."]:
    """Turn labels or values of a map into positions of classes; −1 where the table ignores them."""
    whole = values.astype(np.int64)
    result = np.full(whole.shape, -1, dtype=np.int64)
    for position, value in enumerate(classes):
        result[whole == value] = position
    strange = (result < 0) & ~np.isin(whole, one.ignore)
    if strange.any():
        raise InputError(
            f"'{name}' has the value {whole[strange].flat[0]} {strange.sum()} times, which is no class of "
            f"'{one.name}' ({', '.join(map(str, list(classes)[:8]))} …)"
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
    The source is `torchgeo:NAME`; options are arguments of the class. `download`: TorchGeo may fetch what is not there.
    Raises:
        ManifestError: the set is not mapped, or its folder is not as TorchGeo wants it.
        RecipeError: an option that the class does not have, or refuses.
    """
    one = find_torchgeo(spec.source.removeprefix(_PREFIX))
    root, make = _root(spec, one), _class(one.name)
    arguments = _arguments(spec, one, make)
    one = _selected(variant_of(one, arguments), arguments, spec)
    kind = _kind(spec, one)
    one = replace(one, target=one.target or ("mask" if kind in DENSE_KINDS else "label"))
    sensors = declared_slots(_described(one, spec), spec, name=spec.source)
    # Some of TorchGeo's classes make the folder that they look into.
    if not download and not root.is_dir():
        raise ManifestError(f"'{root}' is no folder{_wanted(one)}{_HOW}")
    given = {name: value for name, value in arguments.items() if name in spec.options or name in one.arguments}
    if "download" in inspect.signature(make).parameters:
        given["download"] = download
    chosen: Mapping[Split | None, Mapping[str, Any]] = {None: {}}
    if one.splits:
        chosen = {split: {one.split_argument: value} for split, value in one.splits.items()}
    opened = {split: _made(one, partial(make, root=str(root), **given, **more), root) for split, more in chosen.items()}
    has_classes = kind in ("class", "labels", "class_map")
    classes = _class_values(one, next(iter(opened.values())), arguments) if has_classes else {}
    return _task_data(one, kind, classes, sensors, opened, spec=spec, seed=seed)


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


def _arguments(spec: DataSpec, one: TorchgeoSet, make: Any) -> dict[str, Any]:
    """Collect the arguments of the class: its defaults, the table's, and the user's options."""
    parameters = inspect.signature(make).parameters
    values = {name: known.default for name, known in parameters.items() if known.default is not known.empty}
    values |= one.arguments
    allowed = [name for name in parameters if name not in {*_OURS, one.split_argument}]
    for name, text in spec.options.items():
        if name not in allowed:
            refused = {key: f"'{key}' is no option: {why}" for key, why in _OURS.items()}
            refused[one.split_argument] = f"parts come from the data set itself; '{name}' is no option"
            unknown = f"TorchGeo's '{one.name}' has no argument '{name}' (it has: {', '.join(allowed) or 'none'})"
            raise RecipeError(refused.get(name, unknown + nearest_name(name, allowed)))
        # A text that looks like a number stays one where the class takes texts.
        is_text = isinstance(values.get(name), str)
        values[name] = text if is_text else parse_yaml(text, name=f"option '{name}'", error=RecipeError)
    return values


def _kind(spec: DataSpec, one: TorchgeoSet) -> TaskKind:
    """Choose what is predicted: what is requested where the set has it. `class` is what recipes say by default."""
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
    slots, known = [], [name for slot in one.images for name in slot.names or slot.bands]
    unknown = next((name for name in chosen if name not in known), None)
    if unknown is not None:
        raise RecipeError(
            f"TorchGeo's '{one.name}' has no band '{unknown}' that can be used{nearest_name(unknown, known)}"
        )
    for slot in one.images:
        bands = dict(zip(slot.names or slot.bands, slot.bands, strict=True))
        names = tuple(name for name in chosen if name in bands)
        if names:
            slots.append(replace(slot, bands=tuple(bands[name] for name in names), names=names))
    if [name for slot in slots for name in slot.names] != chosen:
        raise RecipeError(f"name the bands of '{one.name}' sensor by sensor, found {', '.join(chosen)}")
    return replace(one, images=tuple(slots))


def _described(one: TorchgeoSet, spec: DataSpec) -> tuple[Sensor, ...]:
    """Give the sensors of the slots; nothing where a user declares them."""
    if spec.sensors:
        count = sum(max(slot.steps, 1) for slot in one.images)
        if len(spec.sensors) != count:
            declares = f"`data.sensors` declares {len(spec.sensors)}"
            raise ManifestError(f"'{spec.source}' has {counted(count, 'image')} a sample, {declares}")
        return ()
    if any(slot.sensor is None for slot in one.images):
        raise ManifestError(
            f"the catalogue has no sensor for the images of '{spec.source}'; declare one in `data.sensors`, "
            f"a catalogue name or a YAML file. {' '.join(one.notes)}".strip()
        )
    return tuple(sensor for slot in one.images for sensor in [slot.described()] * max(slot.steps, 1))


def _made(one: TorchgeoSet, make: Callable[[], Any], root: Path) -> Any:
    from torchgeo.datasets.errors import DatasetNotFoundError, DependencyNotFoundError

    # Some of TorchGeo's classes seed NumPy's global generator to draw their splits: it is given back as it was.
    state = np.random.get_state()  # noqa: NPY002
    try:
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
    finally:
        np.random.set_state(state)  # noqa: NPY002


def _wanted(one: TorchgeoSet) -> str:
    return f". It wants: {one.layout.strip()}"


def _task_data(
    one: TorchgeoSet,
    kind: TaskKind,
    classes: Mapping[int, str],
    sensors: tuple[Sensor, ...],
    opened: Mapping[Split | None, Any],
    *,
    spec: DataSpec,
    seed: int,
) -> TaskData:
    listed = [(split, index) for split, data in opened.items() for index in range(len(data))]
    if not listed:
        raise ManifestError(f"'{spec.source}' at '{spec.root}' has no samples")
    root = Path(spec.root or ".")
    files = [paths for data in opened.values() for paths in _files(one, data, root)]
    names = _names(one, opened, files, root)
    targets, titles = _targets(one, kind, classes, list(opened.values())), tuple(classes.values())
    splits, places, contents, drawn = published_splits(
        [split for split, _ in listed],
        targets,
        spec.split,
        files=files,
        places=_places(one, names),
        seed=seed,
        classes=titles,
    )
    # Whatever changes what is read from equal files.
    settings = [one.name, kind, *settings_of(sensors)]
    settings += [f"{key}={spec.options[key]}" for key in sorted(spec.options)]
    untested = f"the mapping of TorchGeo's '{one.name}' to sensors is not tested on its data"

    def read(position: int) -> Sample:
        split, index = listed[position]
        raw = _raw(opened[split], index, names[position])
        return _sample(raw, one, kind, classes, sensors, name=names[position])

    return TaskData(
        name=spec.source,
        kind=kind,
        classes=titles,
        names=names,
        splits=splits,
        places=places,
        sensors=(sensors,) * len(listed),
        targets=targets,
        read=read,
        fingerprint=quick_fingerprint(
            names, files if any(files) else _top_files(root), targets, splits, settings=settings
        ),
        contents=contents,
        notes=(*one.notes, *(() if one.tested else (untested,)), *drawn),
        statistics=one.statistics,
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


def _raw(data: Any, index: int, name: str) -> Mapping[str, Any]:
    try:
        with _QUIET:
            found: Mapping[str, Any] = data[index]
    except (OSError, ValueError, RuntimeError, LookupError) as problem:
        raise RasterError(f"TorchGeo can't read sample '{name}': {problem}") from problem
    return found


def _top_files(root: Path) -> list[tuple[Path, ...]]:
    """List the files that tell data apart where no sample has files of its own, such as HDF5 files of them all."""
    found = sorted(path for path in root.iterdir() if path.is_file() and path.suffix.lower() not in _ARCHIVES)
    return [(path,) for path in found]


def _names(
    one: TorchgeoSet, opened: Mapping[Split | None, Any], files: Sequence[Sequence[Path]], root: Path
) -> tuple[str, ...]:
    """Name samples by the class's own list, by their first file, or by split and number."""
    own = [str(name) for data in opened.values() for name in getattr(data, one.names)] if one.names else []
    firsts = (paths[0] for paths in files if paths)
    own = own or [(path.relative_to(root) if path.is_relative_to(root) else path).as_posix() for path in firsts]
    numbered = [f"{split or 'sample'}/{index:06d}" for split, data in opened.items() for index in range(len(data))]
    return tuple(own if len(set(own)) == len(numbered) else numbered)


def _places(one: TorchgeoSet, names: Sequence[str]) -> tuple[str, ...]:
    """Find what each sample shows in its name; nothing where each has a place of its own."""
    if not one.place_pattern:
        return ()
    found = (re.search(one.place_pattern, name) for name in names)
    return tuple(match.group(1) if match else name for match, name in zip(found, names, strict=True))
