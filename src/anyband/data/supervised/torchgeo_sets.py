"""TorchGeo's data sets by name: its splits and downloads, our sensors."""

import contextlib
import importlib
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from anyband.data.chip_index import Split
from anyband.data.supervised.named_sets import declared_slots, drawn_parts, quick_fingerprint
from anyband.data.supervised.records import DataSpec, Sample, TaskData, TaskKind
from anyband.data.supervised.torchgeo_records import (
    ImageSlot,
    TorchgeoSet,
    find_torchgeo,
    list_torchgeo,
    variant_of,
)
from anyband.data.supervised.torchgeo_samples import Items, Reading, class_values, files_of, read_sample, targets_of
from anyband.errors import ManifestError, RasterError, RecipeError, nearest_name
from anyband.sensors.sensor import Sensor
from anyband.yaml_files import parse_yaml

__all__ = ["list_torchgeo", "open_torchgeo"]

_PREFIX = "torchgeo:"
_HOW = ". Give its folder in `root`, or allow the download with `--download` where TorchGeo can fetch it"
_ARCHIVES = (".zip", ".gz", ".tar", ".tgz")
_OURS = {
    "root": "the folder is `root` of the data, not an option",
    "download": "the download is allowed by `--download`, not by an option",
    "transforms": "images are read as stored",
}


def open_torchgeo(spec: DataSpec, *, seed: int, download: bool) -> TaskData:
    """Open a data set of TorchGeo: its parts, labels and images as stored, with sensors of the catalogue.

    Parts are TorchGeo's. Where it has no validation part, that is drawn from training; where it has none at all, all
    are drawn.

    Args:
        spec: `source` is `torchgeo:NAME`; `options` are arguments of the class.
        seed: of what is drawn.
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
    parts = drawn_parts(declared, targets, spec.split, files=files, places=shown, seed=seed)

    def read(position: int) -> Sample:
        item, index = places[position]
        return read_sample(_raw(item, index, names[position]), reading, name=names[position])

    return TaskData(
        name=spec.source,
        kind=reading.kind,
        classes=classes,
        names=names,
        splits=parts.splits,
        places=parts.places,
        sensors=(reading.sensors,) * len(places),
        targets=targets,
        read=read,
        fingerprint=quick_fingerprint(
            names, files if any(files) else _top_files(root), targets, parts.splits, settings=_settings(spec, reading)
        ),
        contents=parts.contents,
        notes=(*_notes(reading.one), *parts.notes),
        statistics=reading.one.statistics,
    )


def _raw(item: Items, index: int, name: str) -> Mapping[str, Any]:
    try:
        found: Mapping[str, Any] = item.data[index]
    except (OSError, ValueError, RuntimeError, LookupError) as problem:
        raise RasterError(f"TorchGeo can't read sample '{name}': {problem}") from problem
    return found


def _top_files(root: Path) -> list[tuple[Path, ...]]:
    """List the files that tell data apart where no sample has files of its own, such as HDF5 files of them all."""
    found = sorted(path for path in root.iterdir() if path.is_file() and path.suffix.lower() not in _ARCHIVES)
    return [(path,) for path in found]


def _names(one: TorchgeoSet, items: Sequence[Items], files: Sequence[Sequence[Path]], root: Path) -> tuple[str, ...]:
    """Name samples by the class's own list, by their first file, or by part and number."""
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
