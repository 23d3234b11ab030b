"""`anyband sensors` on the command line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from anyband.cli import main
from anyband.sensors.catalogue import get_sensor, list_sensors
from anyband.sensors.sensor import sensor_from_dict


def test_the_list_names_every_sensor(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sensors"]) == 0
    shown = capsys.readouterr().out
    assert [name for name in list_sensors() if name not in shown.split()] == []
    assert "sentinel2-l2a" in shown


def test_the_list_as_json_says_who_has_statistics(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sensors", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert set(rows) == set(list_sensors())
    assert rows["sentinel2-l2a"]["statistics"]
    assert not rows["naip"]["statistics"]
    assert rows["sentinel2-l2a"]["gsd_m"] == [10.0, 20.0, 60.0]


@pytest.mark.parametrize(
    ("sensor", "wanted"),
    [
        ("S2L1C", ["blue_1 (exact)", "0.703 short_wave_infrared_3 (support 0.80)", "DN · 0.0001 − 0.1"]),
        ("sentinel1-grd", ["55,466 µm", "5.405 GHz VV", "10 · log10(DN)", "statistics: smarties_v1"]),
        ("LC08_L1", ["1321.08 / ln(774.885 / (DN · 0.0003342 + 0.1) + 1) (kelvin)", "statistics: none"]),
        ("palsar2", ["cannot be expressed", "2.10 octaves"]),
        ("emit", ["dropped: its centre, 381.006 nm, lies outside"]),
    ],
)
def test_a_sensor_is_shown_with_its_bands(
    sensor: str, wanted: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "240")
    assert main(["sensors", sensor]) == 0
    shown = capsys.readouterr().out
    assert [text for text in wanted if text not in shown] == []


def test_a_sensor_as_json_is_the_sensor_and_its_assignment(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sensors", "landsat8-oli-tirs-l2", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    bands = {entry["band"]: entry for entry in shown.pop("assignment")["bands"]}
    assert sensor_from_dict(shown) == get_sensor("landsat8-oli-tirs-l2")
    assert bands["SR_B4"]["mixing"] == pytest.approx({"green_2": 0.0921, "red_2": 0.908}, abs=5e-4)
    assert (bands["ST_B10"]["origin"], bands["ST_B10"]["mixing"]) == ("dropped", {})


def test_the_ranges_of_a_checkpoint_can_be_used(golden: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = golden / "smarties" / "checkpoint.safetensors"
    assert main(["sensors", "maxar-rgb", "--ranges", str(checkpoint)]) == 0
    assert "blue_3 (exact)" in capsys.readouterr().out


def test_an_unknown_sensor_ends_with_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sensors", "sentinl2-l2a"]) == 2
    shown = capsys.readouterr().err
    assert "did you mean 'sentinel2-l2a'?" in shown
    assert "Traceback" not in shown


def test_a_name_and_a_file_do_not_go_together(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sensors", "naip", "--file", "own.yaml"]) == 2
    assert "not both" in capsys.readouterr().err


def test_an_own_file_is_checked_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(
        "mission: Own\nsource: home\nsensors:\n  own:\n    title: Own\n    unit: count\n    gsd_m: 1\n"
        "    encodings: {dn: {}}\n    bands:\n      - {name: G, low_nm: 500, high_nm: 600}\n"
    )
    assert main(["sensors", "--file", str(path)]) == 0
    assert "own: Own" in capsys.readouterr().out
    path.write_text(path.read_text().replace("gsd_m", "gsd"))
    assert main(["sensors", "--file", str(path)]) == 2
    assert "unknown key 'gsd'; did you mean 'gsd_m'?" in capsys.readouterr().err


def test_the_verb_and_all_its_modules_run_without_torch() -> None:
    script = (
        "import sys, pkgutil, importlib, anyband.sensors as room\n"
        "for module in pkgutil.iter_modules(room.__path__):\n"
        "    if module.name != 'tables': importlib.import_module(f'anyband.sensors.{module.name}')\n"
        "from anyband.cli import main\n"
        "assert main(['sensors', 'naip']) == 0\n"
        "heavy = {'torch', 'rasterio', 'pandas', 'scipy'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
