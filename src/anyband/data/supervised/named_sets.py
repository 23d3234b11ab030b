"""What named data sets share: sensors that a user declares, parts that are drawn, and a fingerprint that is quick."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from anyband.data.chip_index import Split
from anyband.data.labelled import LabelledImages
from anyband.data.labelled import split as draw_split
from anyband.data.supervised.contents import contents_of, fingerprint_of, sizes_of
from anyband.data.supervised.records import DataSpec, SplitSpec
from anyband.errors import ManifestError
from anyband.sensors.catalogue import resolve_sensor
from anyband.sensors.names import find_bands
from anyband.sensors.sensor import Sensor
from anyband.shapes import Array, Bool, Float, Int

__all__ = ["Parts", "Targets", "declared_slots", "drawn_parts", "quick_fingerprint"]

Targets = Int[Array, "sample"] | Bool[Array, "sample class"] | Float[Array, "sample"] | None
"""Class numbers, which labels hold, or numbers; None for maps."""

# chosen: enough to notice another version of the images; reading all would cost as much as using them.
_READ_SAMPLES = 64
# chosen: to read this many samples takes minutes.
_MOST_READ = 200_000


def declared_slots(found: Sequence[Sensor], spec: DataSpec, *, name: str) -> tuple[Sensor, ...]:
    """Take the sensors of the slots as a user declares them, or as the data set has them.

    Args:
        found: of the data set; empty: it doesn't say.
        spec: may declare sensors, bands and encodings.
        name: for messages.

    Raises:
        ManifestError: other numbers of slots, or none is known.
        CatalogueError: an unknown sensor, band or encoding.
    """
    sensors = tuple(resolve_sensor(one) for one in spec.sensors) or tuple(found)
    if not sensors:
        raise ManifestError(f"'{name}' does not say which sensors took its images; declare them in `sensors`")
    if found and len(found) != len(sensors):
        raise ManifestError(f"'{name}' has {len(found)} images a sample, but `sensors` declares {len(sensors)}")
    for what, given in (("bands", spec.bands), ("encodings", spec.encodings)):
        if given and len(given) != len(sensors):
            raise ManifestError(f"'{name}' has {len(sensors)} images a sample, but `{what}` is given for {len(given)}")
    if spec.bands:
        sensors = tuple(find_bands(bands, one) for bands, one in zip(spec.bands, sensors, strict=True))
    if spec.encodings:
        sensors = tuple(_encoded(one, as_) for one, as_ in zip(sensors, spec.encodings, strict=True))
    return sensors


def _encoded(sensor: Sensor, encoding: str) -> Sensor:
    for band in sensor.bands:
        band.encoding(encoding)
    return replace(sensor, default_encoding=encoding)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Parts of samples, and how they came about."""

    splits: tuple[Split, ...]
    """Of each sample."""
    places: tuple[str, ...]
    """That each sample shows; empty: each has its own."""
    contents: tuple[str, ...]
    """Hash of each sample's files, where parts were drawn; empty: not compared."""
    notes: tuple[str, ...]
    """What a reader of results should know."""


def drawn_parts(
    declared: Sequence[Split | None],
    targets: Targets,
    shares: SplitSpec,
    *,
    files: Sequence[Sequence[Path]],
    places: Sequence[str] = (),
    seed: int,
) -> Parts:
    """Complete the parts: all are drawn where none is declared; validation from training where there is none.

    Classes keep their shares; labels, numbers and maps are drawn without regard to them. Samples of one place, and
    samples with the same files under two names, stay together. Declared parts stay; between them nothing is compared,
    for they are the publisher's.

    Args:
        declared: part of each sample, None: not declared.
        targets: of each sample.
        shares: of validation and test.
        files: of each sample, to find equal ones.
        places: that each sample shows; empty: each has its own.
        seed: of the draw.

    Raises:
        InputError: a class too rare for every part, or shares that leave nothing to learn from.
    """
    missing = [index for index, part in enumerate(declared) if part is None]
    if not missing and ("val" in declared or shares.val == 0):
        kept = tuple(part for part in declared if part is not None)
        return Parts(splits=kept, places=tuple(places), contents=(), notes=())
    contents = contents_of(files) if missing and all(files) and len(files) <= _MOST_READ else ()
    repeated = len(contents) - len(set(contents))
    shown = tuple(places) or (contents if repeated else ())
    to_draw = missing or [index for index, part in enumerate(declared) if part == "train"]
    splits = _filled(declared, to_draw, targets, shares, places=shown, seed=seed)
    note = "train, val and test are" if missing else "validation, which the publishers do not have, is"
    notes = [f"{note} drawn (seed {seed})"]
    if repeated:
        notes.append(f"{repeated} samples have the files of another one; they are kept in its part")
    return Parts(splits=splits, places=shown, contents=contents, notes=tuple(notes))


def _filled(
    declared: Sequence[Split | None],
    to_draw: Sequence[int],
    targets: Targets,
    shares: SplitSpec,
    *,
    places: Sequence[str],
    seed: int,
) -> tuple[Split, ...]:
    only_val = None not in declared
    # What is drawn from training alone is the share that validation has of what test leaves.
    val, test = (shares.val / (1 - shares.test), 0.0) if only_val else (shares.val, shares.test)
    images = _as_images(to_draw, targets, [places[index] for index in to_draw] if places else ())
    drawn = draw_split(images, val=val, test=test, seed=seed).splits
    filled = dict(enumerate(declared)) | dict(zip(to_draw, drawn, strict=True))
    return tuple(part for index in range(len(declared)) if (part := filled[index]) is not None)


def _as_images(positions: Sequence[int], targets: Targets, places: Sequence[str]) -> LabelledImages:
    """Say what a draw needs to know: classes, where there is one a sample, and places."""
    is_class = targets is not None and targets.ndim == 1 and targets.dtype.kind == "i"
    classes = [int(targets[index]) for index in positions] if is_class and targets is not None else []
    return LabelledImages(
        paths=tuple(Path(str(index)) for index in positions),
        labels=tuple((one,) for one in classes) or ((),) * len(positions),
        classes=tuple(map(str, range(max(classes, default=0) + 1))),
        multi_label=not is_class,
        places=tuple(places),
    )


def quick_fingerprint(
    names: Sequence[str],
    files: Sequence[Sequence[Path]],
    targets: Targets,
    splits: Sequence[Split],
    *,
    settings: Sequence[str] = (),
) -> str:
    """Hash names, targets, parts, the sizes of all files and the contents of some, spread evenly.

    Published parts are trusted, so contents are not compared between them, and need not all be read.

    Args:
        names: of the samples.
        files: of each sample; of a folder its images count.
        targets: of each sample; None for maps.
        splits: of each sample.
        settings: whatever else changes what is read.

    Returns:
        Hexadecimal digits, the same on every machine.
    """
    step = max(1, len(files) // _READ_SAMPLES)
    seen = (*sizes_of(files), *contents_of(files[::step]))
    return fingerprint_of([*settings, *names], seen, targets, splits)
