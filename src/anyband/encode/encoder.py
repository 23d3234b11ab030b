"""An encoder for images of any sensor, and what it returns."""

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from anyband.arrays import Array, Bool, Float, Int, Num
from anyband.encode.input_spec import InputSpec, checkpoint_sensor, input_spec_for, joined_batches
from anyband.encode.metadata import (
    CheckedFacts,
    EncodeOptions,
    Features,
    ImageMetadata,
    Pool,
    Precision,
    SetFeatures,
    SetImage,
    check_one_footprint,
    checked_facts,
    network_metadata,
)
from anyband.errors import CatalogueError, InputError, nearest_name
from anyband.models.checkpoint import Checkpoint, build_encoder, load_checkpoint
from anyband.models.inputs import ImageBatch, SetBatch, SetMetadata
from anyband.models.spectral import SpectralProjection
from anyband.models.vit import Encoder, EncoderConfig, EncoderOutput, SetOutput
from anyband.sensors.assignment import AssignmentRules, Unseen, assign
from anyband.sensors.ranges import is_stem
from anyband.sensors.sensor import BandStatistics, Sensor

__all__ = [
    "EncodeOptions",
    "Features",
    "ImageMetadata",
    "Pool",
    "Precision",
    "RoundedCopy",
    "SensorEncoder",
    "SetFeatures",
    "SetImage",
    "SetItem",
    "StoredImages",
    "available_bytes",
    "check_memory",
    "check_set_options",
    "common_size",
    "feature_map",
    "find_device",
    "has_bf16",
    "image_vectors",
    "joined_sets",
    "load_encoder",
    "pooled",
    "pooled_sets",
    "precision_note",
    "quicker_precision",
    "sequence_bytes",
    "set_batch",
    "set_image",
    "set_maps",
    "set_names",
    "stored_images",
]

_MEMINFO = Path("/proc/meminfo")
_GB = 1e9
# chosen: floats that live at once for each token and unit of width, beside the hidden layer and its activation; a block
# of 192 and of 768 wide was seen to take 9 and 6 (torch 2.15, CPU).
_LIVE_COPIES = 9


def sequence_bytes(encoder: Encoder, *, num_sets: int, num_tokens: int) -> int:
    """Estimate the memory that encoding joint sequences takes, without gradients, beside weights and images.

    Fused attention grows with the tokens; plain attention holds the scores of all pairs of tokens too.

    Args:
        encoder: with the way its attention is computed.
        num_sets: sequences at once.
        num_tokens: of each, of all its images together.
    """
    config = encoder.config
    per_token = config.embed_dim * (_LIVE_COPIES + 2 * config.mlp_ratio)
    fused = all(getattr(part, "fused_attn", True) for part in encoder.blocks.modules())
    # Scores, and their softmax beside them.
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
    """See that joint sequences fit the memory that is free, before they are encoded.

    Args:
        encoder: to use.
        num_sets: sets at once.
        num_images: of each set.
        num_tokens: of each image.

    Raises:
        InputError: they don't; it says how much they need.
    """
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
    """Tell whether products of bfloat16 are done by the device itself.

    A processor without them (AVX-512 BF16 or AMX on x86) imitates them, which is slower than float32.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return True
    # The library that torch multiplies with on CPUs knows; where this torch has none, nothing can be said.
    asks = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return True if asks is None else bool(asks())


def quicker_precision(device: torch.device) -> Precision:
    """Choose bf16 where a device has it, else float32."""
    return "bf16" if has_bf16(device) else "float32"


def precision_note(device: torch.device, precision: str) -> str | None:
    """Say that a run's precision is imitated on its device; None: it is not."""
    if not precision.startswith("bf16") or has_bf16(device):
        return None
    return (
        f"'{device}' has no arithmetic in bf16 and imitates it, which is several times slower than float32; "
        "write optim.precision=32-true"
    )


class RoundedCopy:
    """A copy of an encoder whose large weights are in bf16, for inference; made anew when the weights change.

    Automatic mixed precision rounds every weight in every call, which takes as long as a few images. The numbers are
    the same to the bit: the weights are rounded alike, and norms, CLS and positions stay as they are.
    """

    def __init__(self) -> None:
        """Nothing is copied yet."""
        self._copied: tuple[tuple[tuple[int, int], ...], Encoder] | None = None

    def of(self, encoder: Encoder) -> Encoder:
        """Give the copy of an encoder."""
        # torch counts the changes of a tensor in place; other tensors have other identities.
        state = tuple((id(parameter), parameter._version) for parameter in encoder.parameters())
        if self._copied is None or self._copied[0] != state:
            rounded = copy.deepcopy(encoder)
            for part in rounded.modules():
                if isinstance(part, nn.Linear | SpectralProjection):
                    part.to(torch.bfloat16)
            self._copied = (state, rounded.requires_grad_(False))
        return self._copied[1].train(encoder.training)


