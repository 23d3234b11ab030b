"""How many of our functions stand between a question and its answer, counted while three journeys are made.

    python benchmarks/journeys.py [--only NAME ...] [--list] [--folder FOLDER]

- band → loss: `anyband.pretrain` on a chip store, one step, up to the moment at which the gradient of its loss is asked
  for. `pretrain, whole` goes on to the finished run.
- scene → GeoTIFF: `anyband embed` on a GeoTIFF.
- labelled data → score: `anyband evaluate segment` on maps of two classes, and `anyband evaluate knn` on images.

A function counts once, when it is entered by a real call: a `def` in a file of the package, generators and properties
included; lambdas, comprehensions, class bodies and generated methods are not. Each journey is made in a process of its
own, in which all modules of the package have been imported before, so that what runs while a module is imported does
not count, and what is computed once in a process does. Threads that the journey starts count too.

`--list` prints the functions in the order in which they were first entered. `--folder` keeps the small inputs, and uses
them again.
"""

import argparse
import contextlib
import importlib
import inspect
import io
import json
import os
import pkgutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import numpy as np
import rasterio
import torch
from measure import circumstances, exit_code_of, report

import anyband
from anyband.cli import main as command
from anyband.errors import InputError

_PACKAGE = Path(anyband.__file__).resolve().parent
_SENSOR = "sentinel2-l2a"
# chosen: the smallest that every journey can be made with; what is counted does not depend on it.
_PLACES = 12
_WORDS = (
    *("model.embed_dim=48", "model.depth=4", "model.num_heads=3", "model.decoder_embed_dim=32"),
    *("model.decoder_depth=1", "model.decoder_num_heads=2", "optim.batch_size=2", "optim.steps=1"),
    *("optim.precision=32-true", "run.accelerator=cpu", "run.devices=1", "run.panel_every_steps=0"),
)


class Entered:
    """The functions of the package that were entered, in their order, by every thread that started meanwhile."""

    def __init__(self) -> None:
        # By identity: codes of two files may be equal.
        self.codes: dict[int, CodeType] = {}
        self._ours: dict[str, bool] = {}
        self._open = False
        self._marked = 0

    def start(self) -> None:
        """Begin to count."""
        self._open = True
        threading.setprofile(self._enter)
        sys.setprofile(self._enter)

    def stop(self) -> None:
        """End; what other threads still enter does not count."""
        self._open = False
        sys.setprofile(None)
        threading.setprofile(None)

    def mark(self) -> None:
        """Remember what has been entered so far."""
        self._marked = len(self.codes)

    def back_to_mark(self) -> None:
        """End, and forget what was entered after the last mark."""
        self.stop()
        self.codes = dict(list(self.codes.items())[: self._marked])

    def functions(self) -> list[str]:
        """Name what was entered: file and function, in the order of first entry."""
        return [f"{_file_of(code)}: {code.co_qualname}" for code in self.codes.values()]

    def num_files(self) -> int:
        """Count the files."""
        return len({code.co_filename for code in self.codes.values()})

    def _enter(self, frame: FrameType, event: str, _: object) -> None:
        if event == "call" and self._open and self._counts(frame.f_code):
            self.codes.setdefault(id(frame.f_code), frame.f_code)

    def _counts(self, code: CodeType) -> bool:
        name = code.co_filename
        if name not in self._ours:
            self._ours[name] = not name.startswith("<") and Path(name).resolve().is_relative_to(_PACKAGE)
        # Bodies of classes and modules are not optimised; lambdas and comprehensions are called `<…>`.
        return self._ours[name] and bool(code.co_flags & inspect.CO_OPTIMIZED) and not code.co_name.startswith("<")


def _file_of(code: CodeType) -> str:
    return str(Path(code.co_filename).resolve().relative_to(_PACKAGE))


def _import_everything() -> None:
    for module in pkgutil.walk_packages(anyband.__path__, "anyband."):
        if not module.name.endswith("__main__"):
            with contextlib.suppress(ImportError):
                importlib.import_module(module.name)


