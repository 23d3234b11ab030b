"""Optimiser, schedule, shares and seeded steps."""

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from anyband.encode.metadata import Precision
from anyband.errors import CheckpointError
from anyband.models.vit import Encoder
from anyband.randomness import generator

if TYPE_CHECKING:
    from lightning_fabric.strategies.model_parallel import ModelParallelStrategy
    from torch.distributed.device_mesh import DeviceMesh

__all__ = [
    "Schedule",
    "has_bf16",
    "in_shares",
    "load_optimizer_tensors",
    "make_optimizer",
    "optimizer_tensors",
    "own_share",
    "precision_note",
    "quicker_precision",
    "seeded",
    "set_learning_rate",
    "sharding_strategy",
    "shared_like",
    "whole",
    "whole_tensors",
]


def sharding_strategy() -> "ModelParallelStrategy":
    """Make the strategy for processes that hold shares, on any device; Fabric's own `fsdp` wants GPUs."""
    from lightning_fabric.strategies.model_parallel import ModelParallelStrategy

    return ModelParallelStrategy(parallelize_fn=_shard)


def _shard(module: nn.Module, mesh: "DeviceMesh") -> nn.Module:
    """Cut each transformer block, then what is left, over all processes of all machines."""
    import torch.distributed as dist
    from timm.models.vision_transformer import Block
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    # Fabric's mesh has an axis for each kind of parallel work; here there is one kind.
    line = init_device_mesh(mesh.device_type, (dist.get_world_size(),))
    for block in [part for part in module.modules() if isinstance(part, Block)]:
        fully_shard(block, mesh=line, reshard_after_forward=True)
    # By default the root stays whole after a forward pass; after one without a gradient nobody would cut it again.
    fully_shard(module, mesh=line, reshard_after_forward=True)
    return module


def in_shares(module: nn.Module) -> bool:
    """Tell whether a network's weights are in shares."""
    return any(hasattr(parameter, "full_tensor") for parameter in module.parameters())


def whole(tensor: Tensor) -> Tensor:
    """Gather a tensor from all processes; all of them must ask for the same tensors in the same order."""
    gather = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def whole_tensors(tensors: Mapping[str, Tensor], *, kept: bool) -> dict[str, Tensor]:
    """Gather tensors one by one into the CPU's memory where `kept`; all processes need the same names in order."""
    found = {}
    for name, tensor in tensors.items():
        gathered = whole(tensor.detach())
        if kept:
            found[name] = gathered.cpu().contiguous()
    return found


def own_share(tensor: Tensor) -> Tensor:
    """Take what this process holds of a tensor, without asking the others."""
    take = getattr(tensor, "to_local", None)
    return tensor if take is None else take()


def shared_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """Copy a whole tensor, which every process has, to where a parameter is, and keep of it what is kept of that."""
    copied = tensor.to(parameter.device, copy=True)
    if not hasattr(parameter, "full_tensor"):
        return copied
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(parameter, DTensor)
    # Every process cuts out its own share; nothing is sent.
    return distribute_tensor(copied, parameter.device_mesh, parameter.placements, src_data_rank=None)


