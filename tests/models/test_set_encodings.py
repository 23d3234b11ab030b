"""Encodings of images: composed as the method says, unknown facts apart from known ones, and always finite."""

from dataclasses import replace
from datetime import date

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from anyband.errors import InputError
from anyband.models.encodings import EncodingConfig, EncodingRole, SetEncodings, corner_bits, sincos_positions
from anyband.models.inputs import SetMetadata
from anyband.models.vit import initialise

GRID = (3, 4)
NUM_RANGES = 5
A2MAE = EncodingConfig(geographic="a2mae")
ADDED = EncodingConfig(place=True, resolution=True, date=True, source=True)
ALL = replace(ADDED, geographic="a2mae")
FACTS = ("corner_bits", "lonlat_deg", "gsd_m", "input_gsd_m", "day_of_year", "year")


def _encodings(
    config: EncodingConfig, *, width: int = 64, role: EncodingRole = "encoder", seed: int = 1
) -> SetEncodings:
    encodings = SetEncodings(config, width=width, num_ranges=NUM_RANGES, role=role)
    initialise(encodings, seed=seed, prefix=role)
    return encodings


def _metadata(num_sets: int = 2, num_slots: int = 3, seed: int = 0) -> SetMetadata:
    draw = np.random.default_rng(seed)
    corners = draw.uniform(-90, 90, (num_sets, num_slots, 4, 2))
    shape = (num_sets, num_slots)

    def tensor(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values.astype(np.float32))

    return SetMetadata(
        corner_bits=torch.from_numpy(corner_bits(corners)),
        lonlat_deg=tensor(corners.mean(axis=2)),
        gsd_m=tensor(draw.uniform(1, 60, shape)),
        input_gsd_m=tensor(draw.uniform(1, 60, shape)),
        day_of_year=tensor(draw.integers(0, 366, shape)),
        year=tensor(draw.integers(2013, 2026, shape)),
    )


def _shares(num_sets: int = 2, num_slots: int = 3, seed: int = 0) -> Tensor:
    shares = torch.rand(num_sets, num_slots, NUM_RANGES, generator=torch.Generator().manual_seed(seed))
    return shares / shares.sum(dim=-1, keepdim=True)


def _at(metadata: SetMetadata, sets: slice, slots: slice) -> SetMetadata:
    return SetMetadata(**{name: values[sets, slots] for name, values in vars(metadata).items()})


def _without(metadata: SetMetadata, *names: str, slots: slice = slice(None)) -> SetMetadata:
    changed = {name: getattr(metadata, name).clone() for name in names}
    for values in changed.values():
        values[:, slots] = torch.nan
    return replace(metadata, **changed)


