"""Tiny data sets in the published layouts, and the scripts run on them."""

from utils.script import run_script as run_guarded

import contextlib
import importlib.util
import io
import logging
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import png
import pytest
import torch
import yaml
from PIL import Image

# Processes of pytest-xdist share the cores, and so do the scripts that their tests start.
WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if WORKERS > 1:
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // WORKERS))
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

ROOT = Path(__file__).resolve().parent.parent
# Label ids in train id order, written out here and not imported: the tests are to notice a wrong table.
LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
TRAIN_IDS = {label: train for train, label in enumerate(LABEL_IDS)}
IDS_WITHOUT_CLASS = tuple(i for i in range(35) if i not in TRAIN_IDS)
CITIES = ("aachen", "zurich")
PREDICTION = ("--input-size", "72,40", "--batchsize", "2", "--num-workers", "0", "--cpu")
TRAINING = (
    *("--arch", "mini", "--restore-from", "none", "--cpu", "--num-workers", "0", "--batch-size", "2"),
    *("--input-size", "80,48", "--crop-size", "64,32", "--input-size-target", "72,40"),
    *("--num-steps", "4", "--save-pred-every", "2", "--log-every", "1"),
)


def save_png(path: Path, pixels: np.ndarray, palette: Sequence[int] | None = None) -> Path:
    """Write an array as PNG, with a palette as a palette image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if palette is not None:
        image.putpalette(palette)
    image.save(path)
    return path


def save_by_pypng(path: Path, pixels: np.ndarray, **options: object) -> None:
    """Write (H, W, C) uint8 or uint16 by an encoder in pure Python, which also writes 16-bit colour."""
    height, width, channels = pixels.shape
    options |= dict(greyscale=channels < 3, alpha=channels in (2, 4), bitdepth=8 * pixels.dtype.itemsize)
    writer = png.Writer(width, height, **options)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        if options.get("interlace"):
            writer.write_array(file, pixels.ravel().tolist())
        else:
            writer.write(file, pixels.reshape(height, -1).tolist())


def pixels_of(path: Path) -> np.ndarray:
    """The ids in a file of labels or predictions, the colours in a coloured one."""
    image = Image.open(path)
    return np.asarray(image.convert("RGB") if path.stem.endswith(("_color", "_heatmap")) else image)


def describe(path: Path, **description: object) -> Path:
    """Write a description of own data; its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(description, sort_keys=False))
    return path


