"""Where the demo's images come from, and which scene it embeds."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from anyband.data.image_lists import read_manifest
from anyband.data.manifest import ImageEntry
from anyband.demo.options import UNSEEN_SENSOR, DemoOptions
from anyband.errors import AnybandError, ManifestError

__all__ = ["Archive", "make_archive"]

# chosen: 36 × 36 patches make a map, and a few seconds of rendering and encoding.
_SCENE_SIDE_M = 5_760.0
_SCENE_SENSOR = "sentinel2-l2a"
# chosen: two dates are the fewest that make sets of dates, and images are what the demo's time goes to.
_NUM_DATES = 2
# chosen: another seed than the archive's, so the scene is none of its places; by default towns, a lake, a river.
_SCENE_SEED_STEP = 1_000_035


@dataclass(frozen=True, kw_only=True)
class Archive:
    """The images of a demo."""

    entries: tuple[ImageEntry, ...]
    """Images to prepare."""
    scene: ImageEntry
    """Image to embed whole."""
    labels: dict[str, str]
    """Place → majority class; empty where nothing is known."""
    held_out: tuple[str, ...]
    """Sensors that training does not see."""
    preview: bytes | None
    """Picture of some places, PNG; None: there is none."""


def make_archive(out: Path, options: DemoOptions) -> Archive:
    """Simulate the archive below `out`, or read the user's manifest. What is there already is kept.

    Raises:
        ManifestError: the manifest is wrong, or no image of it can be read.
    """
    return _simulated(out, options) if options.images is None else _own(options.images)


def _simulated(out: Path, options: DemoOptions) -> Archive:
    from anyband.simulate.archive import simulate
    from anyband.simulate.options import SimulateOptions
    from anyband.simulate.preview import draw_preview

    settings = SimulateOptions(
        num_places=options.num_places,
        num_dates=_NUM_DATES,
        seed=options.seed,
        workers=options.workers,
        shown=options.shown,
    )
    images, scene, preview = out / "images", out / "scene", out / "preview.png"
    if not images.exists():
        simulate(images, settings)
    if not scene.exists():
        simulate(
            scene,
            SimulateOptions(
                num_places=1,
                sensors=(_SCENE_SENSOR,),
                footprint_m=_SCENE_SIDE_M,
                detail_m=5.0,
                gsd_m=(),
                seed=options.seed + _SCENE_SEED_STEP,
                cloud_share=0.0,
                edge_share=0.0,
                shown=False,
            ),
        )
    if not preview.exists():
        draw_preview(preview, settings, indices=tuple(range(min(4, options.num_places))))
    return Archive(
        entries=tuple(read_manifest(images / "manifest.csv")),
        scene=read_manifest(scene / "manifest.csv")[0],
        labels=_labels(images / "labels.csv"),
        held_out=(UNSEEN_SENSOR,),
        preview=preview.read_bytes(),
    )


def _own(manifest: Path) -> Archive:
    entries = read_manifest(manifest)
    return Archive(entries=tuple(entries), scene=_largest(entries, manifest), labels={}, held_out=(), preview=None)


def _largest(entries: Sequence[ImageEntry], manifest: Path) -> ImageEntry:
    """Find the image with the most pixels among those that can be opened; of equal ones the first."""
    from anyband.data.rasters.reader import open_raster

    sizes: dict[int, int] = {}
    for number, entry in enumerate(entries):
        try:
            with open_raster(entry.source, entry.sensor) as reader:
                sizes[number] = reader.grid.height * reader.grid.width
        except AnybandError:
            # `prepare` reports what can't be read, with its reason.
            continue
    if not sizes:
        raise ManifestError(f"none of the {len(entries)} images of '{manifest}' can be read")
    return entries[max(sizes, key=lambda number: (sizes[number], -number))]


def _labels(path: Path) -> dict[str, str]:
    with path.open(encoding="utf-8", newline="") as file:
        return {row["place"]: row["label"] for row in csv.DictReader(file)}
