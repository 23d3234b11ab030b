"""Which images show the same ground, what a place is called, and which split it belongs to."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import numpy as np

from anyband.arrays import Array, Float, Int
from anyband.data.store import SPLITS, Split
from anyband.errors import GeometryError, ManifestError
from anyband.rasters.footprints import Layout, box_of, lay_out
from anyband.rasters.grid import Grid, Transform, same_crs

__all__ = [
    "Place",
    "PlacedImage",
    "Places",
    "check_layout",
    "check_split",
    "corners_lonlat",
    "corners_on_globe",
    "find_places",
    "footprint",
    "make_place",
    "off_globe",
    "ring_on_globe",
    "split_of",
]

# chosen: images that share an edge, or a sliver, are neighbours and not one place.
_LEAST_OVERLAP = 0.01
# chosen: as many bad places are named in an error as one reads.
_NAMED_PROBLEMS = 3
# chosen: an edge of a chip that holds a pole then leaves its true line by less than a hundredth of its length.
_POINTS_AN_EDGE = 16
# Rounding of projected coordinates.
_TINY_DEG, _TINY_PX = 1e-9, 1e-6
# Counted from 0 to 360, and over that edge by half the Earth.
_MOST_LON_DEG = 540.0


@dataclass(frozen=True, kw_only=True, slots=True)
class PlacedImage:
    """What of an image decides its place."""

    name: str
    grid: Grid
    place: str | None
    """Declared; None: found by overlap."""
    split: Split | None
    """Declared; None: drawn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Images that show the same ground."""

    name: str
    """Declared, or made of the coordinates of its centre, or the path of its only image."""
    members: tuple[int, ...]
    """Positions of its images in the list given."""
    images: tuple[PlacedImage, ...]
    split: Split | None
    """Declared; None: to be drawn."""
    ratio_tolerance: float
    """Per cent; see `lay_out`."""

    @property
    def layout(self) -> Layout:
        """Where they lie. Worked out anew each time, because it is larger than all else and needed once."""
        grids, names = [image.grid for image in self.images], [image.name for image in self.images]
        return lay_out(grids, names, ratio_tolerance=self.ratio_tolerance)


class Places:
    """Places of many images: what is kept of each image is a number, and each place is made when its turn comes."""

    def __init__(
        self,
        images: Sequence[PlacedImage],
        groups: Int[Array, " image"],
        names: Mapping[int, str],
        ratio_tolerance: float,
    ) -> None:
        """Use `find_places`: number of the group of each image, and names of those groups that were found."""
        self._images, self._names, self._ratio_tolerance = images, names, ratio_tolerance
        self._members = np.argsort(groups, kind="stable")
        self._groups, self._starts = np.unique(groups[self._members], return_index=True)
        self._ends = np.append(self._starts[1:], len(groups))
        # Places stand in the order of their first images.
        self._order = np.argsort(self._members[self._starts])

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[Place]:
        """Make one place after the other."""
        return map(self._make, self._order.tolist())

    def of_several(self) -> Iterator[Place]:
        """Make the places of more than one image."""
        return map(self._make, self._order[(self._ends - self._starts)[self._order] > 1].tolist())

    def _make(self, number: int) -> Place:
        members = tuple(self._members[self._starts[number] : self._ends[number]].tolist())
        images = tuple(self._images[member] for member in members)
        name = self._names.get(int(self._groups[number])) or images[0].place
        assert name is not None
        return make_place(name, images, self._ratio_tolerance, members=members)


def make_place(
    name: str, images: Sequence[PlacedImage], ratio_tolerance: float, *, members: Sequence[int] | None = None
) -> Place:
    """Make a place of its images; its split is that of the first which declares one."""
    return Place(
        name=name,
        members=tuple(range(len(images)) if members is None else members),
        images=tuple(images),
        split=next((image.split for image in images if image.split is not None), None),
        ratio_tolerance=ratio_tolerance,
    )


def find_places(images: Sequence[PlacedImage], *, ratio_tolerance: float = 0.0) -> tuple[Places, list[str]]:
    """Group images into places, in the order of their first images, with notes for people.

    Declared places are as declared (`ratio_tolerance`: see `lay_out`). Other images of one CRS form a place where their
    footprints overlap, directly or through others; images without CRS, and overlaps between different CRS or of grids
    that are turned or flipped against each other, are never joined.
    Each image is asked for a few times, one after the other, and not kept.

    Raises:
        GeometryError: images of a declared place do not fit together; the first such places are named.
        ManifestError: images of one place are declared for different splits.
    """
    declared, crs_of, bounds = _looked_at(images)
    found = np.flatnonzero(declared == b"")
    # Images that declare nothing get groups of their own, after those that are declared.
    _, groups = np.unique(declared, return_inverse=True)
    names: dict[int, str] = {}
    taken = {image.place for image in images if image.place is not None} if 0 < len(found) < len(images) else set()
    for number, members in enumerate(_overlapping(found, crs_of, bounds), len(images)):
        groups[members] = number
        name = _free_name(_place_name([images[member] for member in members]), taken)
        taken.add(name)
        names[number] = name
    places = Places(images, groups, names, ratio_tolerance)
    _check_places(places)
    return places, _notes(images, found, crs_of)


def _looked_at(images: Sequence[PlacedImage]) -> tuple[Array, Array, Array]:
    """Go through the images once: hash of the declared place, number of the CRS and of the directions of rows and
    columns in it (-1: none), and bounds of each."""
    declared = np.zeros(len(images), dtype="S17")
    crs_of = np.full(len(images), -1)
    bounds = np.zeros((len(images), 4))
    names: dict[str, str] = {}
    numbers: dict[tuple[str, tuple[float, ...]], int] = {}
    for position, image in enumerate(images):
        if image.place is not None:
            declared[position] = _digest(image.place)
        elif image.grid.crs is not None:
            crs = image.grid.crs
            if crs not in names:
                names[crs] = next((known for known in names if same_crs(known, crs)), crs)
            system = names[crs], _directions(image.grid.transform)
            crs_of[position] = numbers.setdefault(system, len(numbers))
            bounds[position] = image.grid.bounds
    return declared, crs_of, bounds


def _directions(transform: Transform) -> tuple[float, ...]:
    """Tell where columns and rows of a grid run, to a hundredth of a pixel in ten thousand."""
    a, b, _, d, e, _ = transform
    across, down = math.hypot(a, d), math.hypot(b, e)
    return tuple(round(one, 6) + 0.0 for one in (a / across, d / across, b / down, e / down))


def _digest(name: str) -> bytes:
    # The first byte tells it from no name, the last one keeps NumPy from dropping zeros at the end.
    return b"d" + blake2b(name.encode(), digest_size=15).digest() + b"."


def split_of(place: str, *, seed: int, fractions: tuple[float, float, float]) -> Split:
    """Draw the split of a place by the shares of train, val and test: a function of its name and the seed alone."""
    word = blake2b(f"{seed}:{place}".encode(), digest_size=8).digest()
    share = int.from_bytes(word, "little") / 2**64
    for split, end in zip(SPLITS, np.cumsum(fractions), strict=True):
        if share < end:
            return split
    return SPLITS[int(np.flatnonzero(fractions)[-1])]


def footprint(
    transform: Transform, *, height: int, width: int, crs: str
) -> tuple[bytes, tuple[float, float, float, float]]:
    """Compute the polygon of an image's four corners in degrees: as well-known binary; and west, south, east, north.
    What reaches over longitude ±180 is split there, and west is then larger than east; what holds a pole reaches to it
    over all longitudes. Source: RFC 7946, sections 3.1.9 and 5.2."""
    import shapely

    corners = corners_on_globe(transform, height, width, crs)
    if _jumps(corners):
        # Only a closer look tells a step over the edge of the map from an image around the Earth.
        ring = _lonlat(_ring(height, width), transform, crs)
        if _jumps(_on_globe(ring)):
            return ring_on_globe(ring)
    polygon = shapely.Polygon(corners)
    return shapely.to_wkb(polygon), polygon.bounds


def ring_on_globe(ring: Float[Array, "points 2"]) -> tuple[bytes, tuple[float, float, float, float]]:
    """Bring a ring of (longitude, latitude), which may go on beyond ±180, to a polygon, as `footprint` gives one."""
    import shapely

    ring = _on_globe(ring)
    if _jumps(ring):
        return _split(ring)
    polygon = shapely.Polygon(ring)
    return shapely.to_wkb(polygon), polygon.bounds


def corners_on_globe(transform: Transform, height: int, width: int, crs: str) -> Float[Array, "4 2"]:
    """Compute (longitude, latitude) of an image's outer corners, as `corners_lonlat`, within ±180 and ±90 degrees."""
    return _on_globe(np.array(corners_lonlat(transform, height, width, crs)))


