"""Encoders made ready for training: what is learned, from where it starts, and what becomes of adapters."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from timm.layers import DropPath

from anyband.encode.encoder import SensorEncoder
from anyband.errors import RecipeError
from anyband.evaluate.fitting import AdaptedEncoder, adapt, checkpoint_of
from anyband.evaluate.recipe import FitRecipe, InputRecipe, LoraRecipe, TransferRecipe
from anyband.labelled.samples import DataSpec, TaskData
from anyband.models.checkpoint import load_checkpoint, save_checkpoint
from anyband.models.inputs import ImageBatch
from anyband.sensors.assignment import assign
from anyband.sensors.catalogue import get_sensor

_SENSOR = get_sensor("sentinel2-l2a").select(("B02", "B04"))


def _adapted(
    encoder: SensorEncoder, data: TaskData, fit: FitRecipe | None = None, *, img_size: int | None = None, seed: int = 0
) -> AdaptedEncoder:
    recipe = TransferRecipe(
        name="test",
        data=DataSpec(source="memory"),
        fit=fit or FitRecipe(),
        input=InputRecipe(img_size=img_size),
        seed=seed,
    )
    return adapt(encoder, data, recipe)


def _features(encoder: SensorEncoder, *, size: int = 32) -> torch.Tensor:
    mixing = torch.from_numpy(assign(_SENSOR, encoder.checkpoint.ranges, encoder.rules).mixing).float()
    pixels = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 2, size, size))).float()
    return encoder.encoder(ImageBatch(pixels=pixels, mixing=mixing)).cls


def _learned(adapted: AdaptedEncoder) -> set[str]:
    return {name for name, one in adapted.encoder.named_parameters() if one.requires_grad}


@pytest.mark.parametrize("size", [32, 48])
@pytest.mark.parametrize("mode", ["frozen", "trained", "lora"])
def test_features_are_those_of_the_original_before_training(
    mode: str, size: int, tiny_encoder: SensorEncoder, class_data: TaskData
) -> None:
    adapted = _adapted(tiny_encoder, class_data, FitRecipe(encoder=mode), img_size=size)
    torch.testing.assert_close(
        _features(adapted.encoder.eval(), size=size), _features(tiny_encoder, size=size), atol=1e-6, rtol=1e-6
    )


def test_trained_positions_are_those_of_the_inputs_grid(tiny_encoder: SensorEncoder, class_data: TaskData) -> None:
    encoder = _adapted(tiny_encoder, class_data, img_size=48).encoder.encoder
    assert encoder.config.positions == "trained"
    assert encoder.pos_embed.shape[1] == 1 + 6 * 6
    assert isinstance(encoder.pos_embed, torch.nn.Parameter)


def test_positions_that_were_trained_before_keep_their_grid(tiny_encoder: SensorEncoder, class_data: TaskData) -> None:
    once = _adapted(tiny_encoder, class_data).encoder
    with torch.no_grad():
        once.encoder.pos_embed.add_(0.1)
    twice = _adapted(once, class_data, img_size=48).encoder
    assert twice.encoder.pos_embed.shape[1] == 1 + 4 * 4
    assert torch.equal(twice.encoder.pos_embed, once.encoder.pos_embed)


def test_positions_stay_fixed_where_asked(tiny_encoder: SensorEncoder, class_data: TaskData) -> None:
    fixed = _adapted(tiny_encoder, class_data, FitRecipe(positions="fixed"))
    assert "encoder.pos_embed" not in _learned(fixed)
    assert "encoder.pos_embed" in _learned(_adapted(tiny_encoder, class_data))


def test_positions_that_were_trained_can_be_held_where_they_are(
    tiny_encoder: SensorEncoder, class_data: TaskData
) -> None:
    once = _adapted(tiny_encoder, class_data).encoder
    with torch.no_grad():
        once.encoder.pos_embed.add_(0.1)
    held = _adapted(once, class_data, FitRecipe(positions="fixed"))
    assert "encoder.pos_embed" not in _learned(held)
    assert torch.equal(held.encoder.encoder.pos_embed, once.encoder.pos_embed)


def test_a_frozen_encoder_learns_nothing(tiny_encoder: SensorEncoder, class_data: TaskData) -> None:
    assert _learned(_adapted(tiny_encoder, class_data, FitRecipe(encoder="frozen", drop_path=0.5))) == set()


def test_a_frozen_encoder_has_no_drop_path(tiny_encoder: SensorEncoder, class_data: TaskData) -> None:
    frozen = _adapted(tiny_encoder, class_data, FitRecipe(encoder="frozen", drop_path=0.5)).encoder.train()
    assert torch.equal(_features(frozen), _features(frozen))


def test_drop_path_rises_to_the_last_block(tiny_encoder: SensorEncoder, class_data: TaskData) -> None:
    adapted = _adapted(tiny_encoder, class_data, FitRecipe(drop_path=0.3)).encoder
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in adapted.encoder.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert isinstance(adapted.encoder.blocks[-1].drop_path2, DropPath)


def test_drop_path_drops_in_training_only(tiny_encoder: SensorEncoder, class_data: TaskData) -> None:
    adapted = _adapted(tiny_encoder, class_data, FitRecipe(drop_path=0.5)).encoder
    assert not torch.equal(_features(adapted.train()), _features(adapted.train()))
    torch.testing.assert_close(_features(adapted.eval()), _features(tiny_encoder), atol=1e-6, rtol=1e-6)


def test_drop_path_is_off_unless_asked_for(tiny_encoder: SensorEncoder, class_data: TaskData) -> None:
    adapted = _adapted(tiny_encoder, class_data).encoder
    assert not any(isinstance(part, DropPath) for part in adapted.modules())


def test_lora_learns_adapters_of_attention_only(tiny_encoder: SensorEncoder, class_data: TaskData) -> None:
    learned = _learned(_adapted(tiny_encoder, class_data, FitRecipe(encoder="lora")))
    assert learned
    assert {name.split(".lora_")[0].split(".", 3)[3] for name in learned} == {"attn.qkv", "attn.proj"}
    assert {int(name.split(".")[2]) for name in learned} == {0, 1, 2, 3}


def test_the_rank_is_that_of_the_recipe(tiny_encoder: SensorEncoder, class_data: TaskData) -> None:
    fit = FitRecipe(encoder="lora", lora=LoraRecipe(rank=3))
    adapted = _adapted(tiny_encoder, class_data, fit)
    shapes = {
        name.split(".lora_")[1][0]: one.shape for name, one in adapted.encoder.named_parameters() if "lora_" in name
    }
    assert shapes["A"][0] == shapes["B"][1] == 3


def test_adapters_start_by_the_seed_whatever_the_global_generator(
    tiny_encoder: SensorEncoder, class_data: TaskData
) -> None:
    def started(seed: int, state: int) -> torch.Tensor:
        torch.manual_seed(state)
        adapted = _adapted(tiny_encoder, class_data, FitRecipe(encoder="lora"), seed=seed)
        return next(one for name, one in adapted.encoder.named_parameters() if "lora_A" in name)

    assert torch.equal(started(1, 5), started(1, 6))
    assert not torch.equal(started(1, 5), started(2, 5))


def _changed(encoder: SensorEncoder) -> None:
    with torch.no_grad():
        for name, one in encoder.named_parameters():
            if one.requires_grad:
                one.add_(0.05 * torch.from_numpy(np.random.default_rng(len(name)).normal(size=one.shape)).float())


def test_settled_adapters_are_part_of_the_weights(tiny_encoder: SensorEncoder, class_data: TaskData) -> None:
    adapted = _adapted(tiny_encoder, class_data, FitRecipe(encoder="lora"))
    _changed(adapted.encoder)
    before = _features(adapted.encoder.eval())
    adapted.settle()
    torch.testing.assert_close(_features(adapted.encoder), before, atol=1e-5, rtol=1e-5)
    assert set(adapted.encoder.state_dict()) == set(tiny_encoder.state_dict())
    assert not torch.allclose(before, _features(tiny_encoder), atol=1e-3)


@pytest.mark.parametrize("mode", ["trained", "lora"])
def test_a_settled_encoder_is_a_checkpoint_with_equal_features(
    mode: str, tiny_encoder: SensorEncoder, class_data: TaskData, tmp_path: Path
) -> None:
    adapted = _adapted(tiny_encoder, class_data, FitRecipe(encoder=mode), img_size=48)
    _changed(adapted.encoder)
    adapted.settle()
    save_checkpoint(tmp_path / "tuned.safetensors", checkpoint_of(adapted.encoder))
    loaded = SensorEncoder(load_checkpoint(tmp_path / "tuned.safetensors")).eval()
    torch.testing.assert_close(
        _features(loaded, size=48), _features(adapted.encoder.eval(), size=48), atol=1e-6, rtol=1e-6
    )


def test_the_original_and_its_copy_share_no_memory(tiny_encoder: SensorEncoder, class_data: TaskData) -> None:
    before = {name: one.clone() for name, one in tiny_encoder.state_dict().items()}
    adapted = _adapted(tiny_encoder, class_data)
    _changed(adapted.encoder)
    assert all(torch.equal(one, before[name]) for name, one in tiny_encoder.state_dict().items())
    assert not tiny_encoder.encoder.training


def test_lora_without_peft_says_how_to_get_it(
    tiny_encoder: SensorEncoder, class_data: TaskData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(RecipeError, match=r"needs peft, which is not installed: install `anyband\[lora\]`"):
        _adapted(tiny_encoder, class_data, FitRecipe(encoder="lora"))
