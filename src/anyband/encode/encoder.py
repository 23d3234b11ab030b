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

from anyband.arrays import Array, Bool, Float, Int, Num
from anyband.data.store import ChipStore
from anyband.encode.input_spec import InputSpec, checkpoint_sensor, input_spec_for
from anyband.encode.metadata import (
    EncodeOptions,
    Features,
    ImageMetadata,
    Pool,
    Precision,
    SetImage,
    check_one_footprint,
    checked_metadata,
    network_metadata,
)
from anyband.errors import CatalogueError, InputError, StoreError, nearest_name
from anyband.models.checkpoint import Checkpoint, build_encoder, load_checkpoint
from anyband.models.inputs import ImageBatch, SetBatch, SetMetadata
from anyband.models.patches import SpectralProjection
from anyband.models.vit import Encoder, EncoderConfig, EncoderOutput
from anyband.progress import progress
from anyband.sensors.assignment import AssignmentRules, Unseen, assign
from anyband.sensors.ranges import STEM
from anyband.sensors.sensor import BandStatistics, Sensor

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
    "common_footprints",
    "feature_maps",
    "find_device",
    "has_bf16",
    "image_vectors",
    "load_encoder",
    "pooled",
    "precision_note",
    "quicker_precision",
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
            f"{num_sets} set{'s' * (num_sets > 1)} of {num_images} images with {num_tokens} tokens each "
            f"({num_images * num_tokens:,} tokens that attend to each other) need about {needed / _GB:,.1f} GB, and "
            f"{free / _GB:,.1f} GB are free on '{device}'; take fewer or smaller images, or fewer sets at once"
        )


