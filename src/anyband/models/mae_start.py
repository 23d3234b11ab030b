"""Starting from a masked autoencoder of ImageNet: its blocks, CLS and decoder, and its RGB stem as spectral projection.

Names are those of its release (arXiv 2111.06377) and of timm's `vit_*_patch16_224.mae`. What the file has no weights
for stays as the seed drew it.

Those networks saw colours less ImageNet's mean over its deviation, ours see bands by percentiles, mean and deviation.
Both are near mean 0 and deviation 1, but an encoder that only starts so is not ImageNet's on satellite images.
"""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from anyband.errors import CheckpointError
from anyband.models.autoencoder import AutoencoderConfig
from anyband.models.checkpoint import expected_shapes, locate, read_weights, shape_problems
from anyband.models.published import are_computed
from anyband.sensors.ranges import RangeTable, colour_of

__all__ = ["start_from_mae"]

_COLOURS = ("red", "green", "blue")
_STEM, _PREDICTION = "patch_embed.proj.", "decoder_pred."
# A head that was fine-tuned is of no use here.
_HEAD = "head."
# Heads can't be told from the weights. Source: masked autoencoders (arXiv 2111.06377): ViT-B, -L, -H; its decoder.
_USUAL_HEADS = {768: 12, 1024: 16, 1280: 16}
_USUAL_DECODER_HEADS = {512: 16}
# float32 sine and cosine of different libraries, and files in half precision, differ by less.
_POSITION_TOLERANCE = 2e-3


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Read encoder and decoder (empty: there is none) by their names in the release, without positions, float32."""
    found = {name: tensor.float() for name, tensor in read_weights(path)[0].items() if not name.startswith(_HEAD)}
    found = {name.replace("fc_norm.", "norm.", 1): tensor for name, tensor in found.items()}
    missing = [name for name in (f"{_STEM}weight", "cls_token", "blocks.0.attn.qkv.weight") if name not in found]
    if missing:
        raise CheckpointError(
            f"'{path}' has no '{missing[0]}' and is no masked autoencoder of RGB images; weights are named as in the "
            "release of MAE or in timm's 'vit_large_patch16_224.mae'. A checkpoint of anyband goes to model.start"
        )
    stem = found[f"{_STEM}weight"]
    if stem.ndim != 4 or stem.shape[1] != 3 or stem.shape[2] != stem.shape[3]:
        raise CheckpointError(
            f"the stem of '{path}' has the shape {tuple(stem.shape)}; it must be (width, 3, side, side): RGB"
        )
    for name in ("pos_embed", "decoder_pos_embed"):
        _check_positions(found.pop(name, None), name, path)
    decoder = {name: tensor for name, tensor in found.items() if name.startswith(("decoder_", "mask_token"))}
    encoder = {name: tensor for name, tensor in found.items() if name not in decoder}
    return encoder, decoder


def start_from_mae(
    path_or_hub_id: str | Path, state: Mapping[str, Tensor], *, config: AutoencoderConfig, ranges: RangeTable
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Put the weights of a masked autoencoder of RGB images, from a safetensors file, into a network's first weights,
    and say what was taken and what was not.

    An image of three exact ranges that are red, green and blue gets the tokens that the RGB stem gives.

    Raises:
        CheckpointError: no such file, a pickle, weights of another kind, trained positions, an encoder of other numbers
            (every difference is named), or weights missing or too many.
    """
    path = locate(path_or_hub_id)
    own_encoder, own_decoder = _read(path)
    encoder = _renamed_encoder(own_encoder, path, config, ranges)
    decoder, reason = _renamed_decoder(own_decoder, path, config, ranges)
    colours = [f"{entry.name} ({colour})" for entry in ranges.ranges if (colour := colour_of(entry.spectrum))]
    notes = (
        f"blocks, CLS, norm and projection start from '{path}', whose images were normalised otherwise "
        "(ImageNet's mean and deviation)",
        f"{len(colours)} of {len(ranges.ranges)} ranges start from the kernel of their colour "
        f"({', '.join(colours) or 'none'}), the others from the mean of the three",
        reason or "the decoder starts from there too",
    )
    return {**state, **encoder, **decoder}, notes


def _renamed_encoder(
    weights: Mapping[str, Tensor], path: Path, config: AutoencoderConfig, ranges: RangeTable
) -> dict[str, Tensor]:
    expected = _expected(config, decoder=False)
    problems = _encoder_differences(weights, config)
    if problems:
        raise CheckpointError(
            f"'{path}' holds another network than the recipe's: {'; '.join(problems)} (the recipe's number "
            "first); take the file's numbers into the recipe, or another file"
        )
    stem = [f"{_STEM}{part}" for part in ("weight", "bias")]
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items() if name not in stem}
    _check_names(shapes, expected, path)
    if stem[1] not in weights:
        raise CheckpointError(f"'{path}' lacks '{stem[1]}'; get a whole file of the release")
    taken = {name: weights[name] for name in expected}
    return taken | _projection(weights[stem[0]], weights[stem[1]], config, ranges)


def _expected(config: AutoencoderConfig, *, decoder: bool) -> dict[str, tuple[int, ...]]:
    """List the weights that a file has under our name and shape: all but positions, encodings and what has ranges."""
    ours, encoder = ("pos_embed", "decoder_pos_embed"), expected_shapes(config, decoder=False)
    added = ("spectrum_projection.", "decoder_preds.", "decoder_levels.", "encodings.", "decoder_encodings.")
    shapes = {
        name: shape for name, shape in expected_shapes(config, decoder=True).items() if (name not in encoder) == decoder
    }
    return {name: shape for name, shape in shapes.items() if name not in ours and not name.startswith(added)}


