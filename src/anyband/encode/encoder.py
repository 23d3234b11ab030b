"""An encoder for images of any sensor, and what it returns."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from anyband.arrays import Array, Bool, Float, Int
from anyband.data.store import ChipStore
from anyband.encode.input_spec import (
    Doubts,
    InputSpec,
    check_bands,
    checkpoint_sensor,
    chosen_statistics,
    explained,
    given_image,
    image_tensors,
    input_spec_for,
    named_bands,
    tiled,
    warned,
    with_data,
)
from anyband.encode.metadata import (
    EncodeOptions,
    Features,
    ImageArray,
    ImageMetadata,
    Pool,
    Precision,
    SetImage,
    check_one_footprint,
    checked_all,
    checked_metadata,
    fitted,
    metadata_of_tiles,
    network_metadata,
    resized_gsd_m,
    same_features,
)
from anyband.errors import CatalogueError, InputError, counted, nearest_name
from anyband.models.checkpoint import Checkpoint, build_encoder, load_checkpoint
from anyband.models.inputs import ImageBatch, SetBatch, SetMetadata
from anyband.models.patches import SpectralProjection
from anyband.models.vit import Encoder, EncoderConfig, EncoderOutput
from anyband.progress import progress
from anyband.sensors.assignment import MIN_SUPPORT, AssignmentRules, UnseenRules, assign
from anyband.sensors.ranges import STEM
from anyband.sensors.sensor import FILE_ENCODINGS, BandStatistics, Sensor, listed_names, sensor_in_file

__all__ = [
    "EncodeOptions",
    "FeatureMaker",
    "Features",
    "ImageMetadata",
    "Pool",
    "Precision",
    "RoundedCopy",
    "SensorEncoder",
    "SetImage",
    "available_bytes",
    "check_memory",
    "chip_batch",
    "feature_maps",
    "find_device",
    "image_vectors",
    "load_encoder",
    "pooled",
    "sequence_bytes",
    "store_features",
]

_MEMINFO = Path("/proc/meminfo")
_GB = 1e9
# chosen: floats that live at once for each token and unit of width, beside the hidden layer and its activation; a block
# of 192 and of 768 wide was seen to take 9 and 6 (torch 2.15, CPU).
_LIVE_COPIES = 9


def sequence_bytes(encoder: Encoder, *, num_sets: int, num_tokens: int) -> int:
    """Estimate the bytes that encoding joint sequences takes, without gradients, beside weights and images.
    `num_tokens` are those of all images of a sequence; plain attention holds scores of all pairs, and their softmax."""
    config = encoder.config
    per_token = config.embed_dim * (_LIVE_COPIES + 2 * config.mlp_ratio)
    fused = all(getattr(part, "fused_attn", True) for part in encoder.blocks.modules())
    scores = 0 if fused else 2 * config.num_heads * (num_tokens + 1)
    return int(4 * num_sets * (num_tokens + 1) * (per_token + scores))


def available_bytes(device: torch.device) -> int | None:
    """Ask how much memory is free where a network runs; None where nobody says."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    try:
        lines = _MEMINFO.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    free = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), None)
    return None if free is None else int(free) * 1024


def check_memory(encoder: Encoder, *, num_sets: int, num_images: int, num_tokens: int) -> None:
    """See that joint sequences fit the memory that is free, before encoding; `InputError` says what they need."""
    device = next(encoder.parameters()).device
    free = available_bytes(device)
    needed = sequence_bytes(encoder, num_sets=num_sets, num_tokens=num_images * num_tokens)
    if free is not None and needed > free:
        raise InputError(
            f"{counted(num_sets, 'set')} of {counted(num_images, 'image')} with {counted(num_tokens, 'token')} each "
            f"({num_images * num_tokens:,} tokens that attend to each other) need about {needed / _GB:,.1f} GB, and "
            f"{free / _GB:,.1f} GB are free on '{device}'; take fewer or smaller images, or fewer sets at once"
        )


class RoundedCopy:
    """A copy of an encoder whose large weights are in bf16, for inference; made anew when the weights change. The
    numbers are those of automatic mixed precision to the bit; that rounds every weight in every call, which is slow."""

    _copied: tuple[tuple[tuple[int, int], ...], Encoder] | None = None

    def of(self, encoder: Encoder) -> Encoder:
        # torch counts the changes of a tensor in place; other tensors have other identities.
        state = tuple((id(parameter), parameter._version) for parameter in encoder.parameters())
        if self._copied is None or self._copied[0] != state:
            rounded = copy.deepcopy(encoder)
            for part in rounded.modules():
                if isinstance(part, nn.Linear | SpectralProjection):
                    part.to(torch.bfloat16)
            self._copied = (state, rounded.requires_grad_(False))
        return self._copied[1].train(encoder.training)


