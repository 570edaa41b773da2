"""What a user can put right: exit status 2, one line that names it, and nothing harmed."""

from utils.script import run_script as run_guarded

import contextlib

import numpy as np
import pytest
import torch

from tests.bad_input.cases import KINDS, accepted_cases
from tests.bad_input.files import at, zeros_at
from tests.bad_input.runner import Sandbox
from tests.bad_input.world import save_snapshot, write_world
from tests.conftest import (
    PREDICTION,
    TRAINING,
    cityscapes_names,
    files_of,
    one_line_error,
    run_script,
    save_png,
)

IMAGE = "data/GTA5/images/00002.png"
TARGET = "data/Cityscapes/data"


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory) -> Sandbox:
    with contextlib.suppress(ImportError):
        import onnxruntime  # noqa: F401 - here, because its import leaves a file in the temporary folder
    template = tmp_path_factory.mktemp("bad_input") / "template"
    for name in ("world", "cache", "tmp", "outside"):
        (template / name).mkdir(parents=True)
    write_world(template / "world")
    save_png(template / "outside" / "image.png", np.zeros((48, 96, 3), np.uint8))  # within reach of ../..
    return Sandbox(template, template.parent / "copy")


@pytest.mark.parametrize("kind", KINDS)
def test_bad_input_gets_one_line_and_harms_nothing(kind, sandbox):
    assert not sandbox.refuse(KINDS[kind]())


def test_good_input_is_accepted(sandbox):
    assert not sandbox.accept(accepted_cases())


def test_there_are_enough_cases_and_no_two_are_one():
    titles = [f"{kind}: {case.name}" for kind, cases in KINDS.items() for case in cases()]
    assert len(set(titles)) == len(titles) > 1000


def test_a_refused_run_leaves_an_earlier_run_in_its_folder_usable(world, run_main):
    save_snapshot(world / "snapshots" / "GTA5_4.pth")
    save_png(world / "data/GTA5/labels/00002.png", np.full((48, 80), 77, np.uint8))
    one_line_error(run_main("train_ms", *TRAINING, "--num-steps", "8", "--norm-style", "bn"))
    flags = ("--restore-from", "snapshots/GTA5_4.pth", *PREDICTION)
    result = run_main("generate_plabel_cityscapes", *flags)
    assert result.returncode == 0, "opts.yaml no longer fits the snapshots beside it: " + result.stderr


def test_a_loss_that_is_not_finite_is_named_and_nothing_broken_is_saved(world, run_main):
    flags = (*TRAINING, "--learning-rate", "1e30", "--num-steps", "8", "--log-every", "5")
    one_line_error(
        run_main("train_ms", *flags),
        *("iteration 1", "seg1 nan", ".png", "_leftImg8bit.png", "--learning-rate", "--resume"),
    )
    for file in (world / "snapshots").glob("GTA5_?.pth"):
        state = torch.load(file, weights_only=True)
        assert all(value.isfinite().all() for value in state.values()), file.name


def test_stage_2_without_pseudo_labels_says_how_to_make_them(world, run_main):
    name = cityscapes_names(1)[0]
    named = (f"{TARGET}/pseudo_FULL/train/{name}", "generate_plabel_cityscapes.py")
    one_line_error(run_main("train_ft", *TRAINING), *named)
    named = (f"{TARGET}/pseudo_0.9/train/{name}", "--threshold")
    one_line_error(run_main("train_ft", *TRAINING, "--threshold", "0.9"), *named)


def test_a_full_disk_is_one_line_that_says_so(world, run_main):
    (world / "snapshots").mkdir()
    (world / "snapshots" / "log.jsonl").symlink_to("/dev/full")
    one_line_error(run_main("train_ms", *TRAINING), "log.jsonl", "No space left on device")


# As real processes: what the tests above cannot see, such as other noise on standard error


def test_processes_print_one_line_and_exit_with_2(world):
    result = run_script("train_ms", *TRAINING, "--data-dir", "./nowhere", cwd=world)
    line = one_line_error(result, "nowhere/images: no such folder")
    assert line.startswith("train_ms.py: error: ") and result.stdout == ""


def test_a_worker_process_passes_its_error_on_in_one_line(world):
    at(IMAGE, zeros_at(0.5, 200))(world)
    result = run_script("train_ms", *TRAINING, "--num-steps", "8", "--num-workers", "2", cwd=world)
    assert one_line_error(result, IMAGE, "not a readable image").startswith("train_ms.py: error: ")


def test_an_interrupted_run_says_so_without_a_traceback(capsys):
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as leaving:
        run_guarded(interrupted)
    assert leaving.value.code == 130
    assert capsys.readouterr().err.splitlines()[0].endswith("interrupted")


@pytest.mark.parametrize(
    "script", ["train_ms", "train_ft", "generate_plabel_cityscapes", "evaluate_cityscapes"]
)
def test_help_needs_no_data(script, tmp_path, monkeypatch, run_main):
    monkeypatch.chdir(tmp_path)
    result = run_main(script, "--help")
    assert result.returncode == 0 and "--restore-from" in result.stdout and result.stderr == ""
    assert not files_of(tmp_path)
