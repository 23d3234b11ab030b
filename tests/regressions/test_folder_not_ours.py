"""`prepare` once emptied a folder OUT.partial that it had not made, and the target of a link of that name."""

from pathlib import Path

import numpy as np
import pytest
import rasterio

from anyband.data.manifest import ImageEntry, parse_entry
from anyband.data.prepare import PrepareOptions, prepare
from anyband.errors import OutputError

_OPTIONS = PrepareOptions(fractions=(1.0, 0.0, 0.0))


@pytest.fixture
def entries(tmp_path: Path) -> list[ImageEntry]:
    transform = rasterio.Affine(10.0, 0.0, 500_000.0, 0.0, -10.0, 5_000_000.0)
    how = {"driver": "GTiff", "count": 3, "height": 32, "width": 32, "dtype": "uint8", "crs": "EPSG:32631"}
    with rasterio.open(tmp_path / "a.tif", "w", transform=transform, **how) as file:
        file.write(np.random.default_rng(0).integers(1, 200, (3, 32, 32)).astype(np.uint8))
    return [parse_entry({"path": "a.tif", "sensor": "maxar-rgb"}, folder=tmp_path)]


def _kept(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    "names", [["thesis.txt"], ["anyband"], ["lock"], ["ledger.sqlite"], ["store/x.npy", "spool/y"], []]
)
def test_a_folder_that_is_not_ours_is_refused_and_left_as_it_is(tmp_path, entries, names: list[str]) -> None:
    folder = tmp_path / "store.partial"
    folder.mkdir()
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"mine")
    before = _kept(folder)
    with pytest.raises(OutputError, match=r"store\.partial' is in the way: .*move it away, or name another output"):
        prepare(entries, tmp_path / "store", _OPTIONS)
    assert folder.is_dir()
    assert _kept(folder) == before
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("target", ["of others", "ours", "missing"])
def test_a_link_is_not_followed(tmp_path, entries, target: str) -> None:
    if target == "of others":
        (tmp_path / target).mkdir()
        (tmp_path / target / "thesis.txt").write_bytes(b"mine")
    if target == "ours":
        _leave_unfinished(entries, tmp_path / "other")
        (tmp_path / "other.partial").rename(tmp_path / target)
    before = _kept(tmp_path / target)
    (tmp_path / "store.partial").symlink_to(tmp_path / target)
    with pytest.raises(OutputError, match="is in the way"):
        prepare(entries, tmp_path / "store", _OPTIONS)
    assert _kept(tmp_path / target) == before
    assert (tmp_path / "store.partial").is_symlink()


def test_links_inside_of_our_folder_are_not_followed(tmp_path, entries) -> None:
    _leave_unfinished(entries, tmp_path / "store")
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "000000000000.chips").write_bytes(b"mine")
    (tmp_path / "store.partial" / "spool").rename(tmp_path / "spool")
    (tmp_path / "store.partial" / "spool").symlink_to(tmp_path / "kept")
    with pytest.raises(OutputError, match="is in the way"):
        prepare(entries, tmp_path / "store", _OPTIONS)
    assert _kept(tmp_path / "kept") == {"000000000000.chips": b"mine"}


def test_our_own_folder_is_taken_up_and_cleared(tmp_path, entries) -> None:
    _leave_unfinished(entries, tmp_path / "store")
    assert prepare(entries, tmp_path / "store", _OPTIONS).footprints == 1
    assert not (tmp_path / "store.partial").exists()


def test_a_finished_store_beside_a_folder_of_others_leaves_it_alone(tmp_path, entries) -> None:
    prepare(entries, tmp_path / "store", _OPTIONS)
    (tmp_path / "store.partial").mkdir()
    (tmp_path / "store.partial" / "ledger.sqlite").write_bytes(b"mine")
    assert prepare(entries, tmp_path / "store", _OPTIONS).was_complete
    assert _kept(tmp_path / "store.partial") == {"ledger.sqlite": b"mine"}


def _leave_unfinished(entries: list[ImageEntry], out: Path) -> None:
    with pytest.MonkeyPatch.context() as patched, pytest.raises(OutputError, match="stopped"):
        patched.setattr("anyband.data.prepare.StoreWriter.finish", _stopped)
        prepare(entries, out, _OPTIONS)


def _stopped(*_given: object, **_named: object) -> None:
    raise OutputError("stopped")
