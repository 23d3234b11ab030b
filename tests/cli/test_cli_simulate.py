"""`anyband simulate`."""

from pathlib import Path

import pytest

from anyband.cli import main


def test_it_writes_an_archive_and_says_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "archive"
    words = ["--places", "1", "--footprint", "120", "--sensors", "sentinel2-l2a,sentinel1-grd", "--preview"]
    assert main(["simulate", "--out", str(out), *words]) == 0
    assert f"{out / 'manifest.csv'}: 1 place, 2 sensors, 1 date" in capsys.readouterr().out
    assert (out / "preview.png").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sensors", "sentinel2-l2b"], "did you mean 'sentinel2-l2a'"),
        (["--sensors", "capella-x", "--gsd", "capella-x=10"], "the simulator knows backscatter at C band"),
        (["--gsd", "maxar-rgb"], "--gsd takes NAME=METRES"),
        (["--footprint", "955"], "no multiple of the pixel size"),
        (["--places", "0"], "num_places must be at least 1"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["simulate", "--out", str(tmp_path / "archive"), "--places", "1", *words]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