@dataclass(frozen=True, kw_only=True, eq=False)
class SetItem:
    """One image of a set as network input."""

    spec: InputSpec
    """How its bands are read. Images of one input spec are projected together."""
    image: ImageBatch
    """The image, alone."""


def common_size(shapes: Sequence[tuple[int, int]], *, asked: int | None, config: EncoderConfig) -> int | None:
    """Choose the side to which the images of a set are resized; None: they stay as they are.

    Args:
        shapes: rows and columns of each image, at least one.
        asked: side asked for, pixels.
        config: of the network.

    Raises:
        InputError: a side that the patch size doesn't divide, or an image as large as any that is smaller than a patch.
    """
    patch = config.patch_size
    if all(min(shape) < patch for shape in shapes):
        height, width = shapes[0]
        raise InputError(
            f"images of {height} × {width} pixels are smaller than one patch of {patch} × {patch}; use larger images"
        )
    if asked is not None and (asked < patch or asked % patch):
        raise InputError(f"img_size {asked} is not a multiple of the patch size {patch}")
    differ = len(set(shapes)) > 1
    if asked is None and (differ or any(side % patch for side in shapes[0])):
        return config.img_size
    return asked


def set_batch(groups: Sequence[ImageBatch], rows: Int[Array, "set slot"], metadata: SetMetadata | None) -> SetBatch:
    """Make a batch of sets that are encoded whole: nothing is hidden, so it doesn't matter which source is whose.

    Args:
        groups: the images, those of one input spec together.
        rows: where each image of each set stands when the groups are laid one after the other.
        metadata: of each image; None: nothing is known.
    """
    return SetBatch(
        groups=tuple(groups),
        rows=torch.from_numpy(rows),
        same_source=torch.ones(rows.shape, dtype=torch.bool),
        first_slot=torch.zeros(len(rows), dtype=torch.int64),
        metadata=metadata,
        partnered=False,
    )


def joined_sets(sets: Sequence[Sequence[SetItem]], metadata: SetMetadata | None) -> SetBatch:
    """Put sets of equally many images into one batch.

    Args:
        sets: the images of each.
        metadata: of each image; None: nothing is known.
    """
    flat = [item for images in sets for item in images]
    rows, groups, first = np.zeros(len(flat), dtype=np.int64), [], 0
    for spec in dict.fromkeys(item.spec for item in flat):
        members = [position for position, item in enumerate(flat) if item.spec is spec]
        groups.append(joined_batches([flat[position].image for position in members]))
        rows[members] = first + np.arange(len(members))
        first += len(members)
    return set_batch(groups, rows.reshape(len(sets), -1), metadata)


def image_vectors(output: SetOutput) -> Float[Tensor, "set slot width"]:
    """Make one vector an image of its own patches: the mean of those that are not hidden; NaN where all are."""
    if output.hidden is None:
        return output.tokens.mean(dim=2)
    seen = (~output.hidden)[..., None].to(output.tokens.dtype)
    return (output.tokens * seen).sum(dim=2) / seen.sum(dim=2)


def pooled_sets(output: SetOutput, pool: Pool) -> Float[Tensor, "set width"]:
    """Make one vector a set: its CLS token, or the mean over its images of their means."""
    return output.cls if pool == "cls" else image_vectors(output).nanmean(dim=1)


