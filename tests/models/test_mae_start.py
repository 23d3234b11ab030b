"""A start from a masked autoencoder of RGB images: our network on RGB is then timm's, weight for weight."""

from pathlib import Path

import numpy as np
import pytest
import torch
from einops import rearrange
from safetensors.torch import save_file
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn

from anyband.errors import CheckpointError
from anyband.models.autoencoder import Autoencoder, AutoencoderConfig
from anyband.models.checkpoint import Checkpoint, build_model, state_of
from anyband.models.inputs import ImageBatch
from anyband.models.mae_start import start_from_mae
from anyband.models.vit import DecoderConfig, EncoderConfig
from anyband.sensors.assignment import assign
from anyband.sensors.catalogue import get_sensor
from anyband.sensors.ranges import load_ranges, stem_ranges

_WIDTH, _PATCH, _SIDE, _DECODER = 32, 8, 32, 16
_TABLE = load_ranges("smarties_v1")


def _positions(edge: int, width: int) -> torch.Tensor:
    """The positions of the masked autoencoder's release, in plain NumPy: columns first, sine then cosine."""
    omega = 1.0 / 10000 ** (np.arange(width // 4) / (width / 4))
    rows, cols = np.divmod(np.arange(edge * edge), edge)
    halves = [np.outer(index, omega) for index in (cols, rows)]
    table = np.concatenate([part for half in halves for part in (np.sin(half), np.cos(half))], axis=1)
    return torch.from_numpy(np.concatenate([np.zeros((1, width)), table])[None]).float()


class _Mae(VisionTransformer):
    """timm's ViT with a decoder under the names of the release."""

    def __init__(self) -> None:
        super().__init__(
            img_size=_SIDE, patch_size=_PATCH, embed_dim=_WIDTH, depth=2, num_heads=4, num_classes=0, mlp_ratio=2.0
        )
        self.decoder_embed = nn.Linear(_WIDTH, _DECODER)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, _DECODER))
        self.decoder_pos_embed = nn.Parameter(_positions(_SIDE // _PATCH, _DECODER))
        self.decoder_blocks = nn.ModuleList([Block(_DECODER, 2, 2.0, qkv_bias=True)])
        self.decoder_norm = nn.LayerNorm(_DECODER, eps=1e-6)
        self.decoder_pred = nn.Linear(_DECODER, 3 * _PATCH**2)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.2)
        self.pos_embed.data = _positions(_SIDE // _PATCH, _WIDTH)
        self.decoder_pos_embed.data = _positions(_SIDE // _PATCH, _DECODER)

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        sequence = self.decoder_embed(latent) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            sequence = block(sequence)
        return self.decoder_norm(sequence)


@pytest.fixture(scope="module")
def mae() -> _Mae:
    torch.manual_seed(0)
    return _Mae().eval()


@pytest.fixture(scope="module")
def release(mae, tmp_path_factory) -> Path:
    """The whole masked autoencoder as a file."""
    return _saved(tmp_path_factory.mktemp("mae") / "mae.safetensors", mae.state_dict())


def _saved(path: Path, state) -> Path:
    save_file({name: tensor.clone().contiguous() for name, tensor in state.items()}, path)
    return path


def _config(table=_TABLE, *, max_bands: int = 12, **numbers: object) -> AutoencoderConfig:
    encoder = {"img_size": _SIDE, "patch_size": _PATCH, "embed_dim": _WIDTH, "depth": 2, "num_heads": 4}
    decoder = {"decoder_embed_dim": _DECODER, "decoder_depth": 1, "decoder_num_heads": 2}
    encoder |= {"mlp_ratio": 2.0} | {key: value for key, value in numbers.items() if key not in decoder}
    decoder |= {key: value for key, value in numbers.items() if key in decoder}
    return AutoencoderConfig(
        encoder=EncoderConfig(**encoder, num_ranges=len(table.ranges), max_bands=max_bands),
        decoder=DecoderConfig(**decoder),
    )


def _start(path: Path, config: AutoencoderConfig, table=_TABLE) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    state = state_of(Autoencoder(config, seed=0))
    return start_from_mae(path, state, config=config, ranges=table)


def _model(path: Path, config: AutoencoderConfig, table=_TABLE):
    started = _start(path, config, table)
    return build_model(Checkpoint(config=config, state=started[0], ranges=table)).eval()


def _rgb(size: int = _SIDE, *, table=_TABLE) -> ImageBatch:
    pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    mixing = torch.from_numpy(assign(get_sensor("maxar-rgb"), table).mixing).float()
    return ImageBatch(pixels=pixels, mixing=mixing)


@torch.no_grad()
@pytest.mark.parametrize(("table", "max_bands"), [(_TABLE, 12), (stem_ranges(), 3)], ids=["spectral", "triplet"])
def test_an_rgb_image_gives_the_features_of_the_first_network(mae, release, table, max_bands) -> None:
    encoder = _model(release, _config(table, max_bands=max_bands), table).encoder
    image = _rgb(table=table)
    expected = mae.forward_features(image.pixels)
    found = encoder(image)
    torch.testing.assert_close(torch.cat([found.cls[:, None], found.tokens], dim=1), expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_tokens_of_rgb_are_those_of_the_stem_in_any_order_of_the_bands(mae, release) -> None:
    projection = _model(release, _config()).encoder.projection
    image = _rgb()
    expected = mae.patch_embed(image.pixels)
    for order in ([0, 1, 2], [2, 0, 1]):
        patches = rearrange(image.pixels[:, order], "b c (h p) (w q) -> b (h w) (c p q)", p=_PATCH, q=_PATCH)
        torch.testing.assert_close(projection(patches, image.mixing[order]), expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_other_bands_give_the_tokens_of_a_grey_image(mae, release) -> None:
    """One near infrared band, or radar, is what the stem sees when all three channels show it."""
    projection = _model(release, _config()).encoder.projection
    image = _rgb().pixels[:, :1]
    expected = mae.patch_embed(image.expand(-1, 3, -1, -1))
    patches = rearrange(image, "b c (h p) (w q) -> b (h w) (c p q)", p=_PATCH, q=_PATCH)
    for name in ("near_infrared_1", "microwave_1"):
        mixing = torch.eye(len(_TABLE.ranges))[[_TABLE.range_names.index(name)]]
        torch.testing.assert_close(projection(patches, mixing), expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_the_decoder_and_its_prediction_are_those_of_the_release(mae, release) -> None:
    model = _model(release, _config())
    image = _rgb()
    num_tokens = (_SIDE // _PATCH) ** 2
    latent = torch.randn(2, 1 + num_tokens, _WIDTH, generator=torch.Generator().manual_seed(2))
    decoded = model.decoder.norm(model.decoder.blocks(model.decoder.embed(latent) + model.decoder.pos_embed, None))
    torch.testing.assert_close(decoded, mae.decode(latent), rtol=0, atol=1e-5)
    expected = rearrange(mae.decoder_pred(decoded[:, 1:]), "b t (p c) -> b t (c p)", c=3)
    torch.testing.assert_close(model.reconstruction(decoded[:, 1:], image.mixing), expected, rtol=0, atol=1e-5)
    grey = model.reconstruction(decoded[:, 1:], torch.eye(len(_TABLE.ranges))[[9]])
    mean = rearrange(expected, "b t (c p) -> b t c p", c=3).mean(dim=2)
    torch.testing.assert_close(grey, mean, rtol=0, atol=1e-5)


@torch.no_grad()
def test_another_image_size_takes_the_same_weights(mae, release) -> None:
    """Positions are computed for any grid, so only the blocks and the stem come from the file."""
    encoder = _model(release, _config(img_size=16)).encoder
    image = _rgb(16)
    tokens = mae.patch_embed.proj(image.pixels).flatten(2).transpose(1, 2) + _positions(2, _WIDTH)[:, 1:]
    sequence = torch.cat([mae.cls_token.expand(2, -1, -1), tokens], dim=1)
    for block in mae.blocks:
        sequence = block(sequence)
    torch.testing.assert_close(encoder(image).cls, mae.norm(sequence)[:, 0], rtol=0, atol=1e-5)


def test_a_file_without_decoder_leaves_it_to_the_seed(mae, tmp_path) -> None:
    state = {name: tensor for name, tensor in mae.state_dict().items() if not name.startswith(("decoder", "mask_"))}
    config = _config()
    started = _start(_saved(tmp_path / "timm.safetensors", state), config)
    fresh = state_of(Autoencoder(config, seed=0))
    torch.testing.assert_close(started[0]["decoder_embed.weight"], fresh["decoder_embed.weight"])
    assert started[1][2] == "the file has no decoder; the decoder starts from the seed"
    assert not torch.equal(started[0]["blocks.0.attn.qkv.weight"], fresh["blocks.0.attn.qkv.weight"])


def test_a_decoder_of_other_numbers_is_left_and_the_reason_said(release) -> None:
    config = _config(decoder_depth=2, decoder_embed_dim=8)
    started = _start(release, config)
    fresh = state_of(Autoencoder(config, seed=0))
    torch.testing.assert_close(started[0]["decoder_embed.weight"], fresh["decoder_embed.weight"])
    assert started[1][2] == (
        "the decoder starts from the seed, because the file's is another: decoder_embed_dim 8, not 16; "
        "decoder_depth 2, not 1"
    )


def test_notes_say_which_ranges_have_a_colour_and_that_statistics_differ(release) -> None:
    notes = _start(release, _config())[1]
    assert "whose images were normalised otherwise (ImageNet's mean and deviation)" in notes[0]
    assert notes[1].startswith("6 of 17 ranges start from the kernel of their colour (blue_1 (blue), blue_3 (blue), ")
    assert notes[2] == "the decoder starts from there too"


def test_a_norm_for_pooled_features_is_the_norm_and_a_head_is_left(mae, tmp_path) -> None:
    state = {
        name.replace("norm.", "fc_norm.") if name[:4] == "norm" else name: t for name, t in mae.state_dict().items()
    }
    state["head.weight"] = torch.zeros(10, _WIDTH)
    started = _start(_saved(tmp_path / "pooled.safetensors", state), _config())
    torch.testing.assert_close(started[0]["norm.weight"], mae.norm.weight.detach())


def test_every_difference_of_the_encoder_is_named(release) -> None:
    with pytest.raises(CheckpointError) as caught:
        _start(release, _config(embed_dim=16, depth=3, patch_size=4, mlp_ratio=4.0))
    message = str(caught.value)
    for part in ("embed_dim 16, not 32", "depth 3, not 2", "patch_size 4, not 8", "mlp_ratio 4, not 2"):
        assert part in message
    assert "take the file's numbers into the recipe" in message


def test_heads_that_a_size_never_has_are_refused(tmp_path) -> None:
    """The weights of 8 and of 12 heads have one shape; ViT-B has 12."""
    state = {
        "patch_embed.proj.weight": torch.zeros(768, 3, 4, 4),
        "cls_token": torch.zeros(1, 1, 768),
        "blocks.0.attn.qkv.weight": torch.zeros(3 * 768, 768),
    }
    path = _saved(tmp_path / "base.safetensors", state)
    config = _config(embed_dim=768, depth=1, patch_size=4, num_heads=8)
    with pytest.raises(CheckpointError, match="num_heads 8, not 12"):
        start_from_mae(path, {}, config=config, ranges=_TABLE)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"blocks.1.mlp.fc2.bias": None}, r"1 missing \(blocks.1.mlp.fc2.bias\)"),
        ({"blocks.0.ls1.gamma": torch.ones(_WIDTH)}, r"1 of no masked autoencoder \(blocks.0.ls1.gamma\)"),
        ({"norm.weight": torch.ones(3)}, r"1 of another shape \(norm.weight \(3,\) and not \(32,\)\)"),
        ({"patch_embed.proj.bias": None}, "lacks 'patch_embed.proj.bias'"),
        ({"cls_token": None}, "has no 'cls_token' and is no masked autoencoder of RGB images"),
        ({"patch_embed.proj.weight": torch.ones(_WIDTH, 4, 8, 8)}, r"has the shape \(32, 4, 8, 8\); it must be"),
        ({"pos_embed": torch.rand(1, 17, _WIDTH)}, "'pos_embed' in .* is not the computed sine and cosine positions"),
        ({"decoder_norm.bias": None}, r"1 missing \(decoder_norm.bias\)"),
    ],
)
def test_files_that_are_no_whole_masked_autoencoder_are_refused(mae, tmp_path, changed, message) -> None:
    state = {**mae.state_dict(), **changed}
    path = _saved(tmp_path / "wrong.safetensors", {name: one for name, one in state.items() if one is not None})
    with pytest.raises(CheckpointError, match=message):
        _start(path, _config())


def test_a_pickle_is_refused_with_the_way_to_convert_it(tmp_path) -> None:
    torch.save({"model": {}}, tmp_path / "mae_pretrain_vit_large.pth")
    with pytest.raises(CheckpointError, match=r"save_file of its dict of weights \(often under 'model'\)"):
        _start(tmp_path / "mae_pretrain_vit_large.pth", _config())
