"""Images that were not seen, from the other images of their place: the network's side of `anyband reconstruct`.

The target stands in the last slot of its set, as in the training steps that hide an image whole; unlike there, the
other images are visible whole. A target that is seen in part has its seen tokens in the same slot.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from anyband.arrays import Array, Bool, Float, Num
from anyband.data.harmonise import restore
from anyband.data.resample import apply, whole_footprint
from anyband.encode.encoder import check_memory, find_device
from anyband.encode.input_spec import InputSpec, input_spec_for, joined_batches
from anyband.encode.metadata import Precision, set_metadata
from anyband.errors import AssignmentError, CheckpointError, InputError
from anyband.models.checkpoint import Checkpoint, build_model, load_checkpoint
from anyband.models.inputs import ImageBatch, SetBatch, SetMetadata
from anyband.rasters.footprints import Box
from anyband.sensors.assignment import MIN_SUPPORT, AssignmentRules, UnseenRules
from anyband.sensors.sensor import Sensor

__all__ = ["ImageView", "PlaceView", "SetCompleter", "load_completer"]

# Parts of a pixel that edges of views are rounded to.
_PARTS = 4096
# Source: what A²-MAE's released code draws; for a checkpoint that does not say what it was trained on.
_USUAL_SET_SIZE = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageView:
    """What one image shows of a square of ground."""

    spec: InputSpec
    dn: Num[Array, "band y x"]
    """Digital numbers of all pixels that the square touches."""
    valid: Bool[Array, "band y x"]
    """Which have data and may be seen."""
    box: Box
    gsd_m: float
    """Ground sampling distance of the image's own pixels; NaN where unknown."""
    time: np.datetime64
    """UTC; NaT where unknown."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PlaceView:
    """What all images of a place show of one square of ground."""

    context: tuple[ImageView, ...]
    """The other images, the most telling first: it is the anchor."""
    target: ImageView
    """The image to complete, on the pixels that are requested: the square is all of them."""
    unseen: Bool[Array, "row col"]
    """Which pixels of the target are to be predicted; of these nothing is looked at."""
    corners_deg: Float[Array, "4 2"]
    """(longitude, latitude) of the square: upper left, upper right, lower right, lower left; NaN where unknown."""

    @property
    def has_data(self) -> bool:
        """Whether anything of the place is seen here."""
        seen = self.target.valid & ~self.unseen
        return bool(seen.any()) or any(bool(image.valid.any()) for image in self.context)


def load_completer(
    path_or_hub_id: str | Path,
    *,
    device: str = "cpu",
    unseen: UnseenRules = "interpolate",
    min_support: float = MIN_SUPPORT,
) -> "SetCompleter":
    """Load a network that completes images of a place, from a safetensors file with its decoder or a hub id.

    Args:
        unseen: what to do with bands that no trained range is.
        min_support: bands with less support can't be reconstructed.

    Raises:
        CheckpointError: no such checkpoint, or not one that can predict an image; it says why.
        InputError: there is no such device.
    """
    found = find_device(device)
    rules = AssignmentRules(unseen=unseen, min_support=min_support)
    return SetCompleter(load_checkpoint(path_or_hub_id), rules=rules).to(found).eval()


class SetCompleter(nn.Module):
    """A network of sets with its decoder, its ranges, normalisations and rules for bands that no trained range is."""

    def __init__(self, checkpoint: Checkpoint, *, rules: AssignmentRules | None = None) -> None:
        super().__init__()
        config = checkpoint.config
        if config.images != "set":
            raise CheckpointError(
                "the checkpoint was trained on pairs of sensors; to reconstruct an image from the others of its place, "
                "take one that was trained on sets of images, as the unified recipes do"
            )
        if not config.predicts_values:
            raise CheckpointError(
                "the checkpoint predicts the structure inside a token and not its values (norm_pix_loss without "
                "levels), so no image in physical units comes out of it; take one trained with model.levels=true, as "
                "the unified recipes do"
            )
        self.model = build_model(checkpoint)
        # The weights live in the network from here on; the rest of the checkpoint tells how to use them.
        self.checkpoint = replace(checkpoint, state={})
        self.rules = rules or AssignmentRules()
        self.img_size: int = config.encoder.img_size
        """Side of the network's input, pixels."""

    @property
    def num_context(self) -> int:
        """How many other images the network was at most trained to see."""
        sets = _recipe_section(self.checkpoint, "data").get("sets") or {}
        most = int(sets.get("size", (1, _USUAL_SET_SIZE))[1])
        return max(1, most - 1)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of the training."""
        if _recipe_section(self.checkpoint, "model").get("hidden_image", 1):
            return ()
        return (
            "the network was never trained on images that are hidden whole (model.hidden_image is 0); expect little "
            "of a target of which nothing is seen",
        )

    def context_spec(self, sensor: Sensor) -> InputSpec:
        """Work out how an image to look at is read; see `input_spec_for`."""
        return input_spec_for(self.checkpoint, sensor, rules=self.rules)

    def target_spec(self, sensor: Sensor) -> InputSpec:
        """Work out how an image to predict is read and written; `AssignmentError` names bands that can't be."""
        try:
            spec = input_spec_for(self.checkpoint, sensor, rules=replace(self.rules, out_of_span="refuse"))
        except AssignmentError as problem:
            raise AssignmentError(
                f"this checkpoint can't reconstruct '{sensor.name}': {problem}\nname the bands that it can with "
                "--bands, or take a checkpoint that was trained on such bands"
            ) from problem
        kept = spec.assignment.kept_index
        if kept != tuple(range(len(sensor.bands))):
            read = ", ".join(sensor.band_names[index] for index in kept)
            raise AssignmentError(
                f"this checkpoint can't reconstruct all of {', '.join(sensor.band_names)} of '{sensor.name}' in this "
                f"order: it reads {read}; name bands that it reads, in its order, with --bands"
            )
        return spec

    def complete(
        self, places: Sequence[PlaceView], *, precision: Precision = "float32"
    ) -> list[Float[Array, "band row col"]]:
        """Predict the targets of some places, one sensor with one band choice, equally many context images each.

        A token of the target that touches a pixel to be predicted is hidden whole; all other tokens with data are seen.

        Returns:
            Each target whole, in physical units: predicted at hidden tokens, else as given and read by the network.

        Raises:
            InputError: no other image, more than the encodings of the network have room for, or than memory holds.
        """
        in_slots = [_in_slots(place) for place in places]
        num_slots = len(in_slots[0])
        check_memory(
            self.model.encoder, num_sets=len(places), num_images=num_slots, num_tokens=self._tokens_per_side**2
        )
        masked = torch.stack([self._masked(place) for place in places])
        slots = [
            self._slot([images[slot] for images in in_slots], masked if slot == num_slots - 1 else None)
            for slot in range(num_slots)
        ]
        metadata = _metadata(in_slots, places, self.img_size)
        same_source = [one.spec.sensor.name == in_slots[0][0].spec.sensor.name for one in in_slots[0]]
        found: dict[int, Tensor] = {}
        counts = masked.sum(dim=1)
        # A batch needs equally many hidden tokens.
        for count in dict.fromkeys(counts.tolist()):
            chosen = torch.nonzero(counts == count).flatten()
            batch = SetBatch(
                groups=tuple(_taken(slot, chosen) for slot in slots),
                same_source=torch.tensor(same_source).expand(len(chosen), -1),
                metadata=SetMetadata(**{name: one[chosen] for name, one in vars(metadata).items()}),
                partnered=not same_source[1],
            )
            found |= zip(chosen.tolist(), self._completed(batch, masked[chosen], precision), strict=True)
        return [self._physical(found[number], place) for number, place in enumerate(places)]

    @property
    def _tokens_per_side(self) -> int:
        return self.img_size // self.model.config.encoder.patch_size

    def _completed(self, batch: SetBatch, masked: Tensor, precision: Precision) -> Tensor:
        device = next(self.parameters()).device
        whole = torch.zeros(len(masked), batch.shape[1], masked.shape[1], dtype=torch.bool, device=device)
        whole[:, -1] = masked.to(device)
        with torch.no_grad(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
            return self.model.complete(batch.to(device), whole)[-1].float().cpu()

    def _slot(self, images: Sequence[ImageView], masked: Tensor | None) -> ImageBatch:
        """Bring images of one slot onto the network's grid; hidden tokens of the target are blank and count as data."""
        slot = joined_batches([_on_grid(image, self.img_size) for image in images])
        if masked is None:
            return slot
        edge, side = self.model.config.encoder.patch_size, self._tokens_per_side
        hidden = masked.view(-1, 1, side, side).repeat_interleave(edge, 2).repeat_interleave(edge, 3)
        # In training all of a hidden image is data: its mask tokens attend to each other.
        valid = None if slot.valid is None else slot.valid | hidden
        known = None if valid is None or bool(valid.all()) else valid
        return replace(slot, pixels=slot.pixels.masked_fill(hidden, 0.0), valid=known)

    def _masked(self, place: PlaceView) -> Bool[Tensor, "token"]:
        rows, cols = (_touched(size, self._tokens_per_side) for size in place.unseen.shape)
        return torch.from_numpy((rows @ place.unseen.astype(np.int64) @ cols.T > 0).ravel())

    def _physical(self, standard: Tensor, place: PlaceView) -> Float[Array, "band row col"]:
        image, side = standard[None], place.unseen.shape[0]
        if side != self.img_size:
            image, _ = apply(image, None, whole_footprint(1, grid=(self.img_size, self.img_size)), img_size=side)
        return restore(image, place.target.spec.normalisation)[0].numpy()


def _recipe_section(checkpoint: Checkpoint, name: Literal["data", "model"]) -> dict[str, Any]:
    section = (checkpoint.recipe or {}).get(name)
    return section if isinstance(section, dict) else {}


def _in_slots(place: PlaceView) -> list[ImageView]:
    """Order the images: the anchor, one of another sensor where there is one, the others, the target last."""
    if not place.context:
        raise InputError("a target needs at least one other image of its place; found none")
    anchor, *others = place.context
    partner = next((image for image in others if image.spec.sensor.name != anchor.spec.sensor.name), None)
    target = replace(place.target, valid=place.target.valid & ~place.unseen)
    return [anchor, *sorted(others, key=lambda image: image is not partner), target]


def _on_grid(image: ImageView, img_size: int) -> ImageBatch:
    """Standardise an image and cut it along the edges of its view, as training resamples chips."""
    batch = image.spec.image_batch(torch.from_numpy(image.dn)[None], torch.from_numpy(image.valid)[None])
    rows, cols = image.dn.shape[1:]
    box = image.box
    if (rows, cols) == (img_size, img_size) and box.area == rows * cols:
        return batch
    whole = whole_footprint(1, grid=(rows * _PARTS, cols * _PARTS))
    parts = np.rint(np.array([[box.row, box.col, box.height, box.width]]) * _PARTS).astype(np.int64)
    cut = replace(whole, first=parts[:, :2], size=parts[:, 2:])
    pixels, valid = apply(batch.pixels, batch.valid, cut, img_size=img_size)
    return replace(batch, pixels=pixels, valid=None if valid is None or bool(valid.all()) else valid)


def _touched(num_pixels: int, num_tokens: int) -> Array:
    """Tell which pixels (columns) each token (row) of an axis touches."""
    token = np.arange(num_tokens)[:, None]
    first, last = token * num_pixels // num_tokens, -(-(token + 1) * num_pixels // num_tokens)
    pixel = np.arange(num_pixels)
    return ((pixel >= first) & (pixel < last)).astype(np.int64)


def _taken(images: ImageBatch, chosen: Tensor) -> ImageBatch:
    valid = None if images.valid is None else images.valid[chosen]
    return replace(images, pixels=images.pixels[chosen], valid=valid)


def _metadata(in_slots: Sequence[Sequence[ImageView]], places: Sequence[PlaceView], img_size: int) -> SetMetadata:
    """Tell the network what is known: all images of a set are cut to one square, so they share its corners."""
    num_slots = len(in_slots[0])
    corners = np.stack([np.broadcast_to(place.corners_deg, (num_slots, 4, 2)) for place in places])
    gsd_m = np.array([[image.gsd_m for image in images] for images in in_slots])
    input_gsd_m = np.array([[place.target.gsd_m * place.unseen.shape[0] / img_size] * num_slots for place in places])
    time = np.array([[image.time for image in images] for images in in_slots], dtype="datetime64[us]")
    return set_metadata(corners, gsd_m, time, input_gsd_m)