def set_maps(output: SetOutput) -> Float[Tensor, "set slot width row col"]:
    """Lay the patch features of each image out as a map, NaN where a patch is hidden."""
    rows, cols = output.grid
    tokens = output.tokens
    if output.hidden is not None:
        tokens = tokens.masked_fill(output.hidden[..., None], torch.nan)
    return rearrange(tokens, "s k (h w) d -> s k d h w", h=rows, w=cols)


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredImages:
    """Images of one size."""

    dn: Tensor
    """(image, band, row, col), as stored."""
    valid: Tensor | None
    """Which pixels have data; None: the sensor's nodata tells."""
    single: bool
    """Whether one image was given, without a batch axis."""
    facts: tuple[CheckedFacts, ...] = ()
    """Of each image; empty: nothing is known."""
    first: int = 0
    """Position of the first of them in what the user gave."""

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of each image."""
        return self.dn.shape[2], self.dn.shape[3]

    def parts(self, size: int) -> Iterator["StoredImages"]:
        """Give the images a few at a time."""
        for first in range(0, len(self.dn), size):
            chosen = slice(first, first + size)
            valid = None if self.valid is None else self.valid[chosen]
            yield replace(self, dn=self.dn[chosen], valid=valid, facts=self.facts[chosen], first=first)

    def input_gsd_m(self, facts: CheckedFacts, img_size: int | None) -> float:
        """Compute how large a pixel is on the ground, metres, when an image is resized whole; NaN where unknown."""
        height, width = self.size
        return facts.gsd_m if img_size is None else facts.gsd_m * math.sqrt(height * width) / img_size


def stored_images(
    array: Array | Tensor,
    valid: Array | Tensor | None,
    *,
    metadata: ImageMetadata | Sequence[ImageMetadata] | None = None,
) -> StoredImages:
    """Check images and bring them to tensors with a batch axis.

    Args:
        array: (band, row, col) or (batch, band, row, col).
        valid: of the array's shape.
        metadata: of the image, or of each.

    Raises:
        InputError: another shape, or wrong metadata.
    """
    shape = tuple(array.shape)
    if len(shape) not in (3, 4) or 0 in shape:
        raise InputError(
            f"an array of shape {shape} is no image; give (band, row, col) or (batch, band, row, col), each at least 1"
        )
    if valid is not None and tuple(valid.shape) != shape:
        raise InputError(f"'valid' has shape {tuple(valid.shape)}, the array {shape}; give one for each pixel")
    single = len(shape) == 3
    dn = _tensor(array)
    seen = None if valid is None else _tensor(valid)
    if single:
        dn, seen = dn[None], None if seen is None else seen[None]
    return StoredImages(dn=dn, valid=seen, single=single, facts=_facts(metadata, len(dn)))


def set_image(image: SetImage, name: str) -> StoredImages:
    """Check the array of an image of a set.

    Args:
        image: to check.
        name: of it, for messages.

    Raises:
        InputError: it is no single image.
    """
    if len(image.array.shape) != 3:
        raise InputError(
            f"{name} is an array of shape {tuple(image.array.shape)}; each image of a set is one (band, row, col)"
        )
    try:
        return stored_images(image.array, image.valid)
    except InputError as problem:
        raise InputError(f"{name}: {problem}") from problem


def set_names(images: Sequence[SetImage]) -> list[str]:
    """Name the images of a set in messages."""
    sensors = [one.sensor if isinstance(one.sensor, str) else one.sensor.name for one in images]
    return [f"image {position} of the set ({sensor})" for position, sensor in enumerate(sensors)]


def check_set_options(images: Sequence[SetImage], options: EncodeOptions) -> None:
    """See that there are images, and that nothing is said of all of them that each has to say for itself.

    Raises:
        InputError: otherwise.
    """
    if not images:
        raise InputError("a set needs at least one image; found none")
    for what in ("statistics", "metadata"):
        if getattr(options, what) is not None:
            raise InputError(f"the images of a set have {what} of their own: give them to each SetImage")


def _facts(metadata: ImageMetadata | Sequence[ImageMetadata] | None, count: int) -> tuple[CheckedFacts, ...]:
    if metadata is None:
        return ()
    given = [metadata] if isinstance(metadata, ImageMetadata) else metadata
    if len(given) != count:
        raise InputError(
            f"'metadata' is of {len(given)} image{'s' * (len(given) != 1)}, the array holds {count}; give one for each"
        )
    return tuple(checked_facts(one, name=f"image {position}") for position, one in enumerate(given))


def _tensor(array: Array | Tensor) -> Tensor:
    if isinstance(array, Tensor):
        return array
    # Torch takes neither foreign byte orders nor negative strides, as readers and flips leave them.
    return torch.from_numpy(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")))


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
    """See that a device is there, before anything is loaded.

    Raises:
        InputError: there is none of that name.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as problem:
        reason = str(problem).strip().partition("\n")[0].rstrip(".")
        raise InputError(f"there is no device '{name}' here: {reason}; use 'cpu', or one that is there") from problem
    return device


