"""Damaged inputs of every kind: exit code 2 and one message, or success; never a traceback, a hang, a changed input.

`make test` tries some hundred, the same ones each time; `make fuzz` thousands, drawn anew by its `SEED`.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fuzz.mutations import SCALARS, mutated_bytes, mutated_text, mutated_word

from anyband.cli import main
from anyband.errors import OutputError
from anyband.evaluate.results import read_results, short_id
from anyband.pretraining import plan

Fault = Callable[..., str]

# Times as many cases, and where their seeds start.
_TIMES = int(os.environ.get("ANYBAND_FUZZ_TIMES", "1"))
_FIRST = int(os.environ.get("ANYBAND_FUZZ_SEED", "0")) * 1_000_000


def _cases(count: int) -> range:
    return range(_FIRST, _FIRST + count * _TIMES)


_PREPARE = ("--workers", "1", "--quiet", "--out", "HERE/out")
_MODEL = ("--checkpoint", "WHOLE/model.safetensors", "--sensor", "maxar-rgb", "--no-cache", "--no-results")
_KNN, _SEGMENT = (("evaluate", protocol, *_MODEL, "--data") for protocol in ("knn", "segment"))
_PRETRAIN = ("--data", "HERE/in/store", "--out", "HERE/out")
# Name → (files that are damaged, one at a time; the other inputs; the command; cases in `make test`).
_TARGETS: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...], int]] = {
    "recipe": (("recipe.yaml",), (), ("pretrain", "HERE/in/recipe.yaml", *_PRETRAIN), 25),
    "evaluation": (("evaluation.yaml",), (), ("evaluate", "knn", "HERE/in/evaluation.yaml", "--no-results"), 25),
    "labelled table": (("table.csv", "labelled/field/0.png"), ("labelled",), (*_KNN, "HERE/in/table.csv"), 20),
    "label rasters": (
        ("maps.csv", "labels.tif"),
        ("0.tif", "1.tif", "labels.tif"),
        (*_SEGMENT, "HERE/in/maps.csv"),
        15,
    ),
    "package": (("gpkg.csv", "fields.gpkg"), ("0.tif", "1.tif"), (*_SEGMENT, "HERE/in/gpkg.csv"), 10),
    "geojson": (("fields.geojson",), ("0.tif", "1.tif", "geojson.csv"), (*_SEGMENT, "HERE/in/geojson.csv"), 15),
    "geoparquet": (("fields.parquet",), ("0.tif", "1.tif", "parquet.csv"), (*_SEGMENT, "HERE/in/parquet.csv"), 10),
    "results": (("results.parquet",), (), ("results", "HERE/in/results.parquet", "--against", "RESULT"), 20),
    "sensor": (("mine.yaml",), (), ("sensors", "--file", "HERE/in/mine.yaml"), 30),
    "manifest": (("m.csv",), ("0.tif", "1.tif"), ("prepare", "HERE/in/m.csv", *_PREPARE), 20),
    "list": (("m.yaml",), ("0.tif", "1.tif"), ("prepare", "HERE/in/m.yaml", *_PREPARE), 15),
    "parquet": (("m.parquet",), ("0.tif", "1.tif"), ("prepare", "HERE/in/m.parquet", *_PREPARE), 15),
    "geotiff": (("0.tif", "1.tif"), (), ("prepare", "HERE/in/*.tif", "--sensor", "maxar-rgb", *_PREPARE), 20),
    "netcdf": (("a.nc",), (), ("prepare", "HERE/in/a.nc", "--sensor", "maxar-rgb", *_PREPARE), 15),
    "png": (("a.png",), (), ("prepare", "HERE/in/a.png", "--sensor", "maxar-rgb", *_PREPARE), 10),
    "envi": (("a.hdr", "a.img"), (), ("prepare", "HERE/in/a.img", "--sensor", "maxar-rgb", *_PREPARE), 15),
    "shown store": (
        ("store/store.json", "store/index.parquet"),
        ("store",),
        ("prepare", "--show", "HERE/in/store"),
        40,
    ),
    "checkpoint": (
        ("model.safetensors",),
        (),
        ("sensors", "sentinel2-l2a", "--ranges", "HERE/in/model.safetensors"),
        30,
    ),
}


def _is_text(content: bytes) -> bool:
    return b"\0" not in content and content.isascii()


def _damage(path: Path, rng: np.random.Generator) -> None:
    content = path.read_bytes()
    if _is_text(content) and rng.random() < 0.9:
        text = mutated_text(content.decode(), rng)
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
    else:
        path.write_bytes(mutated_bytes(content, rng))


def _clear(folder: Path) -> None:
    for left in folder.iterdir():
        shutil.rmtree(left) if left.is_dir() else left.unlink()


def _note(faults: dict[str, str], fault: str, case: object) -> None:
    """Keep the first case of each kind of fault."""
    if fault:
        faults.setdefault(fault.partition(": ")[0], f"seed {case}: {fault[:1000]}")


@pytest.fixture
def nothing_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is trained or scored: recipes are read and checked."""
    from anyband.errors import InputError

    def nothing(*_: object, **__: object) -> None:
        raise InputError("nothing is trained here")

    monkeypatch.setattr("anyband.pretraining.loop.pretrain", nothing)
    monkeypatch.setattr("anyband.evaluate.run.run_protocol", nothing)