@pytest.mark.parametrize(
    ("width", "kept", "rest"), [(32, 1, 0), (192, 6, 0), (768, 24, 0), (1024, 32, 0), (1280, 32, 64)]
)
def test_the_encoder_composes_corners_and_positions_as_in_a2mae(width: int, kept: int, rest: int) -> None:
    metadata = _metadata()
    tokens = _encodings(A2MAE, width=width)(GRID, metadata, _shares())
    for index in range(2):
        codes = metadata.corner_bits[index, 0].reshape(8, 32)
        bits = torch.cat([codes[:, :kept].flatten(), torch.zeros(rest)])
        positions = [sincos_positions(*GRID, width // 4, gsd_m) for gsd_m in metadata.input_gsd_m[index]]
        expected = torch.cat([bits.expand(12, -1), *positions], dim=1)
        assert all(torch.equal(tokens[index, slot], expected) for slot in range(3))


def test_the_decoder_gives_each_image_its_own_positions() -> None:
    metadata = _metadata()
    tokens = _encodings(A2MAE, role="decoder", width=36)(GRID, metadata, _shares())
    assert torch.equal(tokens, sincos_positions(*GRID, 36, metadata.input_gsd_m))


def test_the_decoder_has_no_geocode() -> None:
    metadata = _metadata()
    decoder = _encodings(A2MAE, role="decoder")
    blind = _without(metadata, "corner_bits")
    assert torch.equal(decoder(GRID, metadata, _shares()), decoder(GRID, blind, _shares()))


def test_in_the_decoder_two_dates_of_one_source_are_alike() -> None:
    metadata, shares = _metadata(1, 2), _shares(1, 1).expand(-1, 2, -1)
    metadata = replace(metadata, input_gsd_m=torch.full((1, 2), 10.0), gsd_m=torch.full((1, 2), 10.0))
    first, second = _encodings(A2MAE, role="decoder")(GRID, metadata, shares)[0]
    assert torch.equal(first, second)
    first, second = _encodings(replace(A2MAE, date=True), role="decoder")(GRID, metadata, shares)[0]
    assert ((first - second).abs().amax(dim=1) > 0.01).all()


def test_only_corners_of_the_anchor_count() -> None:
    metadata, encoder = _metadata(), _encodings(A2MAE)
    blind = _without(metadata, "corner_bits", slots=slice(1, None))
    assert torch.equal(encoder(GRID, metadata, _shares()), encoder(GRID, blind, _shares()))


@pytest.mark.parametrize("num_slots", [1, 2])
def test_an_image_that_is_absent_is_unknown_and_more_than_three_are_refused(num_slots: int) -> None:
    metadata, encoder = _metadata(), _encodings(A2MAE)
    whole = encoder(GRID, metadata, _shares())
    part = encoder(GRID, _at(metadata, slice(None), slice(num_slots)), _shares(num_slots=num_slots))
    assert part.shape == (2, num_slots, 12, 64)
    assert torch.equal(part[..., : 16 * (1 + num_slots)], whole[:, :num_slots, :, : 16 * (1 + num_slots)])
    absent = dict(encoder.named_parameters())["geographic.absent_token"]
    quarters = part[..., 16 * (1 + num_slots) :].unflatten(-1, (-1, 16))
    assert (quarters == absent[0]).all()
    with pytest.raises(InputError, match=r"sets of 4 images were given; .* three images: take encodings of each image"):
        encoder(GRID, _metadata(2, 4), _shares(2, 4))


def test_unknown_corners_are_a_trained_vector() -> None:
    metadata, encoder = _metadata(), _encodings(A2MAE)
    metadata.corner_bits[0, 0, 70] = torch.nan
    tokens = encoder(GRID, metadata, _shares())
    corners = dict(encoder.named_parameters())["geographic.corners_token"]
    assert (tokens[0, ..., :16] == corners[0]).all()
    assert torch.equal(tokens[1, 0, 0, :16], metadata.corner_bits[1, 0].reshape(8, 32)[:, :2].flatten())


@pytest.mark.parametrize("unknown", [torch.nan, torch.inf, 0.0, -10.0])
@pytest.mark.parametrize("role", ["encoder", "decoder"])
def test_an_unknown_resolution_is_that_of_1_m_and_a_trained_vector(role: EncodingRole, unknown: float) -> None:
    metadata, encodings = _metadata(), _encodings(A2MAE, role=role)
    metadata.input_gsd_m[0, 1] = unknown
    width = 16 if role == "encoder" else 64
    token = next(value for name, value in encodings.named_parameters() if name.endswith("gsd_token"))
    tokens = encodings(GRID, metadata, _shares())[0, 1]
    found = tokens[:, 32:48] if role == "encoder" else tokens
    assert torch.equal(found, sincos_positions(*GRID, width, torch.ones(())) + token)


@pytest.mark.parametrize("role", ["encoder", "decoder"])
def test_a_single_image_of_which_nothing_is_known_still_has_positions(role: EncodingRole) -> None:
    tokens = _encodings(ALL, role=role)(GRID, None, _shares(4, 1))[:, 0]
    apart = torch.cdist(tokens, tokens) + torch.eye(12)
    assert (apart > 0.1).all()


@pytest.mark.parametrize("width", [16, 48, 1000])
def test_widths_that_can_not_be_shared_are_refused(width: int) -> None:
    with pytest.raises(InputError, match=f"a multiple of 32; found {width}"):
        SetEncodings(A2MAE, width=width, num_ranges=NUM_RANGES, role="encoder")


def test_encodings_that_are_all_off_are_refused() -> None:
    with pytest.raises(InputError, match="all of them off"):
        SetEncodings(EncodingConfig(), width=64, num_ranges=NUM_RANGES, role="encoder")


def test_metadata_of_other_sets_are_refused() -> None:
    with pytest.raises(InputError, match="metadata of 2 × 3 images were given for 2 sets of 2 images"):
        _encodings(ADDED)(GRID, _metadata(2, 3), _shares(2, 2))


@pytest.mark.parametrize("num_slots", [1, 4, 6])
def test_encodings_of_each_image_take_any_number_of_images(num_slots: int) -> None:
    metadata, shares = _metadata(2, num_slots), _shares(2, num_slots)
    assert _encodings(ADDED)(GRID, metadata, shares).shape == (2, num_slots, 1, 64)


@pytest.mark.parametrize("role", ["encoder", "decoder"])
@pytest.mark.parametrize("config", [A2MAE, ADDED, ALL])
def test_equal_facts_have_equal_encodings_whatever_else_is_in_the_batch(
    config: EncodingConfig, role: EncodingRole
) -> None:
    encodings, metadata, shares = _encodings(config, role=role), _metadata(), _shares()
    together = encodings(GRID, metadata, shares)
    alone = encodings(GRID, _at(metadata, slice(1, 2), slice(None)), shares[1:])
    assert torch.allclose(together[1:], alone, rtol=0, atol=1e-5)


def test_encodings_of_each_image_follow_its_slot() -> None:
    encodings, metadata, shares = _encodings(ADDED), _metadata(), _shares()
    order = torch.tensor([2, 0, 1])
    moved = SetMetadata(**{name: values[:, order] for name, values in vars(metadata).items()})
    expected = encodings(GRID, metadata, shares)[:, order]
    assert torch.allclose(encodings(GRID, moved, shares[:, order]), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (EncodingConfig(place=True), "lonlat_deg"),
        (EncodingConfig(resolution=True), "gsd_m"),
        (EncodingConfig(resolution=True), "input_gsd_m"),
        (EncodingConfig(date=True), "day_of_year"),
        (EncodingConfig(date=True), "year"),
        (A2MAE, "corner_bits"),
        (A2MAE, "input_gsd_m"),
    ],
)
def test_each_fact_alone_changes_the_encoding(config: EncodingConfig, name: str) -> None:
    encodings, metadata, other = _encodings(config), _metadata(seed=0), _metadata(seed=1)
    changed = replace(metadata, **{name: getattr(other, name)})
    known, moved, unknown = (encodings(GRID, one, _shares()) for one in (metadata, changed, _without(metadata, name)))
    for first, second in ((known, moved), (known, unknown), (moved, unknown)):
        assert ((first - second).abs().amax(dim=(2, 3)) > 1e-3).all()


@pytest.mark.parametrize(
    "config", [EncodingConfig(place=True), EncodingConfig(resolution=True), EncodingConfig(date=True)]
)
def test_a_fact_that_is_switched_off_changes_nothing(config: EncodingConfig) -> None:
    encodings, metadata, other = _encodings(config), _metadata(seed=0), _metadata(seed=1)
    used = {"place": {"lonlat_deg"}, "resolution": {"gsd_m", "input_gsd_m"}, "date": {"day_of_year", "year"}}
    mine = next(names for switch, names in used.items() if getattr(config, switch))
    changed = replace(metadata, **{name: getattr(other, name) for name in FACTS if name not in mine})
    assert torch.equal(encodings(GRID, metadata, _shares()), encodings(GRID, changed, _shares(seed=1)))


@pytest.mark.parametrize("role", ["encoder", "decoder"])
@pytest.mark.parametrize("config", [A2MAE, ADDED, ALL])
def test_nothing_known_differs_from_every_known_value(config: EncodingConfig, role: EncodingRole) -> None:
    encodings, metadata, shares = _encodings(config, role=role), _metadata(200, 1), _shares(1, 1).expand(200, -1, -1)
    # What a careless reader would put in the place of nothing: zero degrees, day 0 of year 0, 1 m.
    zero = replace(
        _metadata(1, 1), **{name: getattr(SetMetadata.unknown(1, 1), name).nan_to_num(0.0) for name in FACTS}
    )
    zero = replace(zero, gsd_m=torch.ones(1, 1), input_gsd_m=torch.ones(1, 1))
    known = torch.cat([encodings(GRID, metadata, shares), encodings(GRID, zero, shares[:1])])
    unknown = encodings(GRID, None, shares[:1])
    assert ((known - unknown).flatten(1).norm(dim=1) > 0.05).all()


@settings(max_examples=40)
@given(st.floats(-180, 180), st.floats(-90, 90))
def test_an_unknown_place_is_unlike_any_place(lon_deg: float, lat_deg: float) -> None:
    encodings = _encodings(EncodingConfig(place=True), width=192)
    metadata = SetMetadata.unknown(2, 1)
    metadata.lonlat_deg[0, 0] = torch.tensor([lon_deg, lat_deg])
    known, unknown = encodings(GRID, metadata, _shares(2, 1))
    assert (known - unknown).norm() > 1


@settings(max_examples=40)
@given(st.dates(date(1950, 1, 1), date(2099, 12, 31)))
def test_an_unknown_date_is_unlike_any_date(day: date) -> None:
    encodings = _encodings(EncodingConfig(date=True), width=192)
    metadata = SetMetadata.unknown(4, 1)
    metadata.day_of_year[0], metadata.year[0] = day.timetuple().tm_yday - 1, day.year
    metadata.day_of_year[1] = day.timetuple().tm_yday - 1
    metadata.year[2] = day.year
    tokens = encodings(GRID, metadata, _shares(4, 1))[:, 0, 0]
    assert (torch.cdist(tokens, tokens) + torch.eye(4) > 0.1).all()


@settings(max_examples=40)
@given(st.floats(0.01, 10_000))
def test_an_unknown_resolution_is_unlike_any_resolution(gsd_m: float) -> None:
    encodings = _encodings(EncodingConfig(resolution=True), width=192)
    metadata = SetMetadata.unknown(3, 1)
    metadata.gsd_m[0], metadata.input_gsd_m[1] = gsd_m, gsd_m
    tokens = encodings(GRID, metadata, _shares(3, 1))[:, 0, 0]
    assert (torch.cdist(tokens, tokens) + torch.eye(3) > 0.1).all()


def test_longitudes_of_180_have_one_encoding() -> None:
    metadata = SetMetadata.unknown(2, 1)
    metadata.lonlat_deg[:, 0] = torch.tensor([[-180.0, 66.5], [180.0, 66.5]])
    west, east = _encodings(EncodingConfig(place=True))(GRID, metadata, _shares(2, 1))
    assert torch.allclose(west, east, rtol=0, atol=1e-6)


def test_a_leap_day_and_days_before_1970_have_encodings_of_their_own() -> None:
    days = [
        date(2020, 2, 28),
        date(2020, 2, 29),
        date(2020, 3, 1),
        date(2020, 12, 31),
        date(1969, 12, 31),
        date(1900, 1, 1),
    ]
    metadata = SetMetadata.unknown(len(days), 1)
    metadata.day_of_year[:, 0] = torch.tensor([float(day.timetuple().tm_yday - 1) for day in days])
    metadata.year[:, 0] = torch.tensor([float(day.year) for day in days])
    tokens = _encodings(EncodingConfig(date=True))(GRID, metadata, _shares(len(days), 1))[:, 0, 0]
    assert tokens.isfinite().all()
    assert (torch.cdist(tokens, tokens) + torch.eye(len(days)) > 1e-3).all()


def test_a_source_is_the_mix_of_what_it_sees() -> None:
    encodings = _encodings(EncodingConfig(source=True))
    table = dict(encodings.named_parameters())["source.weight"]
    assert table.shape == (NUM_RANGES, 64)
    shares = torch.tensor([[[1.0, 0, 0, 0, 0], [0.25, 0, 0.75, 0, 0]]])
    tokens = encodings(GRID, None, shares)[0, :, 0]
    assert torch.allclose(tokens, torch.stack([table[0], 0.25 * table[0] + 0.75 * table[2]]), atol=1e-6)


@settings(max_examples=60)
@given(st.lists(st.floats(width=32), min_size=6, max_size=6), st.sampled_from(["encoder", "decoder"]))
@example([0.0, 0.0, 1.0, 1.0, 0.0, 2.8e38], "encoder")
@example([2.8e38] * 6, "encoder")
@example([2.8e38] * 6, "decoder")
def test_everything_is_finite_for_any_metadata_and_so_are_gradients(values: list[float], role: EncodingRole) -> None:
    encodings, metadata = _encodings(ALL, role=role), _metadata(1, 2)
    for name, value in zip(FACTS, values, strict=True):
        getattr(metadata, name)[:, 0] = value
    tokens = encodings(GRID, metadata, _shares(1, 2))
    tokens.sum().backward()
    assert tokens.isfinite().all()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in encodings.parameters())