class SensorEncoder(nn.Module):
    """An encoder with its ranges, normalisations and rules.

    Args:
        checkpoint: weights and what they were trained on.
        rules: for bands that no trained range is.
    """

    def __init__(self, checkpoint: Checkpoint, *, rules: AssignmentRules | None = None) -> None:
        super().__init__()
        self.encoder = build_encoder(checkpoint)
        # The weights live in the network from here on; the rest of the checkpoint tells how to use them.
        self.checkpoint = replace(checkpoint, state={})
        self.rules = rules or AssignmentRules()
        self._rounded = RoundedCopy()

    @property
    def config(self) -> EncoderConfig:
        """The architecture."""
        return self.encoder.config

    def untrained(self, *, seed: int) -> "SensorEncoder":
        """Make the same encoder with the weights it would have before any training, to compare with."""
        twin = SensorEncoder.__new__(SensorEncoder)
        nn.Module.__init__(twin)
        twin.encoder = Encoder(self.config, seed=seed)
        twin.checkpoint, twin.rules, twin._rounded = self.checkpoint, self.rules, RoundedCopy()
        return twin.to(next(self.parameters()).device).eval()

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
        asked = found if bands is None else found.select(bands)
        return input_spec_for(self.checkpoint, asked, rules=self.rules, encoding=encoding, statistics=statistics)

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
        """Encode images of stored numbers.

        The normalisation is the caller's (`options.statistics`), else the checkpoint's for this sensor, else
        the catalogue's.

        Args:
            array: (band, row, col), or (batch, band, row, col), as the files store it.
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
        images = stored_images(array, valid, metadata=options.metadata)
        size = self._target_size(images.dn, options.img_size)
        parts = [self._encode_part(part, spec, size, options) for part in images.parts(options.batch_size)]
        cls = torch.cat([part[0] for part in parts])
        grid = torch.cat([part[1] for part in parts])
        return Features(
            cls=cls[0] if images.single else cls,
            map=grid[0] if images.single else grid,
            support=spec.support,
            notes=spec.notes,
        )

    def encode_set(self, images: Sequence[SetImage], *, options: EncodeOptions | None = None) -> SetFeatures:
        """Encode images of one place together: one sequence, in which every patch sees every image.

        The images show the same ground, so that patch p lies at one place in all of them; images of several sizes
        are resized to one. A single image of which nothing is known gets the features that `encode` gives it.

        Args:
            images: of any sensors and dates, at least one.
            options: image size and precision; statistics and metadata are each image's own.

        Returns:
            `place`: the CLS token of the sequence. `images`: of each image its own patches, and as `cls` their mean,
            because only the sequence has a CLS token.

        Raises:
            InputError: no images, one that is none or has no data, wrong metadata, or more than memory holds.
            GeometryError: images whose corners enclose different ground.
            CatalogueError: an unknown sensor, band or encoding, or no statistics.
            AssignmentError: a band outside the span of the trained ranges.
        """
        options = options or EncodeOptions()
        check_set_options(images, options)
        names = set_names(images)
        facts = [checked_facts(one.metadata, name=name) for one, name in zip(images, names, strict=True)]
        check_one_footprint(facts, names)
        stacks = [set_image(one, name) for one, name in zip(images, names, strict=True)]
        size = common_size([stack.size for stack in stacks], asked=options.img_size, config=self.config)
        items = [self._set_item(*each, size) for each in zip(images, stacks, names, strict=True)]
        rows, cols = (side // self.config.patch_size for side in items[0].image.pixels.shape[2:])
        check_memory(self.encoder, num_sets=1, num_images=len(items), num_tokens=rows * cols)
        input_gsd_m = [stack.input_gsd_m(one, size) for one, stack in zip(facts, stacks, strict=True)]
        batch = joined_sets([items], network_metadata([facts], np.array([input_gsd_m])))
        output = self.encode_sets(batch, precision=options.precision)
        return self._set_features(items, output)

    @torch.no_grad()
    def encode_sets(self, batch: SetBatch, *, precision: Precision = "float32") -> SetOutput:
        """Encode sets of network input without gradients; the features are float32 on the encoder's device."""
        device = next(self.parameters()).device
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
            output = self._network(precision).encode_set(batch.to(device))
        return replace(output, cls=output.cls.float(), tokens=output.tokens.float())

    @property
    def set_notes(self) -> tuple[str, ...]:
        """What a user should know who encodes sets of several images."""
        if self.checkpoint.config.images == "set":
            return ()
        return ("the checkpoint was trained on pairs: training never showed it several images as one sequence",)

    @torch.no_grad()
    def encode_batch(
        self, batch: ImageBatch, *, metadata: SetMetadata | None = None, precision: Precision = "float32"
    ) -> EncoderOutput:
        """Encode network input without gradients; the features are float32 on the encoder's device.

        Args:
            batch: images of one sensor.
            metadata: of sets of one image each; None: nothing is known.
            precision: of the network's arithmetic.
        """
        device = next(self.parameters()).device
        known = None if metadata is None else metadata.to(device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
            output: EncoderOutput = self._network(precision)(batch.to(device), known)
        return replace(output, cls=output.cls.float(), tokens=output.tokens.float())

    def _network(self, precision: Precision) -> Encoder:
        return self._rounded.of(self.encoder) if precision == "bf16" else self.encoder

    def _encode_part(
        self, part: StoredImages, spec: InputSpec, size: int | None, options: EncodeOptions
    ) -> tuple[Tensor, Tensor]:
        batch = spec.image_batch(part.dn, valid=part.valid, img_size=size)
        _check_any_data(batch, lambda position: f"image {part.first + position}")
        metadata = None
        if part.facts:
            input_gsd_m = [[part.input_gsd_m(one, size)] for one in part.facts]
            metadata = network_metadata([[one] for one in part.facts], np.array(input_gsd_m))
        output = self.encode_batch(batch, metadata=metadata, precision=options.precision)
        return output.cls, feature_map(output)

    def _set_item(self, image: SetImage, stack: StoredImages, name: str, size: int | None) -> SetItem:
        spec = self.input_spec(image.sensor, bands=image.bands, encoding=image.encoding, statistics=image.statistics)
        try:
            batch = spec.image_batch(stack.dn, valid=stack.valid, img_size=size)
        except InputError as problem:
            raise InputError(f"{name}: {problem}") from problem
        _check_any_data(batch, lambda _: name)
        return SetItem(spec=spec, image=batch)

    def _set_features(self, items: Sequence[SetItem], output: SetOutput) -> SetFeatures:
        vectors, maps = image_vectors(output)[0], set_maps(output)[0]
        images = tuple(
            Features(cls=vector, map=one, support=item.spec.support, notes=item.spec.notes)
            for item, vector, one in zip(items, vectors, maps, strict=True)
        )
        return SetFeatures(place=output.cls[0], images=images, notes=self.set_notes if len(items) > 1 else ())

    def _target_size(self, dn: Tensor, asked: int | None) -> int | None:
        patch, (height, width) = self.config.patch_size, dn.shape[2:]
        if height < patch or width < patch:
            raise InputError(
                f"images of {height} × {width} pixels are smaller than one patch of {patch} × {patch}; "
                "use larger images"
            )
        if asked is not None and (asked < patch or asked % patch):
            raise InputError(f"img_size {asked} is not a multiple of the patch size {patch}")
        if asked is None and (height % patch or width % patch):
            return self.config.img_size
        return asked

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
        if is_stem(table):
            raise CatalogueError(
                f"'{name}' may stand in any position of this network's stem of three bands; name the positions of the "
                f"channels, {', '.join(table.range_names)}, or give `encode` stored numbers with their sensor"
            )
        asked = checkpoint_sensor(self.checkpoint, sensor).select([band])
        row: Float[Array, "range"] = assign(asked, table, self.rules).mixing[0]
        return row


def feature_map(output: EncoderOutput) -> Float[Tensor, "batch width row col"]:
    """Lay patch features out as a map, NaN where a patch is hidden."""
    if output.hidden is None:
        return output.map
    hidden = output.hidden.reshape(-1, 1, *output.grid)
    return output.map.masked_fill(hidden, torch.nan)


def pooled(output: EncoderOutput, pool: Pool) -> Float[Tensor, "batch width"]:
    """Make one vector an image: the CLS token, or the mean of the patches that are not hidden."""
    if pool == "cls":
        return output.cls
    if output.hidden is None:
        return output.tokens.mean(dim=1)
    seen = (~output.hidden)[:, :, None].to(output.tokens.dtype)
    return (output.tokens * seen).sum(dim=1) / seen.sum(dim=1).clamp(min=1)


def _check_any_data(batch: ImageBatch, named: Callable[[int], str]) -> None:
    if batch.valid is None:
        return
    empty = torch.nonzero(~batch.valid.flatten(1).any(dim=1)).flatten().tolist()
    if empty:
        raise InputError(
            f"{named(empty[0])} has no pixel with data (all nodata or NaN); leave it out, or check "
            "the nodata value of the sensor"
        )
