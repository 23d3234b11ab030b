"""Maps: features in the colours of their principal components, and classes with a legend."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from anyband.errors import InputError
from anyband.report.figures import MISSING_GREY, figure_png, new_figure, show_picture
from anyband.shapes import Array, Float, Int

__all__ = [
    "ClassColours",
    "PcaColours",
    "class_colours",
    "class_map_png",
    "fit_pca_colours",
    "pca_picture",
    "picture_png",
    "pictures_png",
]

_NUM_COLOURS = 3
# chosen: the share cut off at each end of a component, so that a few odd patches do not take the whole scale.
_STRETCH_PERCENTILES = (2.0, 98.0)

# Source: Okabe and Ito, "Color Universal Design", 2008 (readable with colour blindness), without black.
_OKABE_ITO = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")


@dataclass(frozen=True, kw_only=True)
class PcaColours:
    """A fixed mapping from features to colours: the first three principal components, stretched."""

    mean: Float[Array, "width"]
    """Mean feature."""
    axes: Float[Array, "3 width"]
    """Principal axes of unit length, strongest first; zero rows where the features have fewer dimensions."""
    low: Float[Array, "3"]
    """Value of each component that becomes 0."""
    high: Float[Array, "3"]
    """Value of each component that becomes 1."""
    explained: tuple[float, ...]
    """Share of the variance that each component holds."""


def fit_pca_colours(features: Float[Array, "sample width"]) -> PcaColours:
    """Find the colours of features: three components, stretched between the 2nd and the 98th percentile.

    The sign of an axis is fixed by its largest entry being positive, so equal features give equal colours.

    Args:
        features: one row a patch; rows with NaN are left out.

    Raises:
        InputError: no row without NaN.
    """
    rows = features[np.isfinite(features).all(axis=1)].astype(np.float64)
    if not len(rows):
        raise InputError("principal components need at least one patch with data, found none")
    mean = rows.mean(axis=0)
    variances, vectors = np.linalg.eigh((rows - mean).T @ (rows - mean) / len(rows))
    axes = np.zeros((_NUM_COLOURS, features.shape[1]))
    num_axes = min(_NUM_COLOURS, features.shape[1])
    axes[:num_axes] = vectors[:, ::-1].T[:num_axes]
    largest = axes[np.arange(_NUM_COLOURS), np.abs(axes).argmax(axis=1)]
    axes *= np.where(largest < 0, -1.0, 1.0)[:, None]
    low, high = np.percentile((rows - mean) @ axes.T, _STRETCH_PERCENTILES, axis=0)
    shares = np.zeros(_NUM_COLOURS)
    shares[:num_axes] = variances[::-1][:num_axes].clip(0) / max(variances.clip(0).sum(), np.finfo(float).tiny)
    return PcaColours(mean=mean, axes=axes, low=low, high=high, explained=tuple(shares.tolist()))


def pca_picture(features: Float[Array, "width row col"], colours: PcaColours) -> Float[Array, "3 row col"]:
    """Colour a map of features. Patches without data (NaN) stay NaN; a flat component becomes 0.5."""
    # In the features' own precision: a block of a scene may be hundreds of megabytes.
    projected = np.tensordot(colours.axes.astype(features.dtype), features, axes=1)
    components = projected - (colours.axes @ colours.mean)[:, None, None]
    span = (colours.high - colours.low)[:, None, None]
    # A component that only holds rounding errors would otherwise be stretched into noise.
    flat = span <= 1e-9 * max(1.0, float(np.abs(colours.mean).max()))
    stretched = (components - colours.low[:, None, None]) / np.where(flat, 1.0, span)
    return np.where(flat & np.isfinite(components), 0.5, stretched.clip(0.0, 1.0))


def picture_png(picture: Float[Array, "colour row col"]) -> bytes:
    """Write a picture pixel by pixel as PNG, without frame or title. Missing places are transparent."""
    import io

    from PIL import Image

    planes = picture.repeat(3, axis=0) if picture.shape[0] == 1 else picture
    if planes.shape[0] != _NUM_COLOURS:
        raise InputError(f"a picture has 1 or 3 planes, found {picture.shape[0]}; choose the planes to show")
    known = np.isfinite(planes).all(axis=0)
    levels = np.where(known, planes, 0.0).clip(0.0, 1.0)
    rgba = np.concatenate([levels, known[None].astype(levels.dtype)]).transpose(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray((rgba * 255).round().astype(np.uint8), mode="RGBA").save(buffer, format="PNG")
    return buffer.getvalue()


def pictures_png(
    pictures: Sequence[Float[Array, "colour _ _"]], titles: Sequence[str], *, num_columns: int = 4
) -> bytes:
    """Draw pictures beside each other with their titles, at equal widths.

    Args:
        pictures: in [0, 1], any sizes; NaN where there is no data.
        titles: one for each.
        num_columns: at most so many in a row.
    """
    if not pictures or len(pictures) != len(titles):
        raise InputError(f"every picture needs a title: found {len(pictures)} pictures, {len(titles)} titles")
    columns = min(num_columns, len(pictures))
    rows = -(-len(pictures) // columns)
    aspect = max(picture.shape[1] / picture.shape[2] for picture in pictures)
    cell_in = 2.9
    figure = new_figure(width_in=cell_in * columns, height_in=(cell_in * aspect + 0.35) * rows)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[len(pictures) :]:
        axes.set_axis_off()
    for axes, picture, title in zip(grid, pictures, titles, strict=False):
        show_picture(axes, picture)
        axes.set_title(title, fontsize=9)
    return figure_png(figure)


@dataclass(frozen=True, kw_only=True)
class ClassColours:
    """Names and colours of classes; a class's number is its position."""

    names: tuple[str, ...]
    """Names for people."""
    colours: tuple[tuple[float, float, float], ...]
    """Red, green, blue in [0, 1]."""

    def __post_init__(self) -> None:
        if len(self.names) != len(self.colours):
            raise InputError(f"every class needs a colour: {len(self.names)} names, {len(self.colours)} colours")