@pytest.mark.parametrize("role", ["encoder", "decoder"])
def test_every_parameter_learns_even_where_nothing_is_known(role: EncodingRole) -> None:
    encodings = _encodings(ALL, role=role)
    encodings(GRID, None, _shares(2, 1)).square().sum().backward()
    learning = {name for name, value in encodings.named_parameters() if value.grad is not None and value.grad.any()}
    tokens = {name for name, _ in encodings.named_parameters() if name.endswith("_token")}
    assert learning == tokens | {"source.weight"}
    assert all(value.grad is not None for value in encodings.parameters())


def test_vectors_of_the_unknown_start_as_tokens_do() -> None:
    encodings = _encodings(ALL, width=768)
    for name, value in encodings.named_parameters():
        if name.endswith("_token"):
            assert 0.01 < value.std().item() < 0.03, name


@pytest.mark.parametrize("role", ["encoder", "decoder"])
def test_names_of_weights_stay(role: EncodingRole) -> None:
    names = {name for name, _ in _encodings(ALL, role=role).named_parameters()}
    facts = {
        f"{fact}.{part}"
        for fact in ("place", "gsd", "input_gsd", "day", "year")
        for part in ("linear.weight", "linear.bias", "unknown_token")
    }
    geographic = {
        "encoder": {"geographic.corners_token", "geographic.absent_token", "geographic.own.gsd_token"},
        "decoder": {"geographic.gsd_token"},
    }
    assert names == facts | geographic[role] | {"source.weight"}


def test_in_half_precision_positions_and_facts_stay_finite() -> None:
    encodings, metadata, shares = _encodings(ALL), _metadata(), _shares()
    whole = encodings(GRID, metadata, shares)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = encodings(GRID, metadata, shares)
    assert half.dtype == torch.float32
    assert torch.allclose(half, whole, atol=0.1)
