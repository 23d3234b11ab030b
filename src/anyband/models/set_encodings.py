"""Encodings of where, when and by what each image of a set was taken, added to each of its tokens.

A fact that is not known is a trained vector of its own, never a value that a known one could have.
"""

from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from anyband.errors import InputError
from anyband.models.encodings import EncodingConfig, gsd_positions
from anyband.models.image_facts import (
    DAY_FEATURES,
    RESOLUTION_FEATURES,
    YEAR_FEATURES,
    day_features,
    place_features,
    resolution_features,
    year_features,
)
from anyband.models.inputs import SetMetadata
from anyband.shapes import Bool, Float

__all__ = ["EncodingRole", "SetEncodings", "count_features"]

EncodingRole = Literal["encoder", "decoder"]

# chosen: details of about 2000 km, so that a place tells its climate and is not learned by heart.
_PLACE_DEGREE = 10
# Source: A²-MAE (arXiv 2406.08079), whose positions are those of masked autoencoders at 1 m.
_REFERENCE_GSD_M = 1.0
# Source: A²-MAE composes the positions of three images; the corners of an image have eight codes of 32 bits.
_COMPOSED_IMAGES, _CODE_BITS, _CODES = 3, 32, 8


def count_features(config: EncodingConfig, *, num_ranges: int) -> int:
    """Count the numbers of each image that linear maps bring to the width of a token, in each of both networks.

    Args:
        config: what is encoded.
        num_ranges: trained spectral ranges.
    """
    return (
        (_PLACE_DEGREE + 1) ** 2 * config.place
        + 2 * RESOLUTION_FEATURES * config.resolution
        + (DAY_FEATURES + YEAR_FEATURES) * config.date
        + num_ranges * config.source
    )


class SetEncodings(nn.Module):
    """Encode what is known of each image.

    Equal facts give equal encodings, whatever else stands in the batch; everything is finite for any input. A ground
    resolution that is not over 0 counts as unknown.

    `geographic: a2mae` holds the positions of the tokens too. In the encoder, all images of a set get the same: a
    quarter of the width from the corners of the anchor, and a quarter each from the positions of three images, scaled
    by ground resolution. In the decoder, each image gets positions scaled by its own ground resolution, over the whole
    width. Where nothing tells the images apart (two dates of one source, with the other switches off), a place that is
    masked in both decodes to the same token: switch on `date`, or take the encodings of each image alone.

    Args:
        config: what is encoded.
        width: of a token; with `geographic: a2mae` in the encoder a multiple of 32, else of 4.
        num_ranges: trained spectral ranges.
        role: encoder or decoder.

    Raises:
        InputError: all encodings are off, or a width that can't be shared among the parts that A²-MAE composes.

    Source:
        A²-MAE (arXiv 2406.08079) for `geographic`. That the resolution is that of the input pixels, the order of the
        corners and the leading bits at widths other than 1024 are our reading of its intent. The vectors of what is not
        known or absent are ours, and so are all other encodings.
    """

    def __init__(self, config: EncodingConfig, *, width: int, num_ranges: int, role: EncodingRole) -> None:
        super().__init__()
        if not config.any:
            raise InputError("encodings were asked for with all of them off; switch one on or leave them out")
        self.config = config
        self.geographic: _ComposedPositions | _OwnPositions | None = None
        if config.geographic == "a2mae":
            self.geographic = _ComposedPositions(width) if role == "encoder" else _OwnPositions(width)
        self.place = _Fact((_PLACE_DEGREE + 1) ** 2, width) if config.place else None
        self.gsd = _Fact(RESOLUTION_FEATURES, width) if config.resolution else None
        self.input_gsd = _Fact(RESOLUTION_FEATURES, width) if config.resolution else None
        self.day = _Fact(DAY_FEATURES, width) if config.date else None
        self.year = _Fact(YEAR_FEATURES, width) if config.date else None
        self.source = _Sources(num_ranges, width) if config.source else None

    def forward(
        self, grid: tuple[int, int], metadata: SetMetadata | None, shares: Float[Tensor, "set slot range"]
    ) -> Float[Tensor, "set slot #token width"]:
        """Compute what is added to the tokens of each image.

        Args:
            grid: patches down and across.
            metadata: of each image; None: nothing is known.
            shares: what each image's sensor sees of the trained ranges.

        Returns:
            One vector for each image, or for each token where `geographic` holds the positions.

        Raises:
            InputError: more images than A²-MAE composes, or metadata of other sets than `shares`.
        """
        num_sets, num_slots = shares.shape[:2]
        facts = SetMetadata.unknown(num_sets, num_slots, device=shares.device) if metadata is None else metadata
        if facts.gsd_m.shape != (num_sets, num_slots):
            found = " × ".join(str(count) for count in facts.gsd_m.shape)
            raise InputError(f"metadata of {found} images were given for {num_sets} sets of {num_slots} images")
        parts = [part.unsqueeze(2) for part in self._image_parts(facts, shares)]
        if self.geographic is not None:
            parts.append(self.geographic(grid, facts))
        return sum(parts[1:], start=parts[0])

    def _image_parts(self, facts: SetMetadata, shares: Tensor) -> list[Tensor]:
        parts: list[Tensor] = []
        if self.place is not None:
            known = facts.lonlat_deg.isfinite().all(dim=-1)
            lonlat_deg = torch.where(known[..., None], facts.lonlat_deg, 0.0)
            parts.append(self.place(place_features(lonlat_deg, degree=_PLACE_DEGREE), known))
        for fact, gsd_m in ((self.gsd, facts.gsd_m), (self.input_gsd, facts.input_gsd_m)):
            if fact is not None:
                known = _known_gsd(gsd_m)
                parts.append(fact(resolution_features(torch.where(known, gsd_m, _REFERENCE_GSD_M)), known))
        if self.day is not None:
            known = facts.day_of_year.isfinite()
            parts.append(self.day(day_features(torch.where(known, facts.day_of_year, 0.0)), known))
        if self.year is not None:
            known = facts.year.isfinite()
            parts.append(self.year(year_features(torch.where(known, facts.year, 0.0)), known))
        if self.source is not None:
            parts.append(self.source(shares))
        return parts