@pytest.mark.usefixtures("nothing_is_trained")
@pytest.mark.parametrize("target", _TARGETS)
def test_a_damaged_file_gives_one_message_or_success(target: str, fault_of: Fault, whole: Path, tmp_path: Path) -> None:
    files, others, words, count = _TARGETS[target]
    result = short_id(read_results(whole / "results.parquet")[0].id)
    faults = dict[str, str]()
    for seed in _cases(count):
        rng = np.random.default_rng([seed, *target.encode()])
        inputs = tmp_path / "in"
        inputs.mkdir()
        for name in {*files, *others}:
            if (whole / name).is_dir():
                shutil.copytree(whole / name, inputs / name, dirs_exist_ok=True)
            else:
                (inputs / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(whole / name, inputs / name)
        _damage(inputs / str(rng.choice(files)), rng)
        told = [
            word.replace("HERE", str(tmp_path)).replace("WHOLE", str(whole)).replace("RESULT", result) for word in words
        ]
        _note(faults, fault_of(*told, inputs=inputs), seed)
        _clear(tmp_path)
    assert not faults, "\n".join(faults.values())


_COMMANDS = (
    ("prepare", "WHOLE/0.tif", "--sensor", "maxar-rgb", "--out", "HERE/out", "--workers", "1", "--quiet"),
    ("prepare", "WHOLE/0.tif", "--sensor", "rgb", "--bands", "R=1;G=2", "--out", "HERE/out", "--workers", "1"),
    ("prepare", "WHOLE/m.csv", "--out", "HERE/out", "--chip-px", "16", "--splits", "0.5,0.2,0.3", "--seed", "1"),
    ("prepare", "--show", "WHOLE/store"),
    ("pretrain", "WHOLE/recipe.yaml", "--data", "WHOLE/store", "--out", "HERE/out", "optim.epochs=5", "model.depth=1"),
    ("pretrain", "smarties_tiny", "--data", "WHOLE/store", "--out", "HERE/out", "data.pairs=[[a, b]]", "seed=1"),
    ("evaluate", "knn", "--data", "WHOLE/labelled", "--sensor", "rgb", "--split", "0.2,0.4", "--k", "3"),
    ("evaluate", "segment", "WHOLE/evaluation.yaml", "fit.epochs=1", "head.kind=linear"),
    ("sensors", "sentinel2-l2a"),
    ("sensors", "--file", "WHOLE/mine.yaml", "--ranges", "WHOLE/model.safetensors"),
    ("simulate", "--out", "HERE/out", "--places", "0", "--gsd", "maxar-rgb=2.5", "--sensors", "a,b"),
    ("results", "HERE/results.parquet", "--metric", "accuracy"),
    ("verify", "WHOLE/model.safetensors", "WHOLE/0.tif", "--tolerance", "1e-5"),
    ("embed", "WHOLE/0.tif", "--sensor", "maxar-rgb", "--checkpoint", "m", "--out", "HERE/o.tif", "--tile", "16"),
)


@pytest.mark.usefixtures("nothing_is_trained")
def test_odd_words_give_one_message_or_success(
    fault_of: Fault, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Words such as `../..` stay within the folder of the test.
    here = tmp_path / "a" / "b" / "c"
    faults = dict[str, str]()
    for seed in _cases(60):
        rng = np.random.default_rng([seed, 0])
        words = [*_COMMANDS[int(rng.integers(len(_COMMANDS)))]]
        for _ in range(int(rng.integers(1, 3))):
            place = int(rng.integers(1, len(words)))
            scalar = str(rng.choice(SCALARS)).replace("\0", "")
            match int(rng.integers(4)):
                case 0:
                    words[place] = scalar
                case 1:
                    words.insert(place, scalar)
                case 2:
                    words[place] = words[place].partition("=")[0] + "=" + scalar
                case _:
                    words[place] = mutated_word(words[place], rng).replace("\0", "")
        here.mkdir(parents=True)
        monkeypatch.chdir(here)
        told = [word.replace("HERE", str(tmp_path)).replace("WHOLE", str(whole)) for word in words]
        _note(faults, fault_of(*told, inputs=whole), f"{seed}: {told}")
        _clear(tmp_path)
    assert not faults, "\n".join(faults.values())


def _stopped(*_: object, **__: object) -> None:
    raise OutputError("stopped")


@pytest.fixture(scope="module")
def half_done(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run after its first step, and of a store under construction."""
    folder, save = tmp_path_factory.mktemp("half"), plan.save_step
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("anyband.pretraining.loop.save_checkpoint", _stopped)
        patched.setattr(
            "anyband.pretraining.loop.save_step", lambda *words: save(*words) if words[1].step < 2 else _stopped()
        )
        patched.setattr("anyband.data.prepare.StoreWriter.finish", _stopped)
        for words in _HALF_DONE.values():
            told = [word.replace("HERE", str(folder)).replace("WHOLE", str(whole)) for word in words]
            assert main(told) == 2
    return folder


_HALF_DONE = {
    "run": ("pretrain", "WHOLE/recipe.yaml", "--data", "WHOLE/store", "--out", "HERE/run", "--quiet"),
    "store": ("prepare", "WHOLE/m.csv", "--out", "HERE/store", "--workers", "1", "--quiet"),
}


@pytest.mark.parametrize(("what", "count"), [("run", 3), ("store", 8)])
def test_a_damaged_half_of_a_run_is_gone_on_with_or_refused(
    what: str, count: int, half_done: Path, fault_of: Fault, whole: Path, tmp_path: Path
) -> None:
    faults = dict[str, str]()
    for seed in _cases(count):
        rng = np.random.default_rng([seed, *what.encode()])
        shutil.copytree(half_done, tmp_path, dirs_exist_ok=True)
        files = sorted(
            path for path in tmp_path.glob(f"{what}*/**/*") if path.is_file() and "tensorboard" not in path.parts
        )
        _damage(files[int(rng.integers(len(files)))], rng)
        told = [word.replace("HERE", str(tmp_path)).replace("WHOLE", str(whole)) for word in _HALF_DONE[what]]
        _note(faults, fault_of(*told, inputs=whole), seed)
        _clear(tmp_path)
    assert not faults, "\n".join(faults.values())