def _on_globe(corners: Array) -> Array:
    """Bring what reaches over an edge of the map, as the last chips of a global grid do, to the other side of it."""
    lon = corners[:, 0]
    if np.ptp(lon) <= 180.0:
        lon = lon + 360.0 * (lon < -180.0) - 360.0 * (lon > 180.0)
    return np.asarray(np.clip(np.stack([lon, corners[:, 1]], axis=1), (-180.0, -90.0), (180.0, 90.0)))


def _jumps(ring: Array) -> bool:
    steps = np.abs(np.diff(ring[:, 0], append=ring[0, 0]))
    return bool((steps >= 180.0 - _TINY_DEG).any())


def _ring(height: int, width: int) -> Array:
    """Place points around an image, as (column, row)."""
    corners = np.array([(0, 0), (width, 0), (width, height), (0, height), (0, 0)])
    edges = [np.linspace(*edge, _POINTS_AN_EDGE, endpoint=False) for edge in itertools.pairwise(corners)]
    return np.concatenate(edges)


def _split(ring: Array) -> tuple[bytes, tuple[float, float, float, float]]:
    """Split a ring that reaches over longitude ±180, or around a pole: its polygon, and west, south, east, north."""
    import antimeridian
    import shapely

    steps = np.diff(ring[:, 0], append=ring[0, 0])
    turns = steps - 360.0 * np.rint(steps / 360.0)
    has_pole = abs(turns.sum()) > 180.0
    # Seen from above its pole a ring that holds it runs to the east in the north, to the west in the south.
    is_north = bool(ring[:, 1].mean() > 0)
    if has_pole and (turns.sum() > 0) != is_north:
        ring = ring[::-1]
    found = antimeridian.fix_polygon(
        shapely.Polygon(ring),
        force_north_pole=has_pole and is_north,
        force_south_pole=has_pole and not is_north,
        fix_winding=True,
        great_circle=False,
    )
    # Where the pole lies on an edge, the ring touches itself.
    found = found if found.is_valid else found.buffer(0)
    west, south, east, north = found.bounds
    boxes = [part.bounds for part in shapely.get_parts(found)]
    if not has_pole and (west, east) == (-180.0, 180.0):
        west, east = min(box[0] for box in boxes if box[2] == east), max(box[2] for box in boxes if box[0] == west)
    return shapely.to_wkb(found), (west, south, east, north)