def has_bf16(device: torch.device) -> bool:
    """Tell whether a device itself does products of bfloat16. A processor without them emulates them, slowly."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # On x86 AVX-512 BF16 or AMX; torch's library on CPUs knows, and where this torch has none, nothing can be said.
    found = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None) if device.type == "cpu" else None
    return True if found is None else bool(found())


def quicker_precision(device: torch.device) -> Precision:
    """Choose bf16 where a device has it, else float32."""
    return "bf16" if has_bf16(device) else "float32"


def precision_note(device: torch.device, precision: str) -> str | None:
    """Say that a run's precision is emulated on its device; None: it is not."""
    if not precision.startswith("bf16") or has_bf16(device):
        return None
    return (
        f"'{device}' has no arithmetic in bf16 and emulates it, which is several times slower than float32; "
        "write optim.precision=32-true"
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
    unseen: Unseen = "interpolate",
    min_support: float = 0.05,
    out_of_span: Literal["refuse", "drop"] = "refuse",
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
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as problem:
        reason = str(problem).strip().partition("\n")[0].rstrip(".")
        raise InputError(f"there is no device '{name}' here: {reason}; use 'cpu', or one that is there") from problem
    return device


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
        twin.config, twin.checkpoint, twin.rules, twin._rounded = (
            self.config,
            self.checkpoint,
            self.rules,
            RoundedCopy(),
        )
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
        array: Num[Array, "..."] | Num[Tensor, "..."],
        *,
        sensor: str | Sensor,
        bands: Sequence[str] | None = None,
        encoding: str | None = None,
        valid: Bool[Array, "..."] | Bool[Tensor, "..."] | None = None,
        options: EncodeOptions | None = None,
    ) -> Features:
        """Encode images, each by itself.

        The normalisation is the caller's (`options.statistics`), else the checkpoint's for this sensor, else
        the catalogue's.

        Args:
            array: digital numbers as the files store them, (band, row, col) or (batch, band, row, col).
            sensor: name in the catalogue, a YAML file, or a record.
            bands: of the array, in its order; None: all of the sensor's.
            encoding: how the numbers are stored; None: the sensor's default.
            valid: which pixels have data, of the array's shape; None: all but the sensor's nodata. NaN is
                missing in both cases.
            options: image size, precision, statistics.

        Returns:
            Features, without a batch axis where the array has none.

        Raises:
            InputError: another number of bands, no pixel with data, or an image smaller than a patch.
            CatalogueError: an unknown sensor, band or encoding, or no statistics.
            AssignmentError: a band outside the span of the trained ranges.
        """
        options = options or EncodeOptions()
        spec = self.input_spec(sensor, bands=bands, encoding=encoding, statistics=options.statistics)
        dn, known = _images(array, valid)
        metadata = _checked_all(options.metadata, len(dn))
        shape = (dn.shape[2], dn.shape[3])
        size = self._input_size([shape], options.img_size)
        cls, maps = [], []
        for first in range(0, len(dn), options.batch_size):
            part = slice(first, first + options.batch_size)
            batch = spec.image_batch(dn[part], None if known is None else known[part], img_size=size)
            _check_any_data(batch, [f"image {first + position}" for position in range(len(batch.pixels))])
            of_sets = [[one] for one in metadata[part]]
            output = self.encode_batch(
                batch,
                metadata=network_metadata(of_sets, _input_gsd_m(of_sets, [shape], size)) if of_sets else None,
                precision=options.precision,
            )
            cls.append(output.cls)
            maps.append(feature_maps(output))
        single = len(array.shape) == 3
        return Features(
            cls=cls[0][0] if single else torch.cat(cls),
            map=maps[0][0] if single else torch.cat(maps),
            support=spec.support,
            notes=spec.notes,
        )

    def encode_set(self, images: Sequence[SetImage], *, options: EncodeOptions | None = None) -> Features:
        """Encode images of one place together: one sequence, in which every patch sees every image.

        The images show the same ground, so that patch p lies at one place in all of them; images of several sizes
        are resized to one. A single image of which nothing is known gets the features that `encode` gives it.

        Args:
            images: of any sensors and dates, at least one.
            options: image size and precision; statistics and metadata are each image's own.

        Returns:
            Features of the place, with those of each image in `images`.

        Raises:
            InputError: no images, one that is none or has no data, wrong metadata, or more than memory holds.
            GeometryError: images whose corners enclose different ground.
            CatalogueError: an unknown sensor, band or encoding, or no statistics.
            AssignmentError: a band outside the span of the trained ranges.
        """
        options = options or EncodeOptions()
        if not images:
            raise InputError("a set needs at least one image; found none")
        for what in ("statistics", "metadata"):
            if getattr(options, what) is not None:
                raise InputError(f"the images of a set have {what} of their own: give them to each SetImage")
        names = [
            f"image {position} of the set ({one.sensor if isinstance(one.sensor, str) else one.sensor.name})"
            for position, one in enumerate(images)
        ]
        metadata = [checked_metadata(one.metadata, name=name) for one, name in zip(images, names, strict=True)]
        check_one_footprint(metadata, names)
        arrays = [_set_image(one, name) for one, name in zip(images, names, strict=True)]
        shapes = [(dn.shape[2], dn.shape[3]) for dn, _ in arrays]
        size = self._input_size(shapes, options.img_size)
        specs, batches = [], []
        for one, (dn, known), name in zip(images, arrays, names, strict=True):
            spec = self.input_spec(one.sensor, bands=one.bands, encoding=one.encoding, statistics=one.statistics)
            try:
                batches.append(spec.image_batch(dn, known, img_size=size))
            except InputError as problem:
                raise InputError(f"{name}: {problem}") from problem
            _check_any_data(batches[-1], [name])
            specs.append(spec)
        rows, cols = (side // self.config.patch_size for side in batches[0].pixels.shape[2:])
        check_memory(self.encoder, num_sets=1, num_images=len(images), num_tokens=rows * cols)
        of_set = network_metadata([metadata], _input_gsd_m([metadata], shapes, size))
        output = self.encode_sets(SetBatch(groups=tuple(batches), metadata=of_set), precision=options.precision)
        vectors, maps = image_vectors(output)[0], feature_maps(output)[0]
        return Features(
            cls=output.cls[0],
            map=maps.nanmean(dim=0),
            notes=self.set_notes if len(images) > 1 else (),
            images=tuple(
                Features(cls=vector, map=one, support=spec.support, notes=spec.notes)
                for spec, vector, one in zip(specs, vectors, maps, strict=True)
            ),
        )

    def encode_batch(
        self, batch: ImageBatch, *, metadata: SetMetadata | None = None, precision: Precision = "float32"
    ) -> EncoderOutput:
        """Encode network input without gradients; the features are float32 on the encoder's device."""
        network = self._rounded.of(self.encoder) if precision == "bf16" else self.encoder
        with torch.no_grad(), torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
            output: EncoderOutput = network(batch.to(self.device), metadata and metadata.to(self.device))
        return replace(output, cls=output.cls.float(), tokens=output.tokens.float())

    def encode_sets(self, batch: SetBatch, *, precision: Precision = "float32") -> EncoderOutput:
        """Encode sets of network input without gradients; the features are float32 on the encoder's device."""
        network = self._rounded.of(self.encoder) if precision == "bf16" else self.encoder
        with torch.no_grad(), torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
            output: EncoderOutput = network(batch.to(self.device))
        return replace(output, cls=output.cls.float(), tokens=output.tokens.float())

    def _input_size(self, shapes: Sequence[tuple[int, int]], requested: int | None) -> int | None:
        """Choose the side to which images are resized; None: they stay as they are."""
        patch = self.config.patch_size
        height, width = shapes[0]
        if all(min(shape) < patch for shape in shapes):
            raise InputError(
                f"images of {height} × {width} pixels are smaller than one patch of {patch} × {patch}; "
                "use larger images"
            )
        if requested is not None and (requested < patch or requested % patch):
            raise InputError(f"img_size {requested} is not a multiple of the patch size {patch}")
        if requested is None and (len(set(shapes)) > 1 or height % patch or width % patch):
            return self.config.img_size
        return requested

    def _mixing(self, bands: Sequence[str] | Sensor) -> Float[Array, "band range"]:
        if isinstance(bands, Sensor):
            return assign(bands, self.checkpoint.ranges, self.rules).mixing
        rows = [self._mixing_row(name) for name in bands]
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


def _images(array: Array | Tensor, valid: Array | Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Check images and their validity, and bring them to tensors with a batch axis."""
    shape = tuple(array.shape)
    if len(shape) not in (3, 4) or 0 in shape:
        raise InputError(
            f"an array of shape {shape} is no image; give (band, row, col) or (batch, band, row, col), each at least 1"
        )
    if valid is not None and tuple(valid.shape) != shape:
        raise InputError(f"'valid' has shape {tuple(valid.shape)}, the array {shape}; give one for each pixel")
    dn = _tensor(array).reshape(-1, *shape[-3:])
    return dn, None if valid is None else _tensor(valid).reshape(-1, *shape[-3:])


def _tensor(array: Array | Tensor) -> Tensor:
    if isinstance(array, Tensor):
        return array
    # Torch takes neither foreign byte orders nor negative strides, as readers and flips leave them.
    return torch.from_numpy(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")))


def _set_image(image: SetImage, name: str) -> tuple[Tensor, Tensor | None]:
    if len(image.array.shape) != 3:
        raise InputError(
            f"{name} is an array of shape {tuple(image.array.shape)}; each image of a set is one (band, row, col)"
        )
    try:
        return _images(image.array, image.valid)
    except InputError as problem:
        raise InputError(f"{name}: {problem}") from problem


def _checked_all(metadata: ImageMetadata | Sequence[ImageMetadata] | None, count: int) -> list[ImageMetadata]:
    """Check what is known of the images of a batch; empty where nothing is."""
    if metadata is None:
        return []
    given = [metadata] if isinstance(metadata, ImageMetadata) else metadata
    if len(given) != count:
        raise InputError(
            f"'metadata' is of {len(given)} image{'s' * (len(given) != 1)}, the array holds {count}; give one for each"
        )
    return [checked_metadata(one, name=f"image {position}") for position, one in enumerate(given)]


def _input_gsd_m(
    metadata: Sequence[Sequence[ImageMetadata]], shapes: Sequence[tuple[int, int]], img_size: int | None
) -> Float[Array, "set slot"]:
    """Compute how large the network's pixels are on the ground, metres, when images are resized whole."""
    gsd_m = np.array([[one.gsd_m for one in images] for images in metadata])
    sides = np.array([math.sqrt(height * width) for height, width in shapes])
    return gsd_m if img_size is None else gsd_m * sides / img_size


def _check_any_data(batch: ImageBatch, names: Sequence[str]) -> None:
    empty = [] if batch.valid is None else torch.nonzero(~batch.valid.flatten(1).any(dim=1)).flatten().tolist()
    if empty:
        raise InputError(
            f"{names[empty[0]]} has no pixel with data (all nodata or NaN); leave it out, or check "
            "the nodata value of the sensor"
        )


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


def common_footprints(
    store: ChipStore, arrays: Sequence[str]
) -> tuple[list[tuple[str, str]], dict[str, Int[Array, "footprint"]]]:
    """Find the footprints that all named arrays show, sorted: (place, split) of each; and by array the row that shows
    each, of the earliest date. `StoreError` where an array is missing, or no footprint is shown by all."""
    for array in arrays:
        store.array_sensor(array)
    columns = store.index.select(["array", "array_row", "place", "cell", "split", "datetime"]).to_pylist()
    found: dict[tuple[str, str, str], dict[str, int]] = {}
    for chip in sorted(columns, key=lambda chip: (chip["datetime"] is not None, chip["datetime"], chip["array_row"])):
        if chip["array"] in arrays:
            rows = found.setdefault((chip["place"], chip["cell"], chip["split"]), {})
            rows.setdefault(chip["array"], chip["array_row"])
    shared = sorted(key for key, rows in found.items() if len(rows) == len(set(arrays)))
    if not shared:
        raise StoreError(f"store '{store.path}' has no footprint that all of {', '.join(arrays)} show")
    rows_of = {array: np.array([found[key][array] for key in shared], dtype=np.int64) for array in arrays}
    return [(place, split) for place, _, split in shared], rows_of