def class_colours(names: Sequence[str]) -> ClassColours:
    """Give each class a colour of its own.

    The first seven can be told apart with colour blindness; then come lighter ones of them, then plain hues.
    """
    from matplotlib.colors import hsv_to_rgb, to_rgb

    strong = [to_rgb(code) for code in _OKABE_ITO]
    light = [tuple(0.5 + 0.5 * level for level in colour) for colour in strong]
    num_more = max(0, len(names) - len(strong) - len(light))
    more = [tuple(hsv_to_rgb((index / max(num_more, 1), 0.9, 0.6)).tolist()) for index in range(num_more)]
    colours = [(float(r), float(g), float(b)) for r, g, b in (*strong, *light, *more)]
    return ClassColours(names=tuple(names), colours=tuple(colours[: len(names)]))


def class_map_png(classes: Int[Array, "row col"], colours: ClassColours, *, title: str = "") -> bytes:
    """Draw a map of classes; its legend names the classes that occur, most frequent first, with their share.

    Args:
        classes: number of the class at each place; a negative number: no class.
        colours: of the classes.
        title: stands above the map.

    Raises:
        InputError: a number without a name.
    """
    from matplotlib.patches import Patch

    if classes.size and int(classes.max()) >= len(colours.names):
        raise InputError(f"class {int(classes.max())} has no name; there are {len(colours.names)} (0 …)")
    palette = np.vstack([np.asarray(colours.colours).reshape(-1, 3), np.full((1, 3), MISSING_GREY)])
    picture = palette[np.where(classes < 0, len(colours.names), classes)].transpose(2, 0, 1)
    map_in = 5.0
    figure = new_figure(width_in=map_in + 2.2, height_in=map_in * classes.shape[0] / classes.shape[1] + 0.4)
    axes = figure.subplots()
    show_picture(axes, picture)
    axes.set_title(title, fontsize=10)
    counts = np.bincount(classes[classes >= 0].ravel(), minlength=len(colours.names))
    present = [index for index in np.argsort(-counts, kind="stable") if counts[index]]
    handles = [
        Patch(color=colours.colours[index], label=f"{colours.names[index]} ({counts[index] / classes.size:.0%})")
        for index in present
    ]
    if (classes < 0).any():
        handles.append(Patch(color=(MISSING_GREY,) * 3, label=f"no class ({(classes < 0).mean():.0%})"))
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=8.5)
    return figure_png(figure)