def image_vectors(output: EncoderOutput) -> Float[Tensor, "*image width"]:
    """Make one vector an image of its own patches: the mean of those that are not hidden; NaN where all are."""
    if output.hidden is None:
        return output.tokens.mean(dim=-2)
    seen = (~output.hidden)[..., None].to(output.tokens.dtype)
    return (output.tokens * seen).sum(dim=-2) / seen.sum(dim=-2)


def feature_maps(output: EncoderOutput) -> Float[Tensor, "*image width row col"]:
    """Lay the patch features of each image out as a map, NaN where a patch is hidden."""
    tokens = output.tokens
    if output.hidden is not None:
        tokens = tokens.masked_fill(output.hidden[..., None], torch.nan)
    return rearrange(tokens, "... (h w) d -> ... d h w", h=output.grid[0])


def pooled(output: EncoderOutput, pool: Pool) -> Float[Tensor, "batch width"]:
    """Make one vector an image, or a set: the CLS token, or the mean over its images of their means. An image without a
    visible patch does not count in a set; alone it gets zeros."""
    if pool == "cls":
        return output.cls
    vectors = image_vectors(output)
    return vectors.nanmean(dim=1) if vectors.ndim == 3 else vectors.nan_to_num()


def load_encoder(
    path_or_hub_id: str | Path,
    *,
    device: str = "cpu",
    unseen: UnseenRules = "interpolate",
    min_support: float = MIN_SUPPORT,
    out_of_span: Literal["refuse", "drop"] = "drop",
) -> "SensorEncoder":
    """Load an encoder with all that it needs to read sensors, strictly, ready for inference.

    Args:
        path_or_hub_id: a safetensors file, or a Hugging Face hub id such as `gsumbul/SMARTIES-v1-ViT-B`.
        device: where it runs.
        unseen: what to do with bands that no trained range is.
        min_support: bands with less support are out of the span.
        out_of_span: whether such bands are an error, or dropped and reported.

    Raises:
        CheckpointError: no such checkpoint, or not one that fits.
        InputError: there is no such device.
    """
    target = find_device(device)
    rules = AssignmentRules(unseen=unseen, min_support=min_support, out_of_span=out_of_span)
    return SensorEncoder(load_checkpoint(path_or_hub_id), rules=rules).to(target).eval()


def find_device(name: str) -> torch.device:
    """See that a device is there, before anything is loaded; `InputError` where it is not."""
    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError) as problem:
        reason = str(problem).strip().partition("\n")[0].rstrip(".")
        raise InputError(f"there is no device '{name}' here: {reason}; use 'cpu', or one that is there") from problem
    return torch.device(name)