def off_globe(grid: Grid) -> str | None:
    """Say how an image reaches outside longitudes ±180 and latitudes ±90, or None. Half a pixel is let pass: grids that
    are registered by the centres of their pixels reach so far. Longitudes go on beyond 180 where the image reaches over
    it, or where they are counted from 0 to 360; a grid around the whole Earth must begin at -180."""
    if grid.crs is None:
        return None
    lons, lats = np.array(corners_lonlat(grid.transform, grid.height, grid.width, grid.crs)).T
    half_lon, half_lat = np.ptp(lons) / grid.width / 2, np.ptp(lats) / grid.height / 2
    most_lon = 180.0 + half_lon if np.ptp(lons) > 180.0 else _MOST_LON_DEG
    for what, values, limit in (("longitude", lons, most_lon), ("latitude", lats, 90.0 + half_lat)):
        if not (np.abs(values) <= limit + _TINY_DEG).all():
            return (
                f"reaches from {what} {values.min():g}° to {values.max():g}°; longitudes are -180 to 180 and latitudes "
                "-90 to 90: correct its georeference"
            )
    return None


def _check_places(places: Places) -> None:
    problems = []
    for place in places.of_several():
        try:
            check_layout(place)
        except GeometryError as problem:
            problems.append(f"place '{place.name}': {problem}")
            continue
        check_split(place)
    if problems:
        more = len(problems) - _NAMED_PROBLEMS
        shown = problems[:_NAMED_PROBLEMS] + ([f"and {more} more places"] if more > 0 else [])
        raise GeometryError("; ".join(shown))


def check_layout(place: Place) -> None:
    """See that each image of a place overlaps another one; else raise `GeometryError`."""
    boxes = [box_of(placement) for placement in place.layout[1]]
    bounds = np.array([(box.col, box.row, box.col + box.width, box.row + box.height) for box in boxes])
    _, groups, sizes = np.unique(_connected(bounds, least_side=_TINY_PX), return_inverse=True, return_counts=True)
    alone = np.flatnonzero(sizes[groups] == 1)
    if len(boxes) > 1 and len(alone):
        name = place.images[int(alone[0])].name
        raise GeometryError(f"'{name}' does not overlap any other image of it; give it a place of its own")


