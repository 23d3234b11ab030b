"""How much memory a training step needs at least, and whether there is so much: known before the first step."""

import torch

from anyband.errors import RecipeError
from anyband.models.autoencoder import AutoencoderConfig
from anyband.models.masking import count_decoded, count_visible
from anyband.tasks.memory import available_bytes
from anyband.tasks.recipe import PretrainRecipe

__all__ = ["check_step_memory", "step_bytes"]

_GB = 1e9
# Values that a block of a transformer keeps for the gradient, for each token and unit of width, beside the hidden
# layer: its input, both norms, queries, keys and values, what attention gives, and the sum behind it.
_KEPT = 8
# Compiled, norms and activations are computed anew.
_KEPT_COMPILED = 6
# In mixed precision the input and the sum behind attention stay in float32.
_KEPT_FLOAT32 = 2
# float32 weights, their gradients and the two moments of AdamW.
_BYTES_OF_WEIGHT = 16
# A float32 number: a weight, a gradient, and what passes from block to block also in mixed precision.
_BYTES_OF_FLOAT32 = 4
# The copy of a weight that mixed precision computes with, from the forward pass on.
_BYTES_OF_COPY = 2


def step_bytes(
    recipe: PretrainRecipe,
    config: AutoencoderConfig,
    *,
    num_samples: int,
    num_images: int,
    fused: bool,
    num_processes: int = 1,
) -> int:
    """Estimate the least memory that a training step takes at its peak, in each process.

    Weights take 16 bytes each, which processes share with `run.strategy: fsdp`. Beside them stands what the gradient
    needs: for each token, block and unit of width 8 + 2 · mlp_ratio values (6 + mlp_ratio where blocks are compiled),
    of 4 bytes, or 2 in mixed precision. Only the visible tokens pass the encoder; the decoder sees them and what is
    decoded. Plain attention keeps the scores of all pairs of tokens too. With `run.recompute` blocks keep their input
    only, and one block at a time the rest.

    Args:
        recipe: of the run.
        config: of the network.
        num_samples: pairs or sets that are computed at once.
        num_images: of each.
        fused: whether attention keeps no scores.
        num_processes: of the run.
    """
    encoder, decoder = config.encoder, config.decoder
    num_tokens = encoder.grid[0] * encoder.grid[1]
    visible = count_visible(num_tokens, config.mask_ratio)
    decoded = visible + count_decoded(num_tokens - visible, config.decode_ratio)
    num_sequences = 1
    if config.images == "pair" or config.sequence == "apart":
        num_sequences = min(2, num_images)
    inputs, all_kept, most_kept = 0, 0, 0
    for tokens, width, depth, heads in (
        (visible, encoder.embed_dim, encoder.depth, encoder.num_heads),
        (decoded, decoder.decoder_embed_dim, decoder.decoder_depth, decoder.decoder_num_heads),
    ):
        length = tokens * num_images
        kept = length * width * _bytes_kept(recipe)
        scores = 0 if fused else _bytes_of_value(recipe) * heads * length * (length // num_sequences)
        inputs += num_samples * depth * length * width * _BYTES_OF_FLOAT32
        all_kept += num_samples * depth * (kept + scores)
        most_kept = max(most_kept, num_samples * (kept + scores))
    of_tokens = inputs + most_kept if recipe.run.recompute else all_kept
    return _bytes_of_weights(recipe, config, num_processes) + of_tokens


def check_step_memory(
    recipe: PretrainRecipe, config: AutoencoderConfig, *, num_images: int, device: torch.device, num_processes: int
) -> None:
    """See that a training step fits the memory that is free.

    Args:
        recipe: of the run.
        config: of the network.
        num_images: most images of a pair or set.
        device: that a process computes on.
        num_processes: of the run; on CPUs those of one machine share its memory.

    Raises:
        RecipeError: it doesn't; how much it needs, and which keys lower it.
    """
    free = available_bytes(device)
    if free is None:
        return
    optim = recipe.optim
    num_samples = max(1, optim.batch_size // (optim.accumulate * num_processes))
    fused = not (device.type == "cpu" and optim.precision.startswith("bf16"))
    together = max(1, num_processes // recipe.run.num_nodes) if device.type == "cpu" else 1
    needed = together * step_bytes(
        recipe, config, num_samples=num_samples, num_images=num_images, fused=fused, num_processes=num_processes
    )
    if needed <= free:
        return
    keeps_less = "" if recipe.run.recompute else "; run.recompute=true keeps less of each block"
    sample, size_key = ("pairs", "") if config.images == "pair" else ("sets", "data.sets.size, ")
    tokens = config.encoder.grid[0] * config.encoder.grid[1] * num_images
    raise RecipeError(
        f"a step of {num_samples} {sample} of up to {num_images} images ({tokens:,} tokens) needs at least "
        f"{needed / _GB:,.1f} GB on '{device}', and {free / _GB:,.1f} GB are free; lower {size_key}optim.batch_size, "
        "model.img_size or the sizes of the network, or cut the batch into more parts with optim.accumulate "
        f"(now {optim.accumulate}), which changes nothing else{keeps_less}"
    )


def _bytes_kept(recipe: PretrainRecipe) -> int:
    ratio = recipe.model.mlp_ratio
    values = _KEPT_COMPILED + ratio if recipe.run.compile else _KEPT + 2 * ratio
    in_float32 = _KEPT_FLOAT32 if _bytes_of_value(recipe) == 2 else 0
    return int(_bytes_of_value(recipe) * (values + in_float32))


def _bytes_of_value(recipe: PretrainRecipe) -> int:
    return 2 if recipe.optim.precision.startswith("bf16") else 4


def _bytes_of_weights(recipe: PretrainRecipe, config: AutoencoderConfig, num_processes: int) -> int:
    """Add up weights, gradients and moments, and what stands whole beside them where processes hold shares."""
    count = _num_weights(config)
    if recipe.run.strategy != "fsdp":
        return _BYTES_OF_WEIGHT * count
    # The block at work is whole, and so is its gradient.
    total = _BYTES_OF_WEIGHT * count // num_processes + 2 * _BYTES_OF_FLOAT32 * max(_weights_of_blocks(config))
    if _bytes_of_value(recipe) == 2:
        total += _BYTES_OF_COPY * count
    if recipe.optim.accumulate > 1:
        # Gradients of parts are added up before they are sent, whole.
        total += _BYTES_OF_FLOAT32 * count
    return total


def _weights_of_blocks(config: AutoencoderConfig) -> tuple[int, int]:
    """Count the weights of a block of the encoder and of one of the decoder."""
    of_block = 4 + 2 * config.encoder.mlp_ratio
    widths = (config.encoder.embed_dim, config.decoder.decoder_embed_dim)
    return int(of_block * widths[0] ** 2), int(of_block * widths[1] ** 2)


def _num_weights(config: AutoencoderConfig) -> int:
    """Count the weights of blocks and of the maps of ranges; what is left out is small."""
    encoder, decoder = config.encoder, config.decoder
    of_encoder, of_decoder = _weights_of_blocks(config)
    blocks = encoder.depth * of_encoder + decoder.decoder_depth * of_decoder
    of_ranges = encoder.num_ranges * encoder.patch_size**2 * (encoder.embed_dim + decoder.decoder_embed_dim)
    return int(blocks + of_ranges)
