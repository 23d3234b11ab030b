"""Panels of reconstructions: what is drawn of each image, and what is written beside it."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from PIL import Image

from anyband.data.harmonise import normalisation_for
from anyband.encode.input_spec import InputSpec
from anyband.models.autoencoder import Autoencoder, AutoencoderConfig
from anyband.models.inputs import ImageBatch, SetBatch, SetNoise
from anyband.models.vit import DecoderConfig, EncoderConfig
from anyband.pretraining.watch import draw_reconstructions
from anyband.report import figures as panels
from anyband.report.figures import PREDICTED_NOTE, RECONSTRUCTION_NOTE, PanelImages
from anyband.sensors.assignment import AssignmentRules, assign
from anyband.sensors.catalogue import get_sensor
from anyband.sensors.ranges import load_ranges, stem_ranges
from anyband.sensors.sensor import BandStatistics

_TABLE = load_ranges("smarties_v1")
_TIMES = np.array([["2021-06-12T10:30", "2021-06-13", "NaT"], ["2020-01-02"] * 3], dtype="datetime64[us]")
_TITLES = {"title": "step 3", "places": ("p0, r0c0", "p1, r0c0"), "times": _TIMES}


@dataclass
class _Panel:
    """What a panel was asked to draw."""

    blocks: Sequence[PanelImages] = ()
    title: str = ""
    note: str = ""
    across: int | None = None


@pytest.fixture
def panel(monkeypatch: pytest.MonkeyPatch) -> _Panel:
    """Keep what is to be drawn instead of drawing it."""
    kept = _Panel()

    def keep(blocks: Sequence[PanelImages], *, title: str, note: str, across: int | None = None) -> bytes:
        kept.blocks, kept.title, kept.note, kept.across = blocks, title, note, across
        return b""

    monkeypatch.setattr(panels, "reconstruction_panel", keep)
    return kept


def _input(name: str, bands: tuple[str, ...], rules: AssignmentRules | None = None) -> InputSpec:
    sensor = get_sensor(name).select(bands)
    statistics = {
        band: BandStatistics(p01=0.1 * index, p99=1.0 + index, mean=0.4, std=0.2) for index, band in enumerate(bands)
    }
    return InputSpec(
        sensor=sensor,
        statistics=normalisation_for(sensor, statistics=statistics),
        assignment=assign(sensor, _TABLE, rules),
        statistics_source="made up",
    )


_BANDS = ("B02", "B03", "B04", "B08")
_OPTICAL = _input("sentinel2-l2a", _BANDS)
_RADAR = _input("sentinel1-grd", ("VV", "VH"))


def _images(entry: InputSpec, count: int, *, seed: int, missing: bool = False) -> ImageBatch:
    num_bands = len(entry.assignment.kept_index)
    pixels = torch.randn(count, num_bands, 32, 32, generator=torch.Generator().manual_seed(seed))
    valid = torch.ones_like(pixels, dtype=torch.bool)
    valid[:, :, :5, :6] = False
    mixing = torch.as_tensor(entry.assignment.mixing, dtype=torch.float32)
    if not missing:
        return ImageBatch(pixels=pixels, mixing=mixing)
    return ImageBatch(pixels=torch.where(valid, pixels, 0.0), valid=valid, mixing=mixing)


def _sets(*, missing: bool = False) -> SetBatch:
    """Two sets: an optical anchor, radar, and another optical image, in the groups in another order."""
    return SetBatch(
        groups=(_images(_OPTICAL, 4, seed=0, missing=missing), _images(_RADAR, 2, seed=1)),
        rows=torch.tensor([[3, 4, 0], [1, 5, 2]]),
        same_source=torch.tensor([[True, False, True]] * 2),
        first_slot=torch.tensor([0, 0]),
        partnered=True,
    )


def _noise(*, hides_last: bool = False) -> SetNoise:
    draw = torch.Generator().manual_seed(5)
    masking, tying = (torch.rand(2, 3, 16, generator=draw) for _ in range(2))
    return SetNoise(masking=masking, tying=tying, mixup=torch.rand(2, 16, generator=draw), hides_last=hides_last)


def _config() -> AutoencoderConfig:
    encoder = EncoderConfig(
        img_size=32, patch_size=8, embed_dim=16, depth=1, num_heads=2, num_ranges=len(_TABLE.range_names)
    )
    decoder = DecoderConfig(decoder_embed_dim=8, decoder_depth=1, decoder_num_heads=2)
    return AutoencoderConfig(encoder=encoder, decoder=decoder, images="set")


def _model(config: AutoencoderConfig | None = None) -> Autoencoder:
    return Autoencoder(config or _config(), seed=0).eval()


def _patches(pictures: np.ndarray) -> np.ndarray:
    """Cut (slot, colour, row, col) into (slot, token, values)."""
    cut = pictures.reshape(len(pictures), -1, 4, 8, 4, 8)
    return cut.transpose(0, 2, 4, 1, 3, 5).reshape(len(pictures), 16, -1)


def test_each_image_of_a_set_is_drawn_in_its_own_row(panel: _Panel) -> None:
    draw_reconstructions(_model(), _sets(), _noise(), (_OPTICAL, _RADAR), **_TITLES)
    first, second = panel.blocks
    assert (first.title, second.title, panel.title) == ("p0, r0c0", "p1, r0c0", "step 3")
    assert first.row_titles == (
        "anchor\nsentinel2-l2a\n2021-06-12\nnatural colour",
        "sentinel1-grd\n2021-06-13\nVV, VH, VV − VH",
        "sentinel2-l2a\ndate unknown\nnatural colour",
    )
    # Row 3 of the first group is the anchor of the first set: its red band, stretched, in the order of its values.
    red = _sets().groups[0].pixels[3, 2].flatten().numpy()
    shown = first.original[0, 0].flatten()
    inside = (shown > 0) & (shown < 1)
    assert np.corrcoef(red[inside], shown[inside])[0, 1] == pytest.approx(1, abs=1e-5)


def test_visible_patches_are_shown_and_hidden_ones_painted(panel: _Panel) -> None:
    model = _model()
    draw_reconstructions(model, _sets(), _noise(), (_OPTICAL, _RADAR), **_TITLES)
    masked = model.reconstruct(_sets(), _noise())[1].masked.numpy()
    for index, block in enumerate(panel.blocks):
        original, seen, made = (_patches(one) for one in (block.original, block.seen, block.reconstruction))
        visible = ~masked[index]
        assert (seen[visible] == original[visible]).all()
        assert np.ptp(seen[masked[index]]) == 0
        np.testing.assert_allclose(made[visible], original[visible], atol=1e-5)
        assert (np.abs(made - original).max(axis=2) > 0.05)[masked[index]].all()


def test_missing_pixels_are_left_open_in_the_original_and_do_not_lead_the_stretch(panel: _Panel) -> None:
    draw_reconstructions(_model(), _sets(missing=True), _noise(), (_OPTICAL, _RADAR), **_TITLES)
    anchor = panel.blocks[0].original[0]
    assert np.isnan(anchor[:, :5, :6]).all()
    assert np.isfinite(anchor).sum() == 3 * (32 * 32 - 30)
    assert np.isfinite(panel.blocks[0].reconstruction).all()


def test_an_image_hidden_whole_is_painted_whole(panel: _Panel) -> None:
    draw_reconstructions(_model(), _sets(), _noise(hides_last=True), (_OPTICAL, _RADAR), **_TITLES)
    assert np.ptp(panel.blocks[0].seen[2]) == 0


def test_exchanged_patches_are_outlined_where_the_exchange_has_an_effect(panel: _Panel) -> None:
    model = _model(replace(_config(), sequence="apart"))
    draw_reconstructions(model, _sets(), _noise(), (_OPTICAL, _RADAR), **_TITLES)
    plan = model.reconstruct(_sets(), _noise())[1]
    expected = (plan.swapped & ~plan.masked[:, 0]).view(2, 4, 4).numpy()
    for block, places in zip(panel.blocks, expected, strict=True):
        assert block.outlined is not None
        assert (block.outlined == np.stack([places, places, np.zeros_like(places)])).all()
    assert expected.any()
    assert "Outlined patches were exchanged" in panel.note


def test_nothing_is_outlined_in_one_joint_sequence(panel: _Panel) -> None:
    draw_reconstructions(_model(), _sets(), _noise(), (_OPTICAL, _RADAR), **_TITLES)
    assert not np.stack([block.outlined for block in panel.blocks]).any()
    assert panel.note == RECONSTRUCTION_NOTE


@pytest.mark.parametrize("change", [{"levels": True}, {"norm_pix_loss": False}])
def test_the_note_says_whether_values_are_predicted(panel: _Panel, change: dict[str, bool]) -> None:
    model = _model(replace(_config(), **change))
    draw_reconstructions(model, _sets(), _noise(), (_OPTICAL, _RADAR), **_TITLES)
    assert panel.note == PREDICTED_NOTE


def test_bands_that_no_range_reads_are_left_out(panel: _Panel) -> None:
    rules = AssignmentRules(out_of_span="drop", min_support=0.9)
    entry = _input("sentinel2-l1c", ("B10", "B04", "B03", "B02"), rules)
    assert entry.assignment.kept_index == (1, 2, 3)
    batch = replace(_sets(), groups=(_images(entry, 4, seed=0), _images(_RADAR, 2, seed=1)))
    draw_reconstructions(_model(), batch, _noise(), (entry, _RADAR), **_TITLES)
    assert panel.blocks[0].row_titles[0].endswith("natural colour")


def test_a_band_that_stands_in_a_stem_twice_is_drawn_once(panel: _Panel) -> None:
    stem = assign(get_sensor("sentinel1-grd").select(("VV", "VH")), stem_ranges())
    entry = replace(_RADAR, assignment=stem)
    assert stem.kept_index == (0, 1, 0)
    optical = replace(_OPTICAL, assignment=assign(get_sensor("sentinel2-l2a").select(_BANDS), stem_ranges()))
    encoder = replace(_config().encoder, num_ranges=3)
    batch = replace(_sets(), groups=(_images(optical, 4, seed=0, missing=True), _images(entry, 2, seed=1)))
    draw_reconstructions(_model(replace(_config(), encoder=encoder)), batch, _noise(), (optical, entry), **_TITLES)
    assert panel.blocks[0].row_titles[1].endswith("VV, VH, VV − VH")
    assert np.isfinite(panel.blocks[0].original[1]).all()


def test_a_panel_of_sets_is_a_picture() -> None:
    png = draw_reconstructions(
        _model(), _sets(missing=True), _noise(), (_OPTICAL, _RADAR), **{**_TITLES, "times": None}
    )
    assert np.asarray(Image.open(io.BytesIO(png))).std() > 10


def test_both_images_of_a_pair_are_drawn_with_the_same_hidden_patches(panel: _Panel) -> None:
    model = Autoencoder(replace(_config(), images="pair"), seed=0).eval()
    pairs = SetBatch(groups=(_images(_OPTICAL, 2, seed=0, missing=True), _images(_RADAR, 2, seed=1)))
    noise = SetNoise(masking=_noise().masking[:, :2], mixup=_noise().mixup)
    draw_reconstructions(model, pairs, noise, (_OPTICAL, _RADAR), title="step 3", places=("p0", "p1"))
    plan = model.reconstruct(pairs, noise)[1]
    assert panel.blocks[1].row_titles == (
        "sentinel2-l2a\nnatural colour",
        "sentinel1-grd\nVV, VH, VV − VH",
    )
    assert torch.equal(plan.masked[:, 0], plan.masked[:, 1])
    for block, masked, outlined in zip(
        panel.blocks, plan.masked.numpy(), (plan.swapped & ~plan.masked[:, 0]).view(2, 4, 4).numpy(), strict=True
    ):
        assert np.ptp(_patches(block.seen)[masked]) == 0
        assert (block.outlined == outlined).all()
    assert panel.note.startswith(RECONSTRUCTION_NOTE)
