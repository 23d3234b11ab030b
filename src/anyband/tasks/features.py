"""A network that reads the stored numbers of any sensor: what `load_encoder` returns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from anyband.errors import CatalogueError, InputError, nearest_name
from anyband.models.checkpoint import Checkpoint, build_encoder, load_checkpoint
from anyband.models.encoder import Encoder, EncoderConfig, EncoderOutput
from anyband.models.inputs import ImageBatch
from anyband.sensors.assignment import AssignmentRules, Unseen, assign
from anyband.sensors.sensor import BandStatistics, Sensor
from anyband.shapes import Array, Bool, Float, Num
from anyband.tasks.readings import BandReading, checkpoint_sensor, read_bands, standardised_batch

__all__ = [
    "EncodeOptions",
    "Features",
    "Pool",
    "Precision",
    "SensorEncoder",
    "feature_map",
    "load_encoder",
    "pooled",
]

Precision = Literal["float32", "bf16"]
Pool = Literal["cls", "mean"]


@dataclass(frozen=True, kw_only=True)
class EncodeOptions:
    """What is seldom changed when images are encoded."""

    img_size: int | None = None
    """Side in pixels to which whole images are resized (bicubic, anti-aliased), a multiple of the patch
    size. None: images that the patch size divides stay as they are, others get the checkpoint's own size."""
    precision: Precision = "float32"
    """float32, or bf16 for the network's arithmetic; features are float32 in both."""
    statistics: Mapping[str, BandStatistics] | None = None
    """By band, in physical units; None: the checkpoint's for this sensor, else the catalogue's."""
    batch_size: int = 64
    """Images that go through the network at once."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Features:
    """Features of one image, or of a batch with the batch first; both after the final norm, float32."""

    cls: Float[Tensor, "*batch width"]
    """One vector an image."""
    map: Float[Tensor, "*batch width row col"]
    """One vector a patch; NaN for patches with under half of their pixels valid."""
    support: dict[str, float] = field(default_factory=dict)
    """How well the trained ranges back each band, 0 to 1; 1 for bands that are exactly known."""
    notes: tuple[str, ...] = ()
    """Encoding and statistics that were used, and each band that was interpolated or dropped."""


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
    target = _device(device)
    rules = AssignmentRules(unseen=unseen, min_support=min_support, out_of_span=out_of_span)
    return SensorEncoder(load_checkpoint(path_or_hub_id), rules=rules).to(target).eval()


def _device(name: str) -> torch.device:
    """See that a device is there, before anything is loaded."""
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

    @property
    def config(self) -> EncoderConfig:
        """The architecture."""
        return self.encoder.config

    def untrained(self, *, seed: int) -> "SensorEncoder":
        """Make the same encoder with the weights it would have before any training, to compare with."""
        twin = SensorEncoder.__new__(SensorEncoder)
        nn.Module.__init__(twin)
        twin.encoder = Encoder(self.config, seed=seed)
        twin.checkpoint, twin.rules = self.checkpoint, self.rules
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
        dn, seen, single = _images(array, valid)
        size = self._target_size(dn, options.img_size)
        parts = [
            self._encode_part(dn[first:][: options.batch_size], seen, first, reading, size, options)
            for first in range(0, len(dn), options.batch_size)
        ]
        cls = torch.cat([part[0] for part in parts])
        grid = torch.cat([part[1] for part in parts])
        return Features(
            cls=cls[0] if single else cls,
            map=grid[0] if single else grid,
            support=reading.support,
            notes=reading.notes,
        )

    @torch.no_grad()
    def encode_batch(self, batch: ImageBatch, *, precision: Precision = "float32") -> EncoderOutput:
        """Encode network input without gradients; the features are float32 on the encoder's device."""
        device = next(self.parameters()).device
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
            output: EncoderOutput = self.encoder(batch.to(device))
        return replace(output, cls=output.cls.float(), tokens=output.tokens.float())

    def _encode_part(
        self,
        dn: Tensor,
        valid: Tensor | None,
        first: int,
        reading: BandReading,
        size: int | None,
        options: EncodeOptions,
    ) -> tuple[Tensor, Tensor]:
        seen = None if valid is None else valid[first : first + len(dn)]
        batch = standardised_batch(dn, reading, valid=seen, img_size=size)
        _check_any_data(batch, first)
        output = self.encode_batch(batch, precision=options.precision)
        return output.cls, feature_map(output)

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


def _images(array: Array | Tensor, valid: Array | Tensor | None) -> tuple[Tensor, Tensor | None, bool]:
    """Bring images to tensors with a batch axis; say whether that axis was missing."""
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
    return (dn[None], None if seen is None else seen[None], True) if single else (dn, seen, False)


def _tensor(array: Array | Tensor) -> Tensor:
    if isinstance(array, Tensor):
        return array
    # Torch takes neither foreign byte orders nor negative strides, as readers and flips leave them.
    return torch.from_numpy(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")))


def _check_any_data(batch: ImageBatch, first: int) -> None:
    if batch.valid is None:
        return
    empty = torch.nonzero(~batch.valid.flatten(1).any(dim=1)).flatten().tolist()
    if empty:
        raise InputError(
            f"image {first + empty[0]} has no pixel with data (all nodata or NaN); leave it out, or check "
            "the nodata value of the sensor"
        )
