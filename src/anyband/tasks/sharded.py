"""Networks in shares: each process holds a part of every weight, gradient and moment (`run.strategy: fsdp`).

torch's `fully_shard` does it, on CPUs over gloo and on GPUs over NCCL alike. Tensors in shares are gathered one at a
time, so that saving needs room for one whole tensor on each device. Tensors that are not in shares pass through every
function here as they are.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from lightning_fabric.strategies.model_parallel import ModelParallelStrategy
    from torch.distributed.device_mesh import DeviceMesh

__all__ = ["in_shares", "own_share", "sharding_strategy", "shared_like", "whole", "whole_tensors"]


def sharding_strategy() -> "ModelParallelStrategy":
    """Make the strategy by which Fabric starts processes that hold shares.

    Fabric's own `fsdp` wants GPUs; this one takes any device that the processes can talk on.
    """
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
    """Gather tensors one by one into the memory of the CPU.

    Args:
        tensors: by name; the same names in the same order on all processes.
        kept: whether this process keeps them.

    Returns:
        Whole tensors by name; nothing on a process that does not keep them.
    """
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
