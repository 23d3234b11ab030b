"""A network that reads the stored numbers of any sensor: what `load_encoder` returns."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from anyband.errors import CatalogueError, InputError, nearest_name
from anyband.models.checkpoint import Checkpoint, build_encoder, load_checkpoint
from anyband.models.encoder import Encoder, EncoderConfig, EncoderOutput, SetOutput
from anyband.models.inputs import ImageBatch, SetBatch, SetMetadata
from anyband.sensors.assignment import AssignmentRules, Unseen, assign
from anyband.sensors.sensor import BandStatistics, Sensor
from anyband.sensors.stem import is_stem
from anyband.shapes import Array, Bool, Float, Num
from anyband.tasks.feature_records import (
    EncodeOptions,
    Features,
    ImageMetadata,
    Pool,
    Precision,
    SetFeatures,
    SetImage,
)
from anyband.tasks.image_metadata import check_one_footprint, checked_facts, network_metadata
from anyband.tasks.memory import check_memory
from anyband.tasks.precision import RoundedCopy
from anyband.tasks.readings import BandReading, checkpoint_sensor, read_bands, standardised_batch
from anyband.tasks.set_features import SetItem, common_size, image_vectors, joined_sets, set_maps
from anyband.tasks.stored_images import StoredImages, check_set_options, set_image, set_names, stored_images

__all__ = [
    "EncodeOptions",
    "Features",
    "ImageMetadata",
    "Pool",
    "Precision",
    "SensorEncoder",
    "SetFeatures",
    "SetImage",
    "feature_map",
    "find_device",
    "load_encoder",
    "pooled",
]


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

    def reading(
        self,
        sensor: str | Sensor,
        *,
        bands: Sequence[str] | None = None,
        encoding: str | None = None,
        statistics: Mapping[str, BandStatistics] | None = None,
    ) -> BandReading:
        """Work out how images of a sensor are read; see `read_bands`."""
        found = checkpoint_sensor(self.checkpoint, sensor)
        asked = found if bands is None else found.select(bands)
        return read_bands(self.checkpoint, asked, rules=self.rules, encoding=encoding, statistics=statistics)

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
        reading = self.reading(sensor, bands=bands, encoding=encoding, statistics=options.statistics)
        images = stored_images(array, valid, metadata=options.metadata)
        size = self._target_size(images.dn, options.img_size)
        parts = [self._encode_part(part, reading, size, options) for part in images.parts(options.batch_size)]
        cls = torch.cat([part[0] for part in parts])
        grid = torch.cat([part[1] for part in parts])
        return Features(
            cls=cls[0] if images.single else cls,
            map=grid[0] if images.single else grid,
            support=reading.support,
            notes=reading.notes,
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
        self, part: StoredImages, reading: BandReading, size: int | None, options: EncodeOptions
    ) -> tuple[Tensor, Tensor]:
        batch = standardised_batch(part.dn, reading, valid=part.valid, img_size=size)
        _check_any_data(batch, lambda position: f"image {part.first + position}")
        metadata = None
        if part.facts:
            input_gsd_m = [[part.input_gsd_m(one, size)] for one in part.facts]
            metadata = network_metadata([[one] for one in part.facts], np.array(input_gsd_m))
        output = self.encode_batch(batch, metadata=metadata, precision=options.precision)
        return output.cls, feature_map(output)

    def _set_item(self, image: SetImage, stack: StoredImages, name: str, size: int | None) -> SetItem:
        reading = self.reading(image.sensor, bands=image.bands, encoding=image.encoding, statistics=image.statistics)
        try:
            batch = standardised_batch(stack.dn, reading, valid=stack.valid, img_size=size)
        except InputError as problem:
            raise InputError(f"{name}: {problem}") from problem
        _check_any_data(batch, lambda _: name)
        return SetItem(reading=reading, image=batch)

    def _set_features(self, items: Sequence[SetItem], output: SetOutput) -> SetFeatures:
        vectors, maps = image_vectors(output)[0], set_maps(output)[0]
        images = tuple(
            Features(cls=vector, map=one, support=item.reading.support, notes=item.reading.notes)
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