def make_inputs(folder: Path) -> None:
    """Make the small inputs of all journeys: images, a chip store, a checkpoint, labelled images and maps."""
    images, store, run = folder / "images", folder / "store", folder / "run"
    if (run / "encoder.safetensors").is_file():
        return
    sensors = f"{_SENSOR},sentinel1-grd"
    size = ("--detail", "5", "--clouds", "0", "--edges", "0", "--seed", "1")
    _command("simulate", "--out", str(images), "--places", str(_PLACES), "--sensors", sensors, *size)
    _command("prepare", str(images / "manifest.csv"), "--out", str(store), "--workers", "1", "--quiet")
    _command("pretrain", "smarties_tiny", *_WORDS, "--data", str(store), "--out", str(run), "--quiet")
    chosen = sorted((images / "images").glob(f"*/{_SENSOR}_*.tif"))
    parts = ["train"] * (_PLACES // 2) + ["val"] * (_PLACES // 4) + ["test"] * (_PLACES // 4)
    classes, maps = ["path,label,split"], ["image,label,split"]
    for number, (image, part) in enumerate(zip(chosen, parts, strict=True)):
        label = folder / f"label_{number}.tif"
        _write_label(image, label)
        classes.append(f"{image},{'even' if number % 2 == 0 else 'odd'},{part}")
        maps.append(f"{image},{label},{part}")
    (folder / "classes.csv").write_text("\n".join(classes) + "\n", encoding="utf-8")
    (folder / "maps.csv").write_text("\n".join(maps) + "\n", encoding="utf-8")


def _write_label(image: Path, label: Path) -> None:
    """Write a map of two classes on the grid of an image: where its last band is over the median."""
    with rasterio.open(image) as file:
        band, profile = file.read(file.count), file.profile
    for key in ("nodata", "interleave"):
        profile.pop(key, None)
    with rasterio.open(label, "w", **(profile | {"count": 1, "dtype": "uint8"})) as file:
        file.write((band > np.median(band)).astype(np.uint8), 1)


def _command(*words: str) -> None:
    """Do a verb without its output.

    Raises:
        InputError: it ended with an error.
    """
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = command(words)
    if code != 0:
        raise InputError(f"`anyband {' '.join(words)}` ended with code {code}: {said.getvalue()}")


def _band_to_loss(folder: Path, out: Path, entered: Entered) -> None:
    """Pre-train, and keep what was entered before the gradient of the step's loss was asked for.

    The last time counts: a step that is only timed, or measured for its memory, comes before it.
    """
    backward = torch.autograd.backward

    def marked(*arguments: Any, **options: Any) -> None:
        entered.mark()
        backward(*arguments, **options)

    torch.autograd.backward = marked
    try:
        _pretrain(folder, out, entered)
    finally:
        torch.autograd.backward = backward
    entered.back_to_mark()


def _pretrain(folder: Path, out: Path, entered: Entered) -> None:
    recipe = anyband.load_recipe("smarties_tiny", _WORDS)
    entered.start()
    anyband.pretrain(recipe, data=folder / "store", out=out / "run", shown=False)


def _scene_to_geotiff(folder: Path, out: Path, entered: Entered) -> None:
    scene = min((folder / "images" / "images").glob(f"*/{_SENSOR}_*.tif"))
    words = ("embed", str(scene), "--sensor", _SENSOR, "--out", str(out / "features.tif"))
    entered.start()
    _command(*words, "--checkpoint", str(folder / "run" / "encoder.safetensors"))


def _labels_to_segment(folder: Path, out: Path, entered: Entered) -> None:
    words = ("segment", "--epochs", "1", "head.channels=16", "data.classes={0: low, 1: high}", "fit.encoder=frozen")
    entered.start()
    _evaluate(folder, out, "maps.csv", *words)


def _labels_to_knn(folder: Path, out: Path, entered: Entered) -> None:
    entered.start()
    _evaluate(folder, out, "classes.csv", "knn", "--k", "1")


def _evaluate(folder: Path, out: Path, data: str, *words: str) -> None:
    checkpoint = ("--checkpoint", str(folder / "run" / "encoder.safetensors"))
    outputs = ("--results", str(out / "results.parquet"), "--cache", str(out / "cache"))
    _command("evaluate", *words, *checkpoint, "--data", str(folder / data), "--sensor", _SENSOR, *outputs)


Journey = Callable[[Path, Path, Entered], None]

JOURNEYS: dict[str, Journey] = {
    "band → loss": _band_to_loss,
    "pretrain, whole": _pretrain,
    "scene → GeoTIFF": _scene_to_geotiff,
    "labelled data → score, segment": _labels_to_segment,
    "labelled data → score, knn": _labels_to_knn,
}


def make_journey(name: str, folder: Path) -> dict[str, Any]:
    """Make one journey in this process and count.

    Args:
        name: of the journey.
        folder: of `make_inputs`.

    Returns:
        Counts, and the functions in the order in which they were entered.
    """
    _import_everything()
    entered = Entered()
    with tempfile.TemporaryDirectory() as out:
        try:
            JOURNEYS[name](folder, Path(out), entered)
        finally:
            entered.stop()
    functions = entered.functions()
    return {"journey": name, "functions": len(functions), "files": entered.num_files(), "entered": functions}


def _in_own_process(name: str, folder: Path) -> dict[str, Any]:
    words = [sys.executable, __file__, "--folder", str(folder), "--one", name]
    done = subprocess.run(
        words, stdout=subprocess.PIPE, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    if done.returncode != 0:
        raise InputError(f"the journey '{name}' ended with code {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _work(arguments: argparse.Namespace, folder: Path) -> None:
    if arguments.one is not None:
        print(json.dumps(make_journey(arguments.one, folder)))
        return
    make_inputs(folder)
    found = [_in_own_process(name, folder) for name in arguments.only or JOURNEYS]
    if arguments.list:
        for one in found:
            print(f"{one['journey']}:", *(f"  {function}" for function in one["entered"]), sep="\n")
    rows = [{key: value for key, value in one.items() if key != "entered"} for one in found]
    sources = sorted(_PACKAGE.rglob("*.py"))
    lines = sum(file.read_text(encoding="utf-8").count("\n") for file in sources)
    package = {"package": {"files": len(sources), "lines": lines}}
    report("journeys", rows, {**circumstances(("torch",)), **package, "settings": {"places": _PLACES}})


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(JOURNEYS), metavar="NAME", help=", ".join(JOURNEYS))
    parser.add_argument("--list", action="store_true", help="print the functions in the order of their first entry")
    parser.add_argument("--folder", type=Path, help="where the small inputs are kept (default: thrown away)")
    parser.add_argument("--one", choices=list(JOURNEYS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        sys.exit(exit_code_of(lambda: _work(arguments, folder)))


if __name__ == "__main__":
    main()
