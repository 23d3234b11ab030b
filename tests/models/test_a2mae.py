"""The network of sets: against a plain loop, against SMARTIES, and what may not leak or depend on what."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from anyband.errors import InputError
from anyband.evaluate.fitting import extend_checkpoint
from anyband.models.autoencoder import Autoencoder, AutoencoderConfig
from anyband.models.checkpoint import (
    Checkpoint,
    build_model,
    load_checkpoint,
    save_checkpoint,
    state_of,
)
from anyband.models.encodings import EncodingConfig
from anyband.models.inputs import ImageBatch, SetBatch, SetMetadata, SetNoise
from anyband.models.masking import SetPlan
from anyband.models.patches import cut_sets, patchify
from anyband.sensors.ranges import load_ranges

TOKENS = 16
SetMaker = Callable[..., tuple[SetBatch, SetNoise]]


@pytest.fixture(scope="module")
def make_sets(make_image: Callable[..., ImageBatch]) -> SetMaker:
    """Make sets of images of three sources: slot 0 and 2 of the first, 1 and 4 of the second, 3 and 5 of the third."""

    def make(seed: int, *, slots: int = 3, sets: int = 2, missing: bool = False) -> tuple[SetBatch, SetNoise]:
        source = torch.tensor([0, 1, 0, 2, 1, 2])[:slots].expand(sets, -1)
        groups, rows, first = [], torch.zeros(sets, slots, dtype=torch.int64), 0
        for number, bands in enumerate((3, 2, 4)):
            at = source == number
            if not at.any():
                continue
            count = int(at.sum())
            groups.append(make_image(seed + number, bands=bands, batch=count, missing=missing))
            # Backwards, so that the order of images is not that of sets by chance.
            rows[at] = torch.arange(first, first + count).flip(0)
            first += count
        draw = torch.Generator().manual_seed(seed + 50)
        noise = SetNoise(
            masking=torch.rand(sets, slots, TOKENS, generator=draw),
            tying=torch.rand(sets, slots, TOKENS, generator=draw),
            mixup=torch.rand(sets, TOKENS, generator=draw),
        )
        batch = SetBatch(
            groups=tuple(groups),
            rows=rows,
            same_source=source == 0,
            first_slot=torch.zeros(sets, dtype=torch.int64),
            metadata=None,
            partnered=slots > 1,
        )
        return batch, noise

    return make


@pytest.fixture(scope="module")
def set_config(tiny_config: AutoencoderConfig) -> AutoencoderConfig:
    return replace(tiny_config, images="set", mixup="none")


def _network(config: AutoencoderConfig, seed: int = 4) -> Autoencoder:
    return Autoencoder(config, seed=seed).eval()


def _plan_of(model: Autoencoder, batch: SetBatch, noise: SetNoise) -> SetPlan:
    with torch.no_grad():
        return model(batch, noise).plan


def _attended(blocks: torch.nn.ModuleList, tokens: list[Tensor]) -> Tensor:
    sequence = torch.stack(tokens)[None]
    for block in blocks:
        sequence = block(sequence)
    return sequence[0]


def _plain_loss(model: Autoencoder, batch: SetBatch, noise: SetNoise, *, apart: bool = False) -> Tensor:
    """Compute the loss token by token: in each sequence a slot carries, at each place, the token of some owner."""
    plan = _plan_of(model, batch, noise)
    images = [(group, index) for group in batch.groups for index in range(len(group.pixels))]
    encoder, decoder = model.encoder, model.decoder
    shape = (*batch.shape, TOKENS, -1)
    located = encoder.locations((4, 4), batch).expand(shape)
    decoder_located = decoder.locations((4, 4), batch).expand(shape)
    slots = list(range(batch.shape[1]))
    errors = []
    for number in range(batch.shape[0]):
        chosen = [images[int(row)] for row in batch.rows[number]]
        patches = [(patchify(group.pixels[at : at + 1], 8), group.mixing) for group, at in chosen]
        tokens = [
            encoder.projection(pixels, mixing)[0] + located[number, k] for k, (pixels, mixing) in enumerate(patches)
        ]
        for sequence in [slots[0::2], slots[1::2]] if apart else [slots]:
            places = [(slot, at) for slot in sequence for at in range(TOKENS)]
            owned = [(1 - slot if slot < 2 and apart and plan.swapped[number, at] else slot, at) for slot, at in places]
            hidden = [bool(plan.masked[number, slot, at]) for slot, at in places]
            seen = [tokens[own][at] for (own, at), is_hidden in zip(owned, hidden, strict=True) if not is_hidden]
            latent = iter(decoder.embed(encoder.norm(_attended(encoder.blocks, [encoder.cls_token[0, 0], *seen]))))
            whole = [next(latent)]
            for (own, at), is_hidden in zip(owned, hidden, strict=True):
                token = decoder.mask_token[0, 0] if is_hidden else next(latent)
                whole.append(token + decoder_located[number, own, at])
            decoded = decoder.norm(_attended(decoder.blocks, whole))[1:]
            for (own, at), is_hidden, token in zip(owned, hidden, decoded, strict=True):
                if is_hidden:
                    pixels, mixing = patches[own]
                    predicted = model.reconstruction(token[None, None], mixing)[0, 0]
                    target = pixels[0, at]
                    target = (target - target.mean()) / (target.var() + 1e-6).sqrt()
                    errors.append((predicted - target).square().mean())
    return torch.stack(errors).mean()


def _metadata(num_sets: int, num_slots: int) -> SetMetadata:
    """Known facts for all images but those of slot 1, of which nothing is known."""
    draw = torch.Generator().manual_seed(3)
    bits = (torch.rand(num_sets, num_slots, 256, generator=draw) < 0.5).float()
    numbers = torch.rand(4, num_sets, num_slots, generator=draw)
    lonlat = torch.stack([numbers[0] * 360 - 180, numbers[1] * 180 - 90], dim=-1)
    known = SetMetadata(
        corner_bits=bits,
        lonlat_deg=lonlat,
        gsd_m=numbers[0] * 30 + 0.3,
        input_gsd_m=numbers[1] * 30 + 0.3,
        day_of_year=numbers[2] * 365,
        year=2000 + (numbers[3] * 25).floor(),
    )
    nothing = SetMetadata.unknown(num_sets, num_slots)
    slots = torch.arange(num_slots) == 1
    return SetMetadata(
        **{
            name: torch.where(slots.view(1, -1, *[1] * (value.ndim - 2)), getattr(nothing, name), value)
            for name, value in vars(known).items()
        }
    )


_EVERY = EncodingConfig(place=True, resolution=True, date=True, source=True)


@pytest.fixture(scope="module")
def wide_config(set_config: AutoencoderConfig) -> AutoencoderConfig:
    """Wide enough for the composition of A²-MAE."""
    encoder = replace(set_config.encoder, embed_dim=32)
    return replace(set_config, encoder=encoder, decoder=replace(set_config.decoder, decoder_embed_dim=16))


@pytest.mark.parametrize("encodings", [_EVERY, EncodingConfig(geographic="a2mae")], ids=["unified", "a2mae"])
@pytest.mark.parametrize(("slots", "apart"), [(1, False), (3, False), (2, True), (3, True)])
def test_tokens_carry_the_encodings_of_the_image_that_owns_them(make_sets, wide_config, encodings, slots, apart):
    config = replace(wide_config, encoder=replace(wide_config.encoder, encodings=encodings))
    if apart:
        config = replace(config, mixup="mirrored", sequence="apart")
    model = _network(config)
    batch, noise = make_sets(1, slots=slots)
    batch = replace(batch, metadata=_metadata(2, slots))
    with torch.no_grad():
        torch.testing.assert_close(model(batch, noise).loss, _plain_loss(model, batch, noise, apart=apart))
        unknown = model(replace(batch, metadata=None), noise).loss
    assert slots == 2 or not torch.allclose(unknown, model(batch, noise).loss)


@pytest.mark.parametrize("encodings", [_EVERY, EncodingConfig(geographic="a2mae")], ids=["unified", "a2mae"])
def test_a_checkpoint_of_sets_comes_back_exactly(make_sets, wide_config, encodings, tmp_path):
    encoder = replace(wide_config.encoder, encodings=encodings)
    model = _network(replace(wide_config, encoder=encoder, levels=True, masking="same"))
    ranges = replace(load_ranges("smarties_v1"), declared=(), published=())
    ranges = replace(ranges, ranges=ranges.ranges[: encoder.num_ranges])
    save_checkpoint(tmp_path / "c.safetensors", Checkpoint(config=model.config, state=state_of(model), ranges=ranges))
    found = load_checkpoint(tmp_path / "c.safetensors")
    assert found.config == model.config
    batch, noise = make_sets(1)
    batch = replace(batch, metadata=_metadata(2, 3))
    again = build_model(found).eval()
    assert isinstance(again, Autoencoder)
    assert torch.equal(again(batch, noise).loss, model(batch, noise).loss)


def test_a_range_that_is_added_starts_as_the_mixture_in_every_part(make_sets, wide_config):
    """The first loss with a range of its own is that of interpolation, in projection, prediction, levels and source."""
    model = _network(replace(wide_config, encoder=replace(wide_config.encoder, encodings=_EVERY), levels=True))
    ranges = load_ranges("smarties_v1")
    ranges = replace(ranges, ranges=ranges.ranges[:5], declared=(), published=())
    longer = replace(ranges, ranges=load_ranges("smarties_v1").ranges[:6])
    shares = torch.tensor([[0.3, 0.7, 0.0, 0.0, 0.0]])
    checkpoint = Checkpoint(config=model.config, state=state_of(model), ranges=ranges)
    extended = build_model(extend_checkpoint(checkpoint, longer, shares)).eval()
    batch, noise = make_sets(1)
    first, second = batch.groups
    mixed = replace(batch, groups=(first, replace(second, mixing=shares.expand(2, -1))))
    padded = replace(first, mixing=torch.nn.functional.pad(first.mixing, (0, 1)))
    own = replace(batch, groups=(padded, replace(second, mixing=torch.eye(6)[5:].expand(2, -1))))
    torch.testing.assert_close(extended(own, noise).loss, model(mixed, noise).loss)


@pytest.mark.parametrize("masking", ["anchor", "same", "independent", "hybrid", "released"])
@pytest.mark.parametrize("slots", [1, 2, 3, 6])
def test_the_loss_equals_a_plain_loop(make_sets, set_config, masking, slots):
    model = _network(replace(set_config, masking=masking))
    batch, noise = make_sets(1, slots=slots)
    with torch.no_grad():
        torch.testing.assert_close(model(batch, noise).loss, _plain_loss(model, batch, noise))


def test_an_image_hidden_whole_equals_a_plain_loop(make_sets, set_config):
    model = _network(set_config)
    batch, noise = make_sets(2, slots=3)
    noise = replace(noise, hides_last=True)
    with torch.no_grad():
        torch.testing.assert_close(model(batch, noise).loss, _plain_loss(model, batch, noise))


@pytest.mark.parametrize("missing", [False, True])
def test_a_pair_is_a_set_of_two_apart(make_pair, tiny_config, missing):
    pair, noise = make_pair(3, batch=4, missing=missing)
    of_pairs = _network(tiny_config)
    of_sets = _network(replace(tiny_config, images="set", sequence="apart"))
    rows = torch.arange(8).view(2, 4).T
    batch = replace(pair, rows=rows, same_source=torch.tensor([True, False]).expand(4, -1), partnered=True)
    with torch.no_grad():
        expected, found = of_pairs(pair, noise), of_sets(batch, noise)
    counts = of_pairs.count(pair, noise)
    torch.testing.assert_close(found.loss, (expected.terms * counts).sum() / counts.sum())
    assert torch.equal(of_sets.count(batch, noise), counts.sum()[None])


def test_in_one_sequence_an_exchange_of_tokens_changes_nothing(make_sets, set_config, monkeypatch):
    """The reason why mixup comes with sequences apart: a joint one is blind to it."""
    plain = _network(set_config)
    mixed = _network(replace(set_config, mixup="mirrored", sequence="apart"))
    batch, noise = make_sets(5, slots=3)
    with torch.no_grad():
        apart = mixed(batch, noise).loss
        monkeypatch.setattr(mixed, "_decode", partial(mixed._decode, joint=True))
        joint, expected = mixed(batch, noise).loss, plain(batch, noise).loss
    torch.testing.assert_close(joint, expected)
    assert abs(float(apart - expected)) > 1e-5


@pytest.mark.parametrize("slots", [2, 3, 4, 5])
def test_apart_predicts_each_masked_token_once(make_sets, set_config, slots):
    """Every masked token of every image enters the loss with equal weight: its gradient tells."""
    model = _network(replace(set_config, mixup="mirrored", sequence="apart", norm_pix_loss=False))
    batch, noise = make_sets(6, slots=slots)
    groups = tuple(replace(group, pixels=group.pixels.clone().requires_grad_()) for group in batch.groups)
    output = model(replace(batch, groups=groups), noise)
    masked = output.plan.masked
    total = 0.0
    with torch.no_grad():
        shown, _ = model.reconstruct(batch, noise)
    order = torch.argsort(batch.rows.flatten())
    of_images = torch.split(masked.flatten(0, 1)[order], [len(group.pixels) for group in batch.groups])
    for group, image, hidden in zip(batch.groups, shown, of_images, strict=True):
        square = (patchify(group.pixels, 8) - patchify(image, 8)).square().mean(-1)
        assert bool((square[hidden] > 0).all())
        assert not bool(square[~hidden].any())
        total += float(square.sum())
    torch.testing.assert_close(float(output.loss.detach()), total / int(masked.sum()), rtol=1e-5, atol=0)


def test_under_anchor_no_other_source_token_of_a_masked_place_reaches_the_encoder(make_sets, set_config, monkeypatch):
    model = _network(set_config)
    batch, noise = make_sets(7, slots=6)
    plan = _plan_of(model, batch, noise)
    other = ~batch.same_source
    assert torch.equal(plan.masked[other], plan.masked[:, :1].expand_as(plan.masked)[other])
    changed = _with_noise_at(batch, plan.masked[:, :1].expand_as(plan.masked) & other[..., None])
    seen: list[Tensor] = []
    encode = model.encoder.encode_tokens

    def recorded(tokens: Tensor, hidden: Tensor | None) -> Tensor:
        seen.append(tokens)
        return encode(tokens, hidden)

    monkeypatch.setattr(model.encoder, "encode_tokens", recorded)
    with torch.no_grad():
        model(batch, noise)
        model(changed, noise)
    assert torch.equal(seen[0], seen[1])
    assert seen[0].shape[1] == int((~plan.masked[0]).sum())


def _with_noise_at(batch: SetBatch, chosen: Tensor) -> SetBatch:
    """Replace the pixels of some tokens (set, slot, token) by others."""
    order = torch.argsort(batch.rows.flatten())
    of_images = torch.split(chosen.flatten(0, 1)[order], [len(group.pixels) for group in batch.groups])
    groups = []
    for group, at in zip(batch.groups, of_images, strict=True):
        grid = at.view(-1, 1, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
        other = torch.randn(group.pixels.shape, generator=torch.Generator().manual_seed(1))
        groups.append(replace(group, pixels=torch.where(grid, other, group.pixels)))
    return replace(batch, groups=tuple(groups))


@pytest.mark.parametrize("pattern", ["last image", "some tokens"])
def test_completion_keeps_what_is_seen_and_looks_at_nothing_masked(make_sets, set_config, pattern):
    model = _network(replace(set_config, levels=True))
    batch, _ = make_sets(9, slots=3)
    masked = torch.zeros(2, 3, TOKENS, dtype=torch.bool)
    if pattern == "last image":
        masked[:, 2] = True
    else:
        masked[0, 0, :4] = masked[1, 2, 4:8] = True
    with torch.no_grad():
        found = model.complete(batch, masked)
        again = model.complete(_with_noise_at(batch, masked), masked)
    order = torch.argsort(batch.rows.flatten())
    of_images = torch.split(masked.flatten(0, 1)[order], [len(group.pixels) for group in batch.groups])
    for group, image, other, hidden in zip(batch.groups, found, again, of_images, strict=True):
        assert torch.equal(patchify(image, 8)[~hidden], patchify(group.pixels, 8)[~hidden])
        torch.testing.assert_close(patchify(image, 8)[hidden], patchify(other, 8)[hidden])


def test_completion_needs_a_network_that_predicts_values(make_sets, set_config):
    batch, _ = make_sets(9, slots=2)
    with pytest.raises(InputError, match=r"train with model\.levels=true"):
        _network(set_config).complete(batch, torch.ones(2, 2, TOKENS, dtype=torch.bool))


@pytest.mark.parametrize("missing", [False, True])
def test_levels_are_the_mean_and_deviation_of_each_band(make_image, tiny_config, missing):
    """Where structure and levels are predicted exactly, the pixels come back in absolute units."""
    model = Autoencoder(replace(tiny_config, levels=True), seed=2)
    image = make_image(3, bands=3, missing=missing)
    (patches,) = cut_sets(SetBatch(groups=(image,)), patch_size=8, num_ranges=5).groups
    target, known = model._band_levels(patches)
    values = patches.values.unflatten(-1, (3, 64))
    valid = torch.ones_like(values) if patches.valid is None else patches.valid.unflatten(-1, (3, 64)).float()
    mean = (values * valid).sum(-1) / valid.sum(-1).clamp(min=1)
    torch.testing.assert_close(target[..., 0], mean)
    assert torch.equal(known.bool(), valid.sum(-1) > 0)
    if not missing:
        torch.testing.assert_close(target[..., 1].exp(), values.std(-1, correction=0))


def test_exact_structure_and_levels_give_the_pixels_back(make_image, tiny_config, monkeypatch):
    config = replace(tiny_config, levels=True)
    model = Autoencoder(config, seed=2)
    image = make_image(3, bands=3)
    (patches,) = cut_sets(SetBatch(groups=(image,)), patch_size=8, num_ranges=5).groups
    levels, _ = model._band_levels(patches)
    mean = patches.values.mean(-1, keepdim=True)
    normalised = (patches.values - mean) / patches.values.std(-1, keepdim=True, correction=0)
    monkeypatch.setattr(model.reconstruction, "forward", lambda tokens, mixing: normalised)
    monkeypatch.setattr(model.levels, "forward", lambda tokens, mixing: levels.flatten(-2))
    found = model.predicted_pixels(patches, torch.zeros(2, TOKENS, 8))
    torch.testing.assert_close(found, patches.values, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("changes", [False, True])
def test_hidden_errors_are_those_at_the_masked_places_of_the_anchor(make_sets, set_config, changes):
    """What stands in the last image where the anchor is seen does not matter, what stands elsewhere does."""
    model = _network(set_config)
    batch, noise = make_sets(11, slots=2)
    plan = _plan_of(model, batch, replace(noise, hides_last=True))
    at_last = torch.tensor([False, True])[None, :, None]
    chosen = (plan.masked[:, :1] if changes else ~plan.masked[:, :1]) & at_last
    with torch.no_grad():
        found = model.hidden_errors(batch, noise)
        changed = model.hidden_errors(_with_noise_at(batch, chosen), noise)
    assert torch.equal(found, changed) is not changes


def test_the_order_of_the_other_images_changes_nothing(make_sets, set_config):
    model = _network(replace(set_config, masking="same"))
    batch, noise = make_sets(12, slots=4)
    order = [0, 1, 3, 2]
    other = replace(batch, rows=batch.rows[:, order], same_source=batch.same_source[:, order])
    with torch.no_grad():
        expected = model(batch, noise).loss
        found = model(other, replace(noise, masking=noise.masking[:, order])).loss
    torch.testing.assert_close(found, expected)


def test_every_weight_learns_from_sets(make_sets, set_config):
    model = Autoencoder(replace(set_config, mixup="mirrored", sequence="apart", levels=True), seed=1)
    batch, noise = make_sets(13, slots=3)
    model(batch, noise).loss.backward()
    idle = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert idle == []


def test_encoding_a_set_of_one_is_encoding_an_image(make_sets, set_config):
    model = _network(set_config)
    batch, _ = make_sets(14, slots=1)
    with torch.no_grad():
        found, expected = model.encoder(batch), model.encoder(batch.groups[0])
    torch.testing.assert_close(found.cls, expected.cls[batch.rows[:, 0]])
    torch.testing.assert_close(found.tokens[:, 0], expected.tokens[batch.rows[:, 0]])


def test_images_of_a_set_see_each_other(make_sets, set_config):
    model = _network(set_config)
    batch, _ = make_sets(15, slots=2)
    changed = replace(batch, groups=(batch.groups[0], replace(batch.groups[1], pixels=batch.groups[1].pixels + 1)))
    with torch.no_grad():
        first, second = model.encoder(batch), model.encoder(changed)
    assert not torch.allclose(first.tokens[:, 0], second.tokens[:, 0])


def test_images_of_unequal_sides_are_refused(make_image, make_sets, set_config):
    batch, noise = make_sets(16, slots=2)
    wrong = replace(batch, groups=(batch.groups[0], make_image(1, bands=2, size=(48, 48))))
    with pytest.raises(InputError, match=r"equal sides; found 32 × 32, 48 × 48 pixels"):
        _network(set_config)(wrong, noise)