_IMAGES_OF_BASE_RATE = 256  # Source: Goyal et al., arXiv 1706.02677; SMARTIES gives its rates so
_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Learning rate of each step: a linear rise, then a half cosine to 0, steps down to a tenth, or no change."""

    peak: float
    """At the end of the rise."""
    warmup_steps: float
    """Not always whole."""
    total_steps: int
    fall: Literal["cosine", "steps", "constant"] = "cosine"
    drops: tuple[float, ...] = ()
    """Shares of the run after which `steps` goes down to a tenth."""

    @classmethod
    def of_batch(cls, *, base_lr: float, batch_size: int, warmup_share: float, total_steps: int) -> "Schedule":
        """Scale the rate to the global batch; `warmup_share` is the part of the run that warms up."""
        peak = base_lr * batch_size / _IMAGES_OF_BASE_RATE
        return cls(peak=peak, warmup_steps=warmup_share * total_steps, total_steps=total_steps)

    def rate(self, step: int) -> float:
        """Compute the rate of a step, taken at its middle, so that it is over 0 at the first and at the last."""
        now = step + 0.5
        if self.fall != "cosine":
            risen = min(now / self.warmup_steps, 1.0) if self.warmup_steps else 1.0
            drops = self.drops if self.fall == "steps" else ()
            return self.peak * risen * 0.1 ** sum(step >= round(share * self.total_steps) for share in drops)
        if now < self.warmup_steps:
            return self.peak * now / self.warmup_steps
        share = (now - self.warmup_steps) / (self.total_steps - self.warmup_steps)
        return self.peak * (1 + math.cos(math.pi * min(share, 1.0))) / 2


def make_optimizer(
    model: nn.Module, *, weight_decay: float, betas: tuple[float, float], layer_decay: float = 1.0, fused: bool = True
) -> torch.optim.AdamW:
    """Make AdamW with decay on weights only: not on 1-D parameters, nor on biases stacked for all ranges.
    Args:
        model: with at most one `Encoder` inside; what requires no gradient is left out.
        layer_decay: a block's rate is this times that of the block after it. A head and the final norm have the full
            rate; what comes before the blocks has the smallest.
        fused: one pass over the weights instead of five.
    Source:
        Bao et al., "BEiT" (arXiv 2106.08254), as masked autoencoders (arXiv 2111.06377) use it.
    """
    trained = {name: one for name, one in model.named_parameters() if one.requires_grad}
    # Layers of the encoder, if any: 0 before the blocks, the blocks, the final norm.
    layers: dict[nn.Parameter, int] = {}
    for encoder in [one for one in model.modules() if isinstance(one, Encoder)][:1]:
        for name, one in encoder.named_parameters():
            after = 1 + len(encoder.blocks) if name.startswith("norm.") else 0
            layers[one] = 1 + int(name.split(".")[1]) if name.startswith("blocks.") else after
    last = max(layers.values(), default=0)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, one in trained.items():
        is_spared = one.ndim <= 1 or name.endswith(".bias")
        groups.setdefault((layer_decay ** (last - layers.get(one, last)), is_spared), []).append(one)
    described = [
        {"params": groups[scale, plain], "weight_decay": 0.0 if plain else weight_decay, "lr_scale": scale}
        for scale, plain in sorted(groups)
    ]
    # The rate of every step is set by the schedule.
    return torch.optim.AdamW(described, lr=0.0, betas=betas, fused=fused)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the rate of all groups, each times its own scale."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module, *, kept: bool = True) -> dict[str, Tensor]:
    """Take `exp_avg.NAME`, `exp_avg_sq.NAME`, `step.NAME` whole, none unless `kept`; all processes must ask."""
    tensors = {
        f"{key}.{name}": torch.as_tensor(optimizer.state[parameter][key])
        for name, parameter in model.named_parameters()
        for key in ((*_MOMENTS, "step") if optimizer.state.get(parameter) else ())
    }
    return whole_tensors(tensors, kept=kept)


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` took, to the bit; `CheckpointError` where it is another model's."""
    left = set(tensors)
    for name, parameter in model.named_parameters():
        keys = {key: f"{key}.{name}" for key in (*_MOMENTS, "step")}
        if not left & set(keys.values()):
            continue
        missing = [key for key in keys.values() if key not in tensors]
        if missing or tensors[keys["exp_avg"]].shape != parameter.shape:
            raise CheckpointError(f"the optimiser's state does not fit parameter '{name}'")
        # A fused optimiser keeps the count of steps beside the weights too.
        state = {key: shared_like(tensors[keys[key]], parameter) for key in _MOMENTS}
        state["step"] = tensors[keys["step"]].to(parameter.device, copy=True)
        optimizer.state[parameter] = state
        left -= set(keys.values())
    if left:
        raise CheckpointError(f"the optimiser's state has '{min(left)}', which the model lacks")


@contextlib.contextmanager
def seeded(seed: int, *, step: int, purpose: str, device: torch.device) -> Iterator[None]:
    """Seed torch's generators (CPU's and the device's) for a block that draws, such as drop path; then restore them."""
    word = int(generator(seed, step=step, sample=0, purpose=purpose).integers(2**63))
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices, enabled=True):
        torch.manual_seed(word)
        yield


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
