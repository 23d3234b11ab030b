"""The network's side of reconstructing images: what it is shown of each, and what comes back."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_networks import INFORMED, small_checkpoint

from anyband.encode.complete import ImageView, PlaceView, SetCompleter
from anyband.errors import AssignmentError, CheckpointError, InputError
from anyband.models.checkpoint import Checkpoint
from anyband.models.encodings import EncodingConfig
from anyband.models.inputs import SetBatch
from anyband.rasters.footprints import Box
from anyband.sensors.assignment import AssignmentRules
from anyband.sensors.catalogue import get_sensor

_S2 = get_sensor("sentinel2-l2a").select(["B03", "B04"])
_S1 = get_sensor("sentinel1-grd")
_SIDE = 32


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return small_checkpoint(encodings=INFORMED, images="set", levels=True, seed=1)


@pytest.fixture
def completer(checkpoint: Checkpoint) -> SetCompleter:
    return SetCompleter(checkpoint).eval()


def _optical(completer: SetCompleter, *, seed: int = 0, side: int = _SIDE, day: str = "2020-06-01") -> ImageView:
    dn = np.random.default_rng(seed).integers(500, 1500, (2, side, side)).astype(np.uint16)
    return _view(completer.context_spec(_S2), dn, gsd_m=10.0, day=day)


def _radar(completer: SetCompleter, *, side: int = 16) -> ImageView:
    dn = np.random.default_rng(5).uniform(-20, -5, (2, side, side)).astype(np.float32)
    return _view(completer.context_spec(_S1), dn, gsd_m=20.0, day="2020-06-03")


def _view(spec: object, dn: np.ndarray, *, gsd_m: float, day: str) -> ImageView:
    return ImageView(
        spec=spec,  # type: ignore[arg-type]
        dn=dn,
        valid=np.ones(dn.shape, dtype=bool),
        box=Box(row=0.0, col=0.0, height=float(dn.shape[1]), width=float(dn.shape[2])),
        gsd_m=gsd_m,
        time=np.datetime64(day, "us"),
    )


def _place(completer: SetCompleter, *context: ImageView, unseen: np.ndarray | None = None) -> PlaceView:
    target = _optical(completer, seed=9, day="2020-06-10")
    hidden = np.ones((_SIDE, _SIDE), dtype=bool) if unseen is None else unseen
    corners = np.array([[7.0, 51.0], [7.01, 51.0], [7.01, 50.99], [7.0, 50.99]])
    return PlaceView(context=context, target=target, unseen=hidden, corners_deg=corners)


def _shown(completer: SetCompleter, monkeypatch: pytest.MonkeyPatch) -> list[tuple[SetBatch, torch.Tensor]]:
    """Keep what the network is shown."""
    shown, real = [], completer.model.complete

    def complete(batch: SetBatch, masked: torch.Tensor) -> tuple[torch.Tensor, ...]:
        shown.append((batch, masked))
        return real(batch, masked)

    monkeypatch.setattr(completer.model, "complete", complete)
    return shown


def test_the_target_stands_last_and_another_sensor_second(
    completer: SetCompleter, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = _shown(completer, monkeypatch)
    context = (_optical(completer), _optical(completer, seed=1, day="2020-05-01"), _radar(completer))
    completer.complete([_place(completer, *context)])
    batch, masked = shown[0]
    assert batch.same_source.tolist() == [[True, False, True, True]]
    assert batch.partnered
    assert masked.any(dim=2).tolist() == [[False, False, False, True]]
    assert batch.metadata is not None
    # Days from the first of January of a leap year: June 1, June 3, May 1, June 10.
    assert batch.metadata.day_of_year.tolist() == [[152.0, 154.0, 121.0, 161.0]]
    assert batch.metadata.gsd_m.tolist() == [[10.0, 20.0, 10.0, 10.0]]
    assert batch.metadata.input_gsd_m.tolist() == [[10.0] * 4]


def test_a_token_that_touches_an_unseen_pixel_is_hidden_whole(
    completer: SetCompleter, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = _shown(completer, monkeypatch)
    unseen = np.zeros((_SIDE, _SIDE), dtype=bool)
    unseen[7, 16] = unseen[31, 31] = True
    completer.complete([_place(completer, _optical(completer), unseen=unseen)])
    batch, masked = shown[0]
    assert torch.nonzero(masked[0, -1]).flatten().tolist() == [2, 15]
    assert (batch.groups[-1].pixels[0, :, :8, 16:24] == 0).all()
    assert batch.groups[-1].valid is None


@pytest.mark.parametrize("side", [20, 32, 45])
def test_tokens_of_a_resized_target_are_hidden_where_they_touch(
    completer: SetCompleter, monkeypatch: pytest.MonkeyPatch, side: int
) -> None:
    shown = _shown(completer, monkeypatch)
    unseen = np.zeros((side, side), dtype=bool)
    row, col = 7, side - 3
    unseen[row, col] = True
    target = _optical(completer, side=side)
    place = replace(_place(completer, _optical(completer)), target=target, unseen=unseen)
    completed = completer.complete([place])[0]
    edges = np.arange(5) * side / 4
    touching = [
        index
        for index in range(16)
        if edges[index // 4] < row + 1
        and edges[index // 4 + 1] > row
        and edges[index % 4] < col + 1
        and edges[index % 4 + 1] > col
    ]
    assert torch.nonzero(shown[0][1][0, -1]).flatten().tolist() == touching
    assert completed.shape == (2, side, side)


def test_nothing_under_clouds_is_looked_at(completer: SetCompleter) -> None:
    unseen = np.zeros((_SIDE, _SIDE), dtype=bool)
    unseen[3:12, 3:12] = True
    place = _place(completer, _radar(completer), _optical(completer), unseen=unseen)
    other = replace(place.target, dn=np.where(unseen, np.uint16(60000), place.target.dn))
    assert np.array_equal(*(completer.complete([one])[0] for one in (place, replace(place, target=other))))


def test_tokens_that_are_seen_come_back_as_given(completer: SetCompleter) -> None:
    unseen = np.zeros((_SIDE, _SIDE), dtype=bool)
    unseen[:8, :8] = True
    place = _place(completer, _optical(completer), unseen=unseen)
    completed = completer.complete([place])[0]
    given = place.target.dn * 1e-4
    assert np.allclose(completed[:, 8:], given[:, 8:], atol=1e-6)
    assert not np.allclose(completed[:, :8, :8], given[:, :8, :8], atol=1e-3)


def test_places_do_not_see_each_other(completer: SetCompleter) -> None:
    few, many = np.zeros((_SIDE, _SIDE), dtype=bool), np.zeros((_SIDE, _SIDE), dtype=bool)
    few[:4], many[:20] = True, True
    places = [
        _place(completer, _optical(completer, seed=seed), _radar(completer), unseen=unseen)
        for seed, unseen in ((1, few), (2, many), (3, few))
    ]
    together = completer.complete(places)
    for place, found in zip(places, together, strict=True):
        assert np.allclose(completer.complete([place])[0], found, atol=1e-6)


def test_hidden_tokens_depend_on_every_image(completer: SetCompleter) -> None:
    place = _place(completer, _optical(completer), _radar(completer))
    first = completer.complete([place])[0]
    for changed in ((_optical(completer, seed=4), place.context[1]), (place.context[0], _radar(completer, side=12))):
        assert not np.allclose(completer.complete([replace(place, context=changed)])[0], first, atol=1e-7)


def test_a_coarse_image_is_cut_along_the_edges_of_the_square(
    completer: SetCompleter, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = _shown(completer, monkeypatch)
    ramp = np.broadcast_to(-20 + np.arange(9.0)[:, None] + 0.5, (2, 9, 9)).astype(np.float32)
    view = replace(
        _view(completer.context_spec(_S1), ramp, gsd_m=50.0, day="2020-06-03"),
        box=Box(row=1.25, col=0.5, height=6.4, width=6.4),
    )
    completer.complete([_place(completer, view)])
    from anyband.data.harmonise import restore

    seen = restore(shown[0][0].groups[0].pixels, view.spec.normalisation)[0, 0].numpy()
    expected = -20 + 1.25 + (np.arange(_SIDE) + 0.5) * 6.4 / _SIDE
    # Inside, where the kernel stays within the pixels that the square touches.
    assert np.allclose(seen[10:22], expected[10:22, None], atol=0.02)


def test_missing_pixels_of_others_are_hidden_and_not_zero(
    completer: SetCompleter, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = _shown(completer, monkeypatch)
    image = _optical(completer)
    image.valid[:, :8, :8] = False
    completer.complete([_place(completer, image)])
    valid = shown[0][0].groups[0].valid
    assert valid is not None
    assert not valid[0, :, :8, :8].any()
    assert valid[0, :, 8:].all()


def test_a_place_of_which_nothing_is_seen_says_so(completer: SetCompleter) -> None:
    place = _place(completer, _optical(completer))
    assert place.has_data
    place.context[0].valid[:] = False
    assert not place.has_data


def test_what_is_not_known_is_not_known_to_the_network(
    completer: SetCompleter, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = _shown(completer, monkeypatch)
    place = _place(completer, replace(_optical(completer), time=np.datetime64("NaT", "us")))
    completer.complete([replace(place, corners_deg=np.full((4, 2), np.nan))])
    metadata = shown[0][0].metadata
    assert metadata is not None
    assert metadata.day_of_year.isnan().tolist() == [[True, False]]
    assert metadata.lonlat_deg.isnan().all()


def test_a_target_alone_is_refused(completer: SetCompleter) -> None:
    with pytest.raises(InputError, match="needs at least one other image of its place; found none"):
        completer.complete([_place(completer)])


def test_more_images_than_memory_holds_are_refused_with_what_they_need(
    completer: SetCompleter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anyband.encode.encoder.available_bytes", lambda _device: 1000)
    with pytest.raises(InputError, match=r"1 set of 2 images with 16 tokens each .* need about .* GB"):
        completer.complete([_place(completer, _optical(completer))])


def test_the_most_images_are_those_of_the_training(checkpoint: Checkpoint) -> None:
    assert SetCompleter(checkpoint).num_context == 2
    recipe = {"data": {"sets": {"size": [1, 6]}}, "model": {"hidden_image": 0.0}}
    trained = SetCompleter(replace(checkpoint, recipe=recipe))
    assert trained.num_context == 5
    assert "never trained on images that are hidden whole" in trained.notes[0]


def test_bands_that_can_not_be_reconstructed_are_named(checkpoint: Checkpoint) -> None:
    strict = SetCompleter(checkpoint, rules=AssignmentRules(unseen="refuse"))
    landsat = get_sensor("landsat8-oli-tirs-l2").select(["B4", "B10"])
    with pytest.raises(AssignmentError, match=r"can't reconstruct 'landsat8-oli-tirs-l2'(.|\n)*B10(.|\n)*--bands"):
        strict.target_spec(landsat)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"levels": False}, "predicts the structure inside a token and not its values"),
        ({"images": "pair"}, "was trained on pairs of sensors"),
    ],
)
def test_a_network_that_can_not_do_it_is_refused(
    checkpoint: Checkpoint, changes: dict[str, object], message: str
) -> None:
    config = checkpoint.config
    if "images" in changes:
        config = replace(config, encoder=replace(config.encoder, encodings=EncodingConfig()))
    with pytest.raises(CheckpointError, match=message):
        SetCompleter(replace(checkpoint, config=replace(config, **changes)))  # type: ignore[arg-type]