class _Fact(nn.Module):
    """A linear map of what is known, and a trained vector for what is not."""

    def __init__(self, num_features: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(num_features, width, device="meta").to_empty(device="cpu")
        self.unknown_token = nn.Parameter(torch.empty(1, width))

    def forward(
        self, features: Float[Tensor, "set slot feature"], known: Bool[Tensor, "set slot"]
    ) -> Float[Tensor, "set slot width"]:
        # Features are finite where nothing is known too: a NaN that is not chosen would still reach the gradient.
        mapped = self.linear(features.to(self.linear.weight.dtype))
        return torch.where(known[..., None], mapped, self.unknown_token.to(mapped.dtype))


class _Sources(nn.Module):
    """A trained vector for each range; a sensor has the mean over what its bands see, and so has a new one."""

    def __init__(self, num_ranges: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_ranges, width))

    def forward(self, shares: Float[Tensor, "set slot range"]) -> Float[Tensor, "set slot width"]:
        return shares.to(self.weight.dtype) @ self.weight


class _OwnPositions(nn.Module):
    """Positions at each image's own ground resolution; at 1 m, with a trained vector, where it is not known."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.gsd_token = nn.Parameter(torch.empty(1, width))

    def forward(self, grid: tuple[int, int], facts: SetMetadata) -> Float[Tensor, "set slot token width"]:
        known = _known_gsd(facts.input_gsd_m)
        positions = gsd_positions(*grid, self.width, torch.where(known, facts.input_gsd_m, _REFERENCE_GSD_M))
        return positions + torch.where(known[..., None], 0.0, self.gsd_token).unsqueeze(2)


class _ComposedPositions(nn.Module):
    """Corners of the anchor and positions of three images side by side, the same for every image of a set."""

    def __init__(self, width: int) -> None:
        super().__init__()
        if width % _CODE_BITS:
            raise InputError(
                f"the geographic encoding 'a2mae' shares a token among 8 codes and 3 positions, so embed_dim must be "
                f"a multiple of {_CODE_BITS}; found {width}"
            )
        self.quarter = width // 4
        self.corners_token = nn.Parameter(torch.empty(1, self.quarter))
        self.absent_token = nn.Parameter(torch.empty(1, self.quarter))
        self.own = _OwnPositions(self.quarter)

    def forward(self, grid: tuple[int, int], facts: SetMetadata) -> Float[Tensor, "set slot token width"]:
        num_sets, num_slots = facts.gsd_m.shape
        if num_slots > _COMPOSED_IMAGES:
            raise InputError(
                f"sets of {num_slots} images were given; the geographic encoding 'a2mae' composes the positions of "
                f"three images: take encodings of each image, as in the recipe 'unified'"
            )
        num_tokens = grid[0] * grid[1]
        corners = self._corners(facts.corner_bits[:, 0])
        absent = self.absent_token.expand(num_sets, _COMPOSED_IMAGES - num_slots, -1).flatten(1)
        positions = rearrange(self.own(grid, facts), "s k n q -> s n (k q)")
        parts = [
            corners[:, None].expand(-1, num_tokens, -1),
            positions,
            absent[:, None].expand(-1, num_tokens, -1),
        ]
        return torch.cat(parts, dim=-1)[:, None].expand(-1, num_slots, -1, -1)

    def _corners(self, bits: Float[Tensor, "set 256"]) -> Float[Tensor, "set width"]:
        """Take the leading bits of each code, as many as fit; what is left of the quarter is 0."""
        kept = min(self.quarter // _CODES, _CODE_BITS)
        leading = rearrange(bits, "s (c b) -> s c b", c=_CODES)[..., :kept].flatten(1)
        known = bits.isfinite().all(dim=-1, keepdim=True)
        filled = nn.functional.pad(torch.where(known, leading, 0.0), (0, self.quarter - _CODES * kept))
        return torch.where(known, filled, self.corners_token)


def _known_gsd(gsd_m: Float[Tensor, "set slot"]) -> Bool[Tensor, "set slot"]:
    return gsd_m.isfinite() & (gsd_m > 0)
