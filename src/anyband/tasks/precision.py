"""Which arithmetic a device has, so that a run can say when its precision is imitated."""

import copy

import torch
from torch import nn

from anyband.models.encoder import Encoder
from anyband.models.spectral import SpectralProjection
from anyband.tasks.feature_records import Precision

__all__ = ["RoundedCopy", "has_bf16", "precision_note", "quicker_precision"]


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