def _check_names(found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], path: Path) -> None:
    problems = shape_problems(found, expected, unexpected="of no masked autoencoder")
    if problems:
        raise CheckpointError(
            f"'{path}' is not the masked autoencoder that its stem says: {'; '.join(problems)}; get a whole file of "
            "the release, or of timm's 'vit_*_patch16_224.mae'"
        )


def _encoder_differences(encoder: Mapping[str, Tensor], config: AutoencoderConfig) -> list[str]:
    ours = config.encoder
    width, _, patch_size, _ = encoder[f"{_STEM}weight"].shape
    hidden = encoder.get("blocks.0.mlp.fc1.weight")
    found = {
        "embed_dim": width,
        "depth": _depth(encoder, "blocks."),
        "patch_size": patch_size,
        "num_heads": _USUAL_HEADS.get(width, ours.num_heads),
        "mlp_ratio": ours.mlp_ratio if hidden is None else hidden.shape[0] / width,
    }
    requested = {name: getattr(ours, name) for name in found}
    return [f"{name} {requested[name]:g}, not {found[name]:g}" for name in found if requested[name] != found[name]]


def _depth(names: Mapping[str, Tensor], prefix: str) -> int:
    return len({name.split(".")[1] for name in names if name.startswith(prefix)})


def _projection(weight: Tensor, bias: Tensor, config: AutoencoderConfig, ranges: RangeTable) -> dict[str, Tensor]:
    """Share the RGB stem among the ranges, so that max_bands · mean over three bands is its sum over three channels."""
    scale = len(_COLOURS) / config.encoder.max_bands
    made: dict[str, Tensor] = {}
    for index, entry in enumerate(ranges.ranges):
        kernel = _of_colour(weight, colour_of(entry.spectrum), axis=1)
        name = f"spectrum_projection.spectrum_embeds.{index}.proj"
        made[f"{name}.weight"] = kernel.flatten(1) * scale
        made[f"{name}.bias"] = bias / config.encoder.max_bands
    return made


def _of_colour(weights: Tensor, colour: str | None, *, axis: int) -> Tensor:
    return weights.mean(dim=axis) if colour is None else weights.select(axis, _COLOURS.index(colour))


def _renamed_decoder(
    weights: Mapping[str, Tensor], path: Path, config: AutoencoderConfig, ranges: RangeTable
) -> tuple[dict[str, Tensor], str]:
    """Take the decoder if there is one of our numbers; else say why not."""
    if not weights:
        return {}, "the file has no decoder; the decoder starts from the seed"
    differences = _decoder_differences(weights, config)
    if differences:
        return {}, f"the decoder starts from the seed, because the file's is another: {'; '.join(differences)}"
    expected = _expected(config, decoder=True)
    own = {name: tensor for name, tensor in weights.items() if not name.startswith(_PREDICTION)}
    _check_names({name: tuple(tensor.shape) for name, tensor in own.items()}, expected, path)
    return own | _predictions(weights, config, ranges), ""


def _decoder_differences(decoder: Mapping[str, Tensor], config: AutoencoderConfig) -> list[str]:
    embed = decoder.get("decoder_embed.weight")
    prediction = decoder.get(f"{_PREDICTION}weight")
    if embed is None or prediction is None or f"{_PREDICTION}bias" not in decoder:
        return ["it lacks 'decoder_embed' or 'decoder_pred'"]
    ours, width = config.decoder, embed.shape[0]
    found = {
        "decoder_embed_dim": width,
        "decoder_depth": _depth(decoder, "decoder_blocks."),
        "decoder_num_heads": _USUAL_DECODER_HEADS.get(width, ours.decoder_num_heads),
    }
    requested = {name: getattr(ours, name) for name in found}
    differences = [f"{name} {requested[name]}, not {found[name]}" for name in found if requested[name] != found[name]]
    values = len(_COLOURS) * config.encoder.patch_size**2
    if prediction.shape[0] != values:
        differences.append(f"{values} pixels of a patch, not {prediction.shape[0]}")
    return differences


def _predictions(decoder: Mapping[str, Tensor], config: AutoencoderConfig, ranges: RangeTable) -> dict[str, Tensor]:
    """Share the prediction of RGB patches among the ranges; in the release the colour counts fastest."""
    pixels = config.encoder.patch_size**2
    made: dict[str, Tensor] = {}
    for index, entry in enumerate(ranges.ranges):
        for part in ("weight", "bias"):
            values = decoder[f"{_PREDICTION}{part}"]
            by_colour = values.reshape(pixels, len(_COLOURS), *values.shape[1:])
            made[f"decoder_preds.{index}.{part}"] = _of_colour(by_colour, colour_of(entry.spectrum), axis=1)
    return made


def _check_positions(table: Tensor | None, name: str, path: Path) -> None:
    """See that positions are the computed ones, as our networks compute them for any grid."""
    if table is not None and not (table.ndim == 3 and are_computed(table, tolerance=_POSITION_TOLERANCE)):
        raise CheckpointError(
            f"'{name}' in '{path}' is not the computed sine and cosine positions; they were trained, as in a "
            "fine-tuned network. Take the weights of the masked pre-training"
        )