def check_split(place: Place) -> None:
    """See that a place is declared for one split; else raise `ManifestError`."""
    splits = sorted({image.split for image in place.images if image.split is not None})
    if len(splits) > 1:
        raise ManifestError(
            f"place '{place.name}' is declared for split '{splits[0]}' and for '{splits[1]}'; a place has one split"
        )


def _overlapping(found: Array, crs_of: Array, bounds: Array) -> Iterator[list[int]]:
    """Find the connected groups of overlapping footprints, each CRS on its own; an image without one is alone."""
    yield from ([position] for position in found[crs_of[found] < 0].tolist())
    for crs in range(crs_of.max(initial=-1) + 1):
        members = np.flatnonzero(crs_of == crs)
        labels = _connected(bounds[members], least_share=_LEAST_OVERLAP)
        order = np.argsort(labels, kind="stable")
        parts = np.split(members[order], np.flatnonzero(np.diff(labels[order])) + 1)
        yield from (part.tolist() for part in sorted(parts, key=lambda part: int(part[0])))


def _connected(bounds: Float[Array, "image side"], *, least_share: float = 0.0, least_side: float = 0.0) -> Array:
    """Number the groups of boxes (west, south, east, north) that overlap directly or through others, by so much of the
    smaller one. Each box is found once, so that time and memory grow with their number, however many overlap."""
    import shapely

    boxes = shapely.box(*bounds.T)
    groups = np.full(len(bounds), -1)
    left, tree, num_found = np.arange(len(bounds)), shapely.STRtree(boxes), 0
    for first in range(len(bounds)):
        waiting = [first] if groups[first] < 0 else []
        groups[first] = first if waiting else groups[first]
        while waiting:
            one = waiting.pop()
            near = left[tree.query(boxes[one])]
            near = near[groups[near] < 0]
            near = near[_do_overlap(bounds[one], bounds[near], least_share, least_side)]
            groups[near] = first
            waiting += near.tolist()
            num_found += len(near)
            if 2 * num_found > len(left):
                # Boxes that were found are not to be met again and again.
                left, num_found = np.flatnonzero(groups < 0), 0
                tree = shapely.STRtree(boxes[left])
    return groups


def _do_overlap(one: Array, others: Array, least_share: float, least_side: float) -> Array:
    sides = np.minimum(one[2:], others[:, 2:]) - np.maximum(one[:2], others[:, :2])
    smaller = np.minimum(np.prod(one[2:] - one[:2]), np.prod(others[:, 2:] - others[:, :2], axis=1))
    return np.asarray((sides > least_side).all(axis=1) & (np.prod(sides, axis=1) >= least_share * smaller))


def _notes(images: Sequence[PlacedImage], found: Array, crs_of: Array) -> list[str]:
    """Say how many images overlap others of another CRS or direction: they are not joined, which may surprise."""
    import shapely

    placed = found[crs_of[found] >= 0]
    crs = crs_of[placed]
    if len(np.unique(crs)) < 2:
        return []
    polygons = np.array([_lonlat_polygon(images[position].grid) for position in placed.tolist()])
    across = np.zeros(len(polygons), dtype=bool)
    for one in np.unique(crs):
        others = np.flatnonzero(crs != one)
        # The nearest alone, because many may overlap.
        (found, _), distances = shapely.STRtree(polygons[crs == one]).query_nearest(
            polygons[others], max_distance=_TINY_DEG, return_distance=True, all_matches=False
        )
        across[others[found[distances == 0]]] = True
    if not across.any():
        return []
    other = "another CRS, or of a grid that is turned or flipped"
    how = "give those of one ground one `place`, or reproject them"
    return [f"{int(across.sum())} images overlap images of {other}; they are not joined to a place: {how}"]


def _lonlat_polygon(grid: Grid) -> Any:
    import shapely

    return shapely.from_wkb(footprint(grid.transform, height=grid.height, width=grid.width, crs=grid.crs or "")[0])


def corners_lonlat(transform: Transform, height: int, width: int, crs: str) -> list[tuple[float, float]]:
    """Compute (longitude, latitude) of an image's outer corners: upper left, upper right, lower right, lower left."""
    lonlat = _lonlat(np.array([(0, 0), (width, 0), (width, height), (0, height)]), transform, crs)
    return [(float(lon), float(lat)) for lon, lat in lonlat]


def _lonlat(points: Array, transform: Transform, crs: str) -> Array:
    """Compute (longitude, latitude) of points (column, row) of an image."""
    a, b, c, d, e, f = transform
    cols, rows = points.T
    return np.stack(_to_lonlat(crs).transform(a * cols + b * rows + c, d * cols + e * rows + f), axis=1)


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