class SensorEncoder(nn.Module):
    """An encoder with its ranges, normalisations and rules for bands that no trained range is."""

    def __init__(self, checkpoint: Checkpoint, *, rules: AssignmentRules | None = None) -> None:
        super().__init__()
        self.encoder = build_encoder(checkpoint)
        # The weights live in the network from here on; the rest of the checkpoint tells how to use them.
        self.checkpoint = replace(checkpoint, state={})
        self.config: EncoderConfig = self.encoder.config
        self.rules = rules or AssignmentRules()
        self._rounded = RoundedCopy()

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def set_notes(self) -> tuple[str, ...]:
        """What a user should know who encodes sets of several images."""
        if self.checkpoint.config.images == "set":
            return ()
        return ("the checkpoint was trained on pairs: training never showed it several images as one sequence",)

    def untrained(self, *, seed: int) -> "SensorEncoder":
        """Make the same encoder with the weights it would have before any training, to compare with."""
        twin = SensorEncoder.__new__(SensorEncoder)
        nn.Module.__init__(twin)
        twin.encoder = Encoder(self.config, seed=seed)
        twin.config, twin.checkpoint, twin.rules = self.config, self.checkpoint, self.rules
        twin._rounded = RoundedCopy()
        return twin.to(self.device).eval()

    def input_spec(
        self,
        sensor: str | Sensor,
        *,
        bands: Sequence[str] | None = None,
        encoding: str | None = None,
        statistics: Mapping[str, BandStatistics] | None = None,
    ) -> InputSpec:
        """Work out how images of a sensor are read; see `input_spec_for`."""
        found = checkpoint_sensor(self.checkpoint, sensor)
        found = found if bands is None else found.select(bands)
        return input_spec_for(self.checkpoint, found, rules=self.rules, encoding=encoding, statistics=statistics)

    def forward(
        self,
        images: Float[Tensor, "batch band row col"],
        *,
        bands: Sequence[str] | Sensor,
        valid: Bool[Tensor, "batch band row col"] | None = None,
    ) -> EncoderOutput:
        """Encode standardised images, with gradients: for training.

        Args:
            images: network input; both sides multiples of the patch size.
            bands: what the channels are: a sensor, or for each channel a trained range (`red_2`) or a
                sensor's band (`sentinel2-l2a/B04`).
            valid: which pixels have data; None: all.

        Returns:
            CLS, tokens and map, after the final norm.
        """
        mixing = torch.from_numpy(self._mixing(bands)).to(images.device, images.dtype)
        output: EncoderOutput = self.encoder(ImageBatch(pixels=images, valid=valid, mixing=mixing))
        return output

    def encode(
        self,
        array: ImageArray,
        *,
        sensor: str | Sensor,
        bands: str | Sequence[str] | None = None,
        encoding: str | None = None,
        valid: ImageArray | None = None,
        nodata: float | int | None = None,
        options: EncodeOptions | None = None,
    ) -> Features:
        """Encode images, each by itself.

        Args:
            array: digital numbers as the files store them, (band, row, col) or (batch, band, row, col): a NumPy array,
                a torch tensor, an xarray DataArray, whose axes are found by their names, or a list of such. What the
                mask of a masked array, or the nodata tag of a DataArray, hides is missing.
            sensor: name in the catalogue, a YAML file, or a record.
            bands: of the array, in its order, also as text `B02;B03`; None: those that the array itself names, else all
                of the sensor's.
            encoding: how the numbers are stored; None: the sensor's default.
            valid: which pixels have data: truth values of the array's shape, or (row, col); None: all but nodata. NaN
                and what the array itself hides are missing in both cases.
            nodata: digital number that means no data, instead of the sensor's.
            options: image size and what becomes of other sizes; precision; statistics, which by default are the
                checkpoint's for this sensor, else the catalogue's; metadata.

        Returns:
            `cls` (batch, width) and `map` (batch, width, row, col) with a row and col a patch, float32 on the encoder's
            device, without the batch axis where the array has none; `notes` say what was taken by default.

        Raises:
            InputError: no array of numbers, another number of bands, no pixel with data, or less than a patch.
            CatalogueError: an unknown sensor, band or encoding, or no statistics.
            AssignmentError: a band outside the span of the trained ranges.
        """
        options = options or EncodeOptions()
        image = SetImage(array=array, sensor=sensor, bands=bands, encoding=encoding, valid=valid, nodata=nodata)
        found, dn, known, said = self._given(image, "the array")
        single = dn.ndim == 3
        if single:
            dn, known = dn[None], None if known is None else known[None]
        images = (_counted(dn, known, found) for _ in range(1))
        statistics = chosen_statistics(options.statistics, found, images, encoding=encoding)
        spec = self.input_spec(found, encoding=encoding, statistics=statistics)
        metadata, shape = checked_all(options.metadata, len(dn)), (dn.shape[2], dn.shape[3])
        size, tile, resized = fitted(self.config, [shape], options)
        doubts = spec.doubts([f"image {position}" for position in range(len(dn))], dn, known)
        with explained(doubts):
            if tile is None:
                cls, maps = self._encoded(spec, dn, known, metadata, size, options)
            else:
                cls, maps = self._encoded_tiles(spec, dn, known, metadata, tile, options)
        return Features(
            cls=cls[0] if single else cls,
            map=maps[0] if single else maps,
            support=spec.support,
            notes=(*warned(doubts), *same_features(cls), *spec.notes, *said, *resized),
        )

    def _encoded_tiles(
        self,
        spec: InputSpec,
        dn: Tensor,
        known: Tensor | None,
        metadata: Sequence[ImageMetadata],
        tile: tuple[int, int],
        options: EncodeOptions,
    ) -> tuple[Tensor, Tensor]:
        """Encode images tile by tile: the mean of the vectors of tiles with data, and their maps side by side."""
        shape = (dn.shape[2], dn.shape[3])
        rows, cols = (-(-side // self.config.patch_size) for side in shape)
        tiles, seen, grid = tiled(dn, with_data(dn, spec.sensor.nodata) if known is None else known, tile)
        told, count = [part for one in metadata for part in metadata_of_tiles(one, shape, tile, grid)], math.prod(grid)
        cls, maps = self._encoded(spec, tiles, seen, told, None, options, num_tiles=count)
        maps = rearrange(maps, "(b i j) d h w -> b d (i h) (j w)", i=grid[0], j=grid[1])
        return rearrange(cls, "(b t) d -> b t d", t=count).nanmean(dim=1), maps[..., :rows, :cols]

    def _encoded(
        self,
        spec: InputSpec,
        dn: Tensor,
        known: Tensor | None,
        metadata: Sequence[ImageMetadata],
        size: int | None,
        options: EncodeOptions,
        *,
        num_tiles: int = 1,
    ) -> tuple[Tensor, Tensor]:
        """Encode images, or tiles of images, of which those without data give NaN; `InputError` where an image has
        none at all."""
        shape, patch = (dn.shape[2], dn.shape[3]), self.config.patch_size
        rows, cols = ((size or side) // patch for side in shape)
        cls = torch.full((len(dn), self.config.embed_dim), torch.nan, device=self.device)
        maps = torch.full((*cls.shape, rows, cols), torch.nan, device=self.device)
        seen = torch.ones(len(dn), dtype=torch.bool)
        for first in range(0, len(dn), options.batch_size):
            part = slice(first, first + options.batch_size)
            batch = spec.image_batch(dn[part], None if known is None else known[part], img_size=size)
            if batch.valid is not None:
                seen[part] = batch.valid.flatten(1).any(dim=1).cpu()
            there = torch.nonzero(seen[part]).flatten() + first
            if num_tiles == 1:
                _check_any_data(batch, [f"image {first + position}" for position in range(len(batch.pixels))])
            elif len(there) < len(batch.pixels):
                chosen = seen[part].to(batch.pixels.device)
                valid = None if batch.valid is None else batch.valid[chosen]
                batch = replace(batch, pixels=batch.pixels[chosen], valid=valid)
            if not len(there):
                continue
            of_sets = [[metadata[index]] for index in there.tolist()] if metadata else []
            told = network_metadata(of_sets, resized_gsd_m(of_sets, [shape], size)) if of_sets else None
            output = self.encode_batch(batch, metadata=told, precision=options.precision)
            cls[there], maps[there] = output.cls, feature_maps(output)
        empty = torch.nonzero(~seen.reshape(-1, num_tiles).any(dim=1)).flatten().tolist()
        if empty:
            raise InputError(_NO_DATA.format(f"image {empty[0]}"))
        return cls, maps

    def encode_set(self, images: Sequence[SetImage], *, options: EncodeOptions | None = None) -> Features:
        """Encode images of one place together: one sequence, in which every patch sees every image.

        The images show the same ground, so that patch p lies at one place in all of them; images of several sizes
        are resized to one. A single image of which nothing is known gets the features that `encode` gives it.

        Args:
            images: of any sensors and dates, at least one; each one (band, row, col), as `encode` takes it.
            options: image size, precision, and the statistics of images that name none; metadata are each image's own.

        Returns:
            Features of the place: `cls` (width) and `map` (width, row, col), with those of each image in `images`.

        Raises:
            InputError: no images, one that is none or has no data, wrong metadata, or more than memory holds.
            GeometryError: images whose corners enclose different ground.
            CatalogueError: an unknown sensor, band or encoding, or no statistics.
            AssignmentError: a band outside the span of the trained ranges.
        """
        options = options or EncodeOptions()
        _check_set(images)
        for what in ("statistics", "metadata"):
            if getattr(options, what) is not None and not isinstance(getattr(options, what), str | Path):
                raise InputError(f"the images of a set have {what} of their own: give them to each SetImage")
        sensors = [one.sensor if isinstance(one.sensor, str) else one.sensor.name for one in images]
        names = [f"image {position} of the set ({sensor})" for position, sensor in enumerate(sensors)]
        metadata = [checked_metadata(one.metadata, name=name) for one, name in zip(images, names, strict=True)]
        check_one_footprint(metadata, names)
        given = [self._given(one, name, is_one=True) for one, name in zip(images, names, strict=True)]
        shapes = [(dn.shape[1], dn.shape[2]) for _, dn, _, _ in given]
        size, tile, resized = fitted(self.config, shapes, options, is_set=True)
        specs, batches, doubts = self._set_batches(images, names, given, options, size, tile)
        rows, cols = (side // self.config.patch_size for side in batches[0].pixels.shape[2:])
        check_memory(self.encoder, num_sets=1, num_images=len(images), num_tokens=rows * cols)
        told = metadata if tile is None else [metadata_of_tiles(one, shapes[0], tile, (1, 1))[0] for one in metadata]
        of_set = network_metadata([told], resized_gsd_m([told], shapes, size))
        output = self.encode_batch(SetBatch(groups=tuple(batches), metadata=of_set), precision=options.precision)
        vectors, maps = image_vectors(output)[0], feature_maps(output)[0]
        notes = [(*spec.notes, *said) for spec, (*_, said) in zip(specs, given, strict=True)]
        return Features(
            cls=output.cls[0],
            map=maps.nanmean(dim=0),
            notes=(*warned(doubts), *(self.set_notes if len(images) > 1 else ()), *resized),
            images=tuple(
                Features(cls=vector, map=one, support=spec.support, notes=of_image)
                for spec, vector, one, of_image in zip(specs, vectors, maps, notes, strict=True)
            ),
        )

    def _set_batches(
        self,
        images: Sequence[SetImage],
        names: Sequence[str],
        given: Sequence[tuple[Sensor, Tensor, Tensor | None, tuple[str, ...]]],
        options: EncodeOptions,
        size: int | None,
        tile: tuple[int, int] | None,
    ) -> tuple[list[InputSpec], list[ImageBatch], Doubts]:
        specs, batches, doubts = [], [], []
        for one, name, (found, dn, known, _) in zip(images, names, given, strict=True):
            stored = (found, one.encoding)
            alike = (
                _counted(more, seen, other)
                for (other, more, seen, _), image in zip(given, images, strict=True)
                if (other, image.encoding) == stored
            )
            named = options.statistics if one.statistics is None else one.statistics
            try:
                statistics = chosen_statistics(named, found, alike, encoding=one.encoding)
                spec = self.input_spec(found, encoding=one.encoding, statistics=statistics)
                dn, known = dn[None], None if known is None else known[None]
                if tile is not None:
                    dn, known, _ = tiled(dn, with_data(dn, found.nodata) if known is None else known, tile)
                batches.append(spec.image_batch(dn, known, img_size=size))
            except InputError as problem:
                raise InputError(f"{name}: {problem}") from problem
            doubts += spec.doubts([name], dn, known)
            with explained(doubts):
                _check_any_data(batches[-1], [name])
            specs.append(spec)
        return specs, batches, doubts

    def encode_batch(
        self, batch: ImageBatch | SetBatch, *, metadata: SetMetadata | None = None, precision: Precision = "float32"
    ) -> EncoderOutput:
        """Encode network input, images with their metadata or whole sets, without gradients; the features are float32
        on the encoder's device."""
        network = self._rounded.of(self.encoder) if precision == "bf16" else self.encoder
        with torch.no_grad(), torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
            output: EncoderOutput = network(batch.to(self.device), metadata and metadata.to(self.device))
        return replace(output, cls=output.cls.float(), tokens=output.tokens.float())

    def _given(
        self, image: SetImage, name: str, *, is_one: bool = False
    ) -> tuple[Sensor, Tensor, Tensor | None, tuple[str, ...]]:
        """Take an image as a user gives it: its sensor with the bands that it has, its numbers, which of them have data
        (None: all but nodata), and what a user should know."""
        try:
            given = given_image(image.array, name="the array")
            found, said = named_bands(checkpoint_sensor(self.checkpoint, image.sensor), image.bands, given[2])
            found = found if image.nodata is None else replace(found, nodata=float(image.nodata))
            if image.encoding in FILE_ENCODINGS:
                found = sensor_in_file(found, image.encoding, [None] * len(found.bands), "the array")
            if is_one and given[0].ndim != 3:
                raise InputError(
                    f"it is an array of shape {tuple(given[0].shape)}; each image of a set is one (band, row, col)"
                )
            dn, known = image_tensors(given, image.valid, nodata=found.nodata)
            check_bands(found, dn.shape[-3:])
        except InputError as problem:
            raise problem if name == "the array" else InputError(f"{name}: {problem}") from problem
        if known is not None and image.nodata is not None:
            known = known & with_data(dn, found.nodata)
        return found, dn, known, (*given[3], *said)

    def _mixing(self, bands: Sequence[str] | Sensor) -> Float[Array, "band range"]:
        if isinstance(bands, Sensor):
            return assign(bands, self.checkpoint.ranges, self.rules).mixing
        rows = [self._mixing_row(name) for name in listed_names(bands)]
        return np.stack(rows) if rows else np.zeros((0, self.config.num_ranges))

    def _mixing_row(self, name: str) -> Float[Array, "range"]:
        table = self.checkpoint.ranges
        if name in table.range_names:
            return np.asarray(np.eye(len(table.ranges))[table.range_names.index(name)])
        sensor, slash, band = name.partition("/")
        if not slash:
            raise CatalogueError(
                f"'{name}' is not a trained range of '{table.name}'{nearest_name(name, table.range_names)} "
                "Name a sensor's band as 'sensor/band', for example 'sentinel2-l2a/B04'"
            )
        if table.name == STEM:
            raise CatalogueError(
                f"'{name}' may stand in any position of this network's stem of three bands; name the positions of the "
                f"channels, {', '.join(table.range_names)}, or give `encode` digital numbers with their sensor"
            )
        found = checkpoint_sensor(self.checkpoint, sensor).select([band])
        row: Float[Array, "range"] = assign(found, table, self.rules).mixing[0]
        return row


def _check_set(images: object) -> None:
    if not isinstance(images, list | tuple) or not all(isinstance(one, SetImage) for one in images):
        found = f"{type(images).__name__}" + (f" of {type(images[0]).__name__}" if isinstance(images, list) else "")
        raise InputError(f"a set is a list of SetImage, each with its array and sensor; found {found}")
    if not images:
        raise InputError("a set needs at least one image; found none")


_NO_DATA = "{} has no pixel with data (all nodata or NaN); leave it out, or check the nodata value of the sensor"


def _check_any_data(batch: ImageBatch, names: Sequence[str]) -> None:
    empty = [] if batch.valid is None else torch.nonzero(~batch.valid.flatten(1).any(dim=1)).flatten().tolist()
    if empty:
        raise InputError(_NO_DATA.format(names[empty[0]]))


def _counted(dn: Tensor, known: Tensor | None, sensor: Sensor) -> tuple[Array, Array]:
    """Give images as statistics are counted of them."""
    return dn.cpu().numpy(), (with_data(dn, sensor.nodata) if known is None else known).cpu().numpy()


FeatureMaker = Callable[[ImageBatch], Float[Tensor, "batch width"]]
"""Makes one vector an image."""


def store_features(
    makers: Mapping[str, FeatureMaker],
    encoder: SensorEncoder,
    store: ChipStore,
    array: str,
    rows: Int[Array, "sample"],
    *,
    statistics: Mapping[str, BandStatistics] | None = None,
    img_size: int | None = None,
    batch_size: int = 64,
    shown: bool = False,
) -> dict[str, Float[Array, "sample width"]]:
    """Make several kinds of features of the same chips in one pass: by encoders, by `band_means`; float32, one row a
    chip. Chips of `rows` become input as `encoder` reads their sensor, resized to `img_size` (None: its own)."""
    spec = encoder.input_spec(store.array_sensor(array), statistics=statistics)
    size = img_size or encoder.config.img_size
    made: dict[str, list[Array]] = {name: [] for name in makers}
    with progress(f"encode {array}", len(rows), shown=shown) as advance:
        for start in range(0, len(rows), batch_size):
            some = rows[start : start + batch_size]
            batch = chip_batch(store, array, some, spec, img_size=size)
            for name, maker in makers.items():
                made[name].append(maker(batch).float().cpu().numpy())
            advance(len(some))
    return {name: np.concatenate(vectors) for name, vectors in made.items()}


def chip_batch(
    store: ChipStore, array: str, rows: Int[Array, "sample"], spec: InputSpec, *, img_size: int
) -> ImageBatch:
    """Read chips as network input. The store says which pixels have data."""
    chips, valid = store.read(array, rows)
    known = np.ones(chips.shape, dtype=bool) if valid is None else valid
    return spec.image_batch(torch.from_numpy(chips), torch.from_numpy(known), img_size=img_size)
