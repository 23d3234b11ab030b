"""Which images show the same ground, what a place is called, and which part of the data it belongs to."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import numpy as np

from anyband.data.cells import Layout, lay_out
from anyband.data.chip_index import SPLITS, Split
from anyband.data.tiles import Grid, Transform
from anyband.errors import GeometryError, ManifestError
from anyband.shapes import Array

__all__ = ["Footprint", "Place", "PlacedImage", "corners_lonlat", "find_places", "footprint", "off_globe", "split_of"]

# chosen: images that share an edge, or a sliver, are neighbours and not one place.
_LEAST_OVERLAP = 0.01
# chosen: as many bad places are named in an error as one reads.
_NAMED_PROBLEMS = 3
# Rounding of projected coordinates.
_TINY_DEG = 1e-9


@dataclass(frozen=True, kw_only=True, slots=True)
class PlacedImage:
    """What of an image decides its place."""

    name: str
    """For messages."""
    grid: Grid
    """Where its pixels lie."""
    place: str | None
    """Declared place; None: found by overlap."""
    split: Split | None
    """Declared part of the data; None: drawn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Images that show the same ground."""

    name: str
    """Declared, or made of the coordinates of its centre, or the path of its only image."""
    members: tuple[int, ...]
    """Positions of its images in the list given."""
    images: tuple[PlacedImage, ...]
    """What is known of each."""
    split: Split | None
    """Declared part of the data; None: to be drawn."""

    @property
    def layout(self) -> Layout:
        """Where they lie. Worked out anew each time, because it is larger than all else and needed once."""
        return lay_out([image.grid for image in self.images], [image.name for image in self.images])


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """A polygon in longitude and latitude."""

    wkb: bytes
    """As well-known binary."""
    bounds: tuple[float, float, float, float]
    """West, south, east, north, degrees."""


def find_places(images: Sequence[PlacedImage]) -> tuple[list[Place], list[str]]:
    """Group images into places.

    Declared places are as declared. Other images of one CRS form a place where their footprints overlap,
    directly or through others; images without CRS, and overlaps between different CRS, are never joined.

    Returns:
        The places, in the order of their first images, and notes for people.

    Raises:
        GeometryError: images of a declared place do not fit together; the first such places are named.
        ManifestError: images of one place are declared for different splits.
    """
    declared: dict[str, list[int]] = {}
    for position, image in enumerate(images):
        if image.place is not None:
            declared.setdefault(image.place, []).append(position)
    found = [position for position, image in enumerate(images) if image.place is None]
    groups = [(name, tuple(members)) for name, members in declared.items()]
    taken = set(declared)
    for members in _overlapping(images, found):
        name = _free_name(_place_name([images[member] for member in members]), taken)
        taken.add(name)
        groups.append((name, members))
    groups.sort(key=lambda group: group[1])
    return _laid_out(images, groups), _notes(images, found)


def split_of(place: str, *, seed: int, fractions: tuple[float, float, float]) -> Split:
    """Draw the part of the data that a place belongs to: a function of its name and the seed alone.

    Args:
        place: its name.
        seed: of the draw.
        fractions: shares of train, val and test; they sum to 1.
    """
    word = blake2b(f"{seed}:{place}".encode(), digest_size=8).digest()
    share = int.from_bytes(word, "little") / 2**64
    for split, end in zip(SPLITS, np.cumsum(fractions), strict=True):
        if share < end:
            return split
    return SPLITS[int(np.flatnonzero(fractions)[-1])]


def footprint(transform: Transform, *, height: int, width: int, crs: str) -> Footprint:
    """Compute the footprint of an image as a polygon of its four corners in longitude and latitude."""
    import shapely

    polygon = shapely.Polygon(_on_globe(np.array(corners_lonlat(transform, height, width, crs))))
    return Footprint(wkb=shapely.to_wkb(polygon), bounds=polygon.bounds)


def _on_globe(corners: Array) -> Array:
    """Bring what reaches over an edge of the map, as the last chips of a global grid do, to the other side of it."""
    lon = corners[:, 0]
    if np.ptp(lon) <= 180.0:
        lon = lon + 360.0 * (lon < -180.0) - 360.0 * (lon > 180.0)
    return np.asarray(np.clip(np.stack([lon, corners[:, 1]], axis=1), (-180.0, -90.0), (180.0, 90.0)))


def off_globe(grid: Grid) -> str | None:
    """Say how an image reaches outside longitudes ±180 and latitudes ±90; None where it does not.

    Half a pixel is let pass: grids that are registered by the centres of their pixels reach so far.
    """
    if grid.crs is None:
        return None
    lons, lats = np.array(corners_lonlat(grid.transform, grid.height, grid.width, grid.crs)).T
    half_lon, half_lat = np.ptp(lons) / grid.width / 2, np.ptp(lats) / grid.height / 2
    for what, values, limit in (("longitude", lons, 180.0 + half_lon), ("latitude", lats, 90.0 + half_lat)):
        if not (np.abs(values) <= limit + _TINY_DEG).all():
            return (
                f"reaches from {what} {values.min():g}° to {values.max():g}°; longitudes are -180 to 180 and latitudes "
                "-90 to 90: correct its georeference (longitudes from 180 to 360 are 360 too large)"
            )
    return None


def _laid_out(images: Sequence[PlacedImage], groups: Iterable[tuple[str, tuple[int, ...]]]) -> list[Place]:
    places, problems = [], []
    for name, members in groups:
        chosen = [images[member] for member in members]
        try:
            layout = lay_out([image.grid for image in chosen], [image.name for image in chosen])
            _check_overlap(layout, chosen)
        except GeometryError as problem:
            problems.append(f"place '{name}': {problem}")
            continue
        places.append(Place(name=name, members=members, images=tuple(chosen), split=_declared_split(name, chosen)))
    if problems:
        more = len(problems) - _NAMED_PROBLEMS
        shown = problems[:_NAMED_PROBLEMS] + ([f"and {more} more places"] if more > 0 else [])
        raise GeometryError("; ".join(shown))
    return places


def _check_overlap(layout: Layout, images: Sequence[PlacedImage]) -> None:
    if len(images) == 1:
        return
    for position, box in enumerate(layout.boxes):
        others = layout.boxes[:position] + layout.boxes[position + 1 :]
        if not any(box.shared_with(other) for other in others):
            raise GeometryError(
                f"'{images[position].name}' does not overlap any other image of it; give it a place of its own"
            )


def _declared_split(name: str, images: Sequence[PlacedImage]) -> Split | None:
    splits = sorted({image.split for image in images if image.split is not None})
    if len(splits) > 1:
        raise ManifestError(
            f"place '{name}' is declared for split '{splits[0]}' and for '{splits[1]}'; a place has one split"
        )
    return splits[0] if splits else None


def _overlapping(images: Sequence[PlacedImage], chosen: Sequence[int]) -> list[tuple[int, ...]]:
    """Find the connected groups of overlapping footprints, each CRS on its own."""
    by_crs: dict[str, list[int]] = {}
    groups: list[tuple[int, ...]] = []
    for position in chosen:
        crs = images[position].grid.crs
        if crs is None:
            groups.append((position,))
        else:
            by_crs.setdefault(crs, []).append(position)
    for members in by_crs.values():
        labels = _connected(len(members), _overlaps([_bounds(images[member].grid) for member in members]))
        joined: dict[int, list[int]] = {}
        for member, label in zip(members, labels, strict=True):
            joined.setdefault(int(label), []).append(member)
        groups += [tuple(group) for group in joined.values()]
    return groups


def _overlaps(bounds: Sequence[tuple[float, float, float, float]]) -> Array:
    import shapely

    boxes = shapely.box(*np.array(bounds).T)
    first, second = shapely.STRtree(boxes).query(boxes, predicate="intersects")
    once = first < second
    first, second = first[once], second[once]
    shared = shapely.area(shapely.intersection(boxes[first], boxes[second]))
    least = _LEAST_OVERLAP * np.minimum(shapely.area(boxes[first]), shapely.area(boxes[second]))
    return np.stack([first, second])[:, shared >= least]


def _connected(size: int, edges: Array) -> Array:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(edges.shape[1]), (edges[0], edges[1])), shape=(size, size))
    _, labels = connected_components(graph, directed=False)
    return np.asarray(labels)


def _bounds(grid: Grid) -> tuple[float, float, float, float]:
    bounds = grid.bounds
    return bounds.left, bounds.bottom, bounds.right, bounds.top


def _notes(images: Sequence[PlacedImage], chosen: Sequence[int]) -> list[str]:
    """Say how many images overlap others of another CRS: they are not joined, which may surprise."""
    import shapely

    placed = [images[position] for position in chosen if images[position].grid.crs is not None]
    if len({image.grid.crs for image in placed}) < 2:
        return []
    polygons = np.array([_lonlat_polygon(image.grid) for image in placed])
    first, second = shapely.STRtree(polygons).query(polygons, predicate="intersects")
    across = {int(a) for a, b in zip(first, second, strict=True) if placed[a].grid.crs != placed[b].grid.crs}
    if not across:
        return []
    return [f"{len(across)} images overlap images of another CRS; they are not joined to a place: reproject them"]


def _lonlat_polygon(grid: Grid) -> Any:
    import shapely

    return shapely.Polygon(corners_lonlat(grid.transform, grid.height, grid.width, grid.crs or ""))


def corners_lonlat(transform: Transform, height: int, width: int, crs: str) -> list[tuple[float, float]]:
    """Compute (longitude, latitude) of an image's outer corners: upper left, upper right, lower right, lower left."""
    a, b, c, d, e, f = transform
    corners = [(0, 0), (width, 0), (width, height), (0, height)]
    xs = [a * col + b * row + c for col, row in corners]
    ys = [d * col + e * row + f for col, row in corners]
    lons, lats = _to_lonlat(crs).transform(xs, ys)
    return [(float(lon), float(lat)) for lon, lat in zip(lons, lats, strict=True)]


@lru_cache(maxsize=128)
def _to_lonlat(crs: str) -> Any:
    from pyproj import Transformer

    return Transformer.from_crs(crs, "OGC:CRS84", always_xy=True)


def _place_name(images: Sequence[PlacedImage]) -> str:
    if images[0].grid.crs is None:
        return images[0].name
    corners = np.concatenate(
        [
            corners_lonlat(image.grid.transform, image.grid.height, image.grid.width, image.grid.crs or "")
            for image in images
        ]
    )
    # Across longitude ±180 the numbers jump, the ground does not: count on from the first corner.
    step = corners[:, 0] - corners[0, 0]
    corners[:, 0] += 360.0 * (step < -180.0) - 360.0 * (step > 180.0)
    lon, lat = (corners.min(axis=0) + corners.max(axis=0)) / 2
    lon += 360.0 * (lon < -180.0) - 360.0 * (lon > 180.0)
    return f"{'N' if lat >= 0 else 'S'}{abs(lat):07.4f}_{'E' if lon >= 0 else 'W'}{abs(lon):08.4f}"


def _free_name(name: str, taken: set[str]) -> str:
    number = 1
    while (candidate := name if number == 1 else f"{name}_{number}") in taken:
        number += 1
    return candidate