def label_blocks(
    rng: np.random.Generator, size: tuple[int, int], ids: Iterable[int] = LABEL_IDS, block: int = 8
) -> np.ndarray:
    """Label ids (H, W) uint8 in random square blocks."""
    height, width = size
    cells = rng.choice(np.array(list(ids), np.uint8), (-(-height // block), -(-width // block)))
    return cells.repeat(block, 0).repeat(block, 1)[:height, :width]


def picture(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Random pixels (H, W, 3) uint8."""
    return rng.integers(0, 256, (*size, 3), np.uint8)


def write_gta5(root: Path, count: int = 4, size: tuple[int, int] = (48, 80), seed: int = 1) -> Path:
    """GTA5's layout: images/00001.png with palette labels/00001.png."""
    rng = np.random.default_rng(seed)
    for number in range(1, count + 1):
        save_png(root / "images" / f"{number:05}.png", picture(rng, size))
        labels = label_blocks(rng, size, (*LABEL_IDS, 0, 34))
        save_png(root / "labels" / f"{number:05}.png", labels, palette=rng.integers(0, 256, 768).tolist())
    return root


def cityscapes_names(count: int) -> list[str]:
    """`count` image names of each city, in sorted order."""
    return [f"{city}/{city}_{n:06}_000019_leftImg8bit.png" for city in CITIES for n in range(count)]


def write_cityscapes(
    root: Path, splits: Sequence[str] = ("train", "val"), count: int = 2, size: tuple[int, int] = (48, 96)
) -> Path:
    """Cityscapes' layout with `count` images and fine labels in each of two cities."""
    rng = np.random.default_rng(2)
    for split in splits:
        for name in cityscapes_names(count):
            save_png(root / "leftImg8bit" / split / name, picture(rng, size))
            label = name.replace("leftImg8bit", "gtFine_labelIds")
            save_png(root / "gtFine" / split / label, label_blocks(rng, size, (*LABEL_IDS, 0, 1)))
    return root


def write_world(folder: Path) -> Path:
    """A working folder with ./data as the scripts expect it."""
    write_gta5(folder / "data" / "GTA5")
    write_cityscapes(folder / "data" / "Cityscapes" / "data")
    return folder


@pytest.fixture
def world(tmp_path, monkeypatch) -> Path:
    """A working folder with data of both domains, made the current one."""
    write_world(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def float64():
    """torch's default dtype is float64 within the test."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def load_script(name: str) -> ModuleType:
    """A script of the project as a module, also where a package has the same name."""
    module = importlib.import_module(name)
    if not hasattr(module, "__path__"):
        return module
    spec = importlib.util.spec_from_file_location(f"{name}_script", ROOT / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_script(name: str, *flags: str, cwd: Path) -> subprocess.CompletedProcess:
    """Run a script of the project as a process of its own, as a user does."""
    return subprocess.run(
        [sys.executable, str(ROOT / f"{name}.py"), *map(str, flags)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},  # see `one_thread`
    )


@pytest.fixture
def one_thread():
    """torch computes in one thread: on networks this small more of them mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def run_main(monkeypatch, capsys, one_thread):
    """Run a script within the test process: the same result as `run_script`, without the start-up."""

    def run(name: str, *flags: str) -> subprocess.CompletedProcess:
        argv = [f"{name}.py", *map(str, flags)]
        monkeypatch.setattr(sys, "argv", argv)
        root = logging.getLogger()
        handlers, level = root.handlers[:], root.level
        capsys.readouterr()
        status = 0
        try:
            run_guarded(load_script(name).main)
        except SystemExit as leaving:
            status = leaving.code
        finally:
            root.handlers[:], root.level = handlers, level
        output, errors = capsys.readouterr()
        return subprocess.CompletedProcess(argv, status, output, errors)

    return run


def one_line_error(result: subprocess.CompletedProcess, *named: str) -> str:
    """Assert exit status 2 and a single line on standard error that names all of `named`; the line."""
    assert result.returncode == 2, result.stderr + result.stdout
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    for text in named:
        assert str(text) in lines[0], f"{text} is not named in: {lines[0]}"
    return lines[0]


def files_of(folder: Path) -> dict[Path, bytes]:
    """Every file under a folder with what it holds."""
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def run_in(folder: Path, name: str, *flags: str) -> subprocess.CompletedProcess:
    """`run_main` in `folder`, for fixtures that live longer than a test."""
    argv, here, threads = sys.argv, Path.cwd(), torch.get_num_threads()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    output, errors, status = io.StringIO(), io.StringIO(), 0
    sys.argv = [f"{name}.py", *map(str, flags)]
    os.chdir(folder)
    torch.set_num_threads(1)
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            run_guarded(load_script(name).main)
    except SystemExit as leaving:
        status = leaving.code
    finally:
        sys.argv = argv
        os.chdir(here)
        torch.set_num_threads(threads)
        root.handlers[:], root.level = handlers, level
    return subprocess.CompletedProcess([name, *flags], status, output.getvalue(), errors.getvalue())


def run_chain(folder: Path, steps: dict[str, Sequence[str]]) -> dict[str, subprocess.CompletedProcess]:
    """Run scripts one after another, none of which may fail; what each of them said, by title."""
    said = {}
    for title, (name, *flags) in steps.items():
        said[title] = run_in(folder, name, *flags)
        assert said[title].returncode == 0 and said[title].stderr == "", said[title].stderr
    return said


def make_unsure(snapshot: Path, gain: float = 1.0) -> None:
    """Give an untrained snapshot classifiers that are sure in some places and unsure in others."""
    state = torch.load(snapshot, weights_only=True)
    for layer in ("layer5", "layer6"):
        state[f"{layer}.head.1.weight"].normal_(std=gain, generator=torch.Generator().manual_seed(0))
        state[f"{layer}.bottleneck.2.bias"] += 1.5
    torch.save(state, snapshot)


def iou_of_files(labels: Iterable[np.ndarray], predictions: Iterable[np.ndarray], classes: int):
    """Confusion matrix and IoU of train ids, 255 without a label, counted here and not by the project."""
    matrix = np.zeros((classes, classes), np.int64)
    for label, prediction in zip(labels, predictions, strict=True):
        np.add.at(matrix, (label[label < 255], prediction[label < 255]), 1)
    with np.errstate(invalid="ignore"):
        return matrix, np.diag(matrix) / (matrix.sum(0) + matrix.sum(1) - np.diag(matrix))
