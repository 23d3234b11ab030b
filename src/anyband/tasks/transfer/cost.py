"""What an evaluation costs in time and memory, reckoned from what two samples cost."""

from dataclasses import asdict, dataclass
from typing import Any

import torch

from anyband.data.supervised.records import TaskData
from anyband.tasks.memory import available_bytes, sequence_bytes
from anyband.tasks.transfer.rehearsal import FITTED, NUM_REHEARSED, Rehearsal, num_epochs
from anyband.tasks.transfer.setting import Setting

__all__ = ["Cost", "cost_of"]

_MB, _GB = 1e6, 1e9
_MINUTE_S, _HOUR_S = 60.0, 3600.0


@dataclass(frozen=True, kw_only=True)
class Cost:
    """An estimate. Times are of batches of two; larger ones are quicker on a GPU."""

    device: str
    """That it was measured on."""
    num_encoded: int
    """Samples that are read and encoded once."""
    encode_s: float
    """Seconds that this takes for each."""
    num_epochs: int
    """Passes of training; 0: nothing is trained by epochs."""
    num_in_epoch: int
    """Samples that an epoch trains or validates on."""
    epoch_s: float
    """Seconds that this takes for each."""
    num_encoders: int
    """So many times all of it is done: with the untrained encoder, or without each band."""
    weights_bytes: int
    """Of the encoder."""
    fitted_bytes: int
    """Weights that are fitted, their gradients and what the optimiser keeps."""
    batch_bytes: int
    """What a batch keeps for the gradient, or takes while it is encoded."""
    free_bytes: int | None
    """Memory that is free; None: not known."""

    @property
    def total_s(self) -> float:
        """Seconds of the whole evaluation."""
        once = self.num_encoded * self.encode_s + self.num_epochs * self.num_in_epoch * self.epoch_s
        return once * self.num_encoders

    @property
    def needed_bytes(self) -> int:
        """Memory that the whole takes at least."""
        return self.weights_bytes + self.fitted_bytes + self.batch_bytes

    @property
    def advice(self) -> str:
        """What to do about the memory; empty: it is enough, or nobody knows."""
        if self.free_bytes is None or self.needed_bytes <= self.free_bytes:
            return ""
        return (
            f"a batch needs at least {self.needed_bytes / _GB:,.1f} GB on '{self.device}', and "
            f"{self.free_bytes / _GB:,.1f} GB are free; lower fit.batch_size (with lr_samples the rate follows), "
            "input.batch_size or input.img_size"
        )

    def said(self) -> list[tuple[str, str]]:
        """Tell time and memory in lines for people."""
        parts = [f"{self.num_encoded:,} samples encoded once, {_duration(self.num_encoded * self.encode_s)}"]
        if self.num_epochs:
            an_epoch = self.num_in_epoch * self.epoch_s
            each = f"{_duration(an_epoch)} each" if an_epoch else "too short to measure"
            parts.append(f"{self.num_epochs} epochs of {self.num_in_epoch:,} samples, {each}")
        if self.num_encoders > 1:
            parts.append(f"{self.num_encoders} times")
        free = "" if self.free_bytes is None else f"; {self.free_bytes / _GB:,.1f} GB are free"
        sizes = ((self.weights_bytes, "encoder"), (self.fitted_bytes, "what is fitted"), (self.batch_bytes, "a batch"))
        shares = ", ".join(f"{_size(size)} {what}" for size, what in sizes if size)
        return [
            (
                "time",
                f"about {_duration(self.total_s)} on '{self.device}', measured in batches of {NUM_REHEARSED}, so "
                f"rather less in larger ones: {'; '.join(parts)}",
            ),
            ("memory", f"at least {_size(self.needed_bytes)}: {shares}{free}"),
        ]

    def to_dict(self) -> dict[str, Any]:
        """Give the same as plain JSON values, with the sums."""
        return {**asdict(self), "total_s": self.total_s, "needed_bytes": self.needed_bytes}


def cost_of(setting: Setting, rehearsal: Rehearsal) -> Cost:
    """Reckon time and memory of a whole evaluation.

    Args:
        setting: of the evaluation.
        rehearsal: what two of its samples cost.
    """
    recipe, counts, encoder = setting.recipe, setting.data.num_samples, setting.encoders["encoder"]
    trains_encoder = setting.protocol in FITTED and recipe.fit.encoder != "frozen"
    return Cost(
        device=setting.device,
        # A trained encoder encodes its test samples at the end; the others come with the epochs.
        num_encoded=counts["test"] if trains_encoder else sum(counts.values()),
        encode_s=rehearsal.encode_s,
        num_epochs=num_epochs(recipe, setting.protocol),
        num_in_epoch=counts["train"] + counts["val"],
        epoch_s=rehearsal.epoch_s,
        num_encoders=_num_encoders(setting),
        weights_bytes=sum(one.nbytes for one in encoder.parameters()),
        fitted_bytes=rehearsal.fitted_bytes,
        batch_bytes=max(_encode_bytes(setting), rehearsal.kept_bytes * _batch_size(setting)),
        free_bytes=available_bytes(torch.device(setting.device)),
    )


def _num_encoders(setting: Setting) -> int:
    if setting.protocol != "leave-one-band-out":
        return 1 + setting.recipe.compare.untrained
    # With every band, and without each in three ways.
    return 1 + 3 * _num_bands(setting.data)


def _num_bands(data: TaskData) -> int:
    return max(sum(len(one.bands) for one in slots) for slots in data.sensors)


def _batch_size(setting: Setting) -> int:
    recipe = setting.recipe
    asked = recipe.fit.batch_size if setting.protocol in FITTED else recipe.linear.batch_size
    return min(asked, setting.data.num_samples["train"])


def _encode_bytes(setting: Setting) -> int:
    encoder = setting.encoders["encoder"].encoder
    tokens = (setting.reader.img_size // encoder.config.patch_size) ** 2
    slots = max(len(one) for one in setting.data.sensors)
    joint = setting.recipe.fusion == "joint"
    return sequence_bytes(
        encoder,
        num_sets=setting.recipe.input.batch_size * (1 if joint else slots),
        num_tokens=tokens * (slots if joint else 1),
    )


def _size(num_bytes: int) -> str:
    return f"{num_bytes / _GB:,.1f} GB" if num_bytes >= _GB else f"{num_bytes / _MB:,.1f} MB"


def _duration(seconds: float) -> str:
    if seconds < _MINUTE_S:
        return f"{seconds:.1f} s"
    if seconds < _HOUR_S:
        return f"{seconds / _MINUTE_S:.1f} min"
    return f"{seconds / _HOUR_S:,.1f} h"
