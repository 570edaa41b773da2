"""Runs that are killed, stopped or out of disk: what they leave, and that resuming completes them exactly."""

import json
import random
import shutil
import signal
import struct
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from tensorboardX.proto.event_pb2 import Event

from engine.resume import check_resumable, load_state, restore, restore_process, save_state
from tests.conftest import (
    TRAINING,
    cityscapes_names,
    files_of,
    label_blocks,
    one_line_error,
    run_in,
    save_png,
    write_world,
)
from tests.killed import PLACES, Child, run_child
from trainer_ms import AD_Trainer
from utils.distributed import SINGLE_PROCESS
from utils.options import stage1_args

STAGE1 = (
    *("--lambda-kl-target", "0.1", "--lambda-me-target", "0.05", "--reg-start", "3", "--lambda-seg", "0.5"),
    *("--use-se", "--norm-style", "gn", "--drop", "0.3", "--class-balance", "--often-balance"),
    *("--only-hard-label", "80", "--max-value", "7", "--warm-up", "2"),
)
STAGE2 = (
    *("--use-se", "--train_bn", "--drop", "0.3", "--pseudo-dir", "./pseudo"),
    *("--lambda-adv-target1", "0", "--lambda-adv-target2", "0"),
)
SMALL = (*TRAINING, "--crop-size", "32,32", "--save-num-images", "1")
RUN = (
    *(*SMALL, "--num-steps", "6", "--save-pred-every", "2", "--keep", "2", "--save-state-every", "2"),
    *("--eval-every", "2", "--keep-best", "--random-scale"),
)
SCRIPTS = {
    "stage 1": ("train_ms", *RUN, *STAGE1),
    "online self-training": (
        *("train_ms", *RUN, "--self-training", "--lambda-mask", "1", "--drop", "0.3", "--norm-style", "bn"),
        *("--lambda-adv-target1", "0", "--lambda-adv-target2", "0", "--save-state-every", "1"),
    ),
    "stage 2, gradient accumulation, worker processes": (
        *("train_ft", *RUN, *STAGE2, "--iter-size", "2", "--num-workers", "1", "--autoaug"),
        *("--norm-style", "bn", "--batch-size", "1", "--save-state-every", "1", "--num-steps-stop", "4"),
    ),
}
KILLS = 2  # of each script, at moments drawn anew every time


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    """A working folder with the data of both stages."""
    world = write_world(tmp_path_factory.mktemp("resume"))
    rng = np.random.default_rng(0)
    for name in cityscapes_names(2):
        save_png(world / "pseudo" / name, label_blocks(rng, (48, 96), (*range(19), 255)))
    return world


@pytest.fixture(scope="module")
def uninterrupted(start) -> Callable[[str], tuple[Path, float]]:
    """The folder of an uninterrupted run of a script, and how many seconds it took."""
    done = {}

    def run(title: str) -> tuple[Path, float]:
        if title not in done:
            folder = start / "whole" / title.replace(", ", "-")
            began = time.monotonic()
            child = run_child(start, *SCRIPTS[title], *folders(folder))
            assert child.status == 0, child.errors
            done[title] = folder, time.monotonic() - began
        return done[title]

    return run


@pytest.fixture(scope="module")
def short(start) -> Path:
    """The folder of a run of two iterations."""
    result = run_in(start, "train_ms", *SMALL, *folders(start / "short"), "--num-steps-stop", "2")
    assert result.returncode == 0, result.stderr
    return start / "short"


@pytest.fixture
def trained(start, short, tmp_path, monkeypatch) -> Path:
    """A copy of that folder; the working folder is the current one."""
    monkeypatch.chdir(start)
    return shutil.copytree(short, tmp_path / "run")


def folders(folder: Path) -> tuple[str, ...]:
    return "--snapshot-dir", str(folder), "--log-dir", str(folder / "board")


def what_counts(folder: Path) -> dict[str, bytes]:
    """Every file of a run but those that hold times or folders: its starts and flags, TensorBoard's files."""
    files = {str(path.relative_to(folder)): content for path, content in files_of(folder).items()}
    left_out = ("run.yaml", "opts.yaml", "training_state.pt")
    return {name: c for name, c in files.items() if name not in left_out and not name.startswith("board")}


def assert_same_end(folder: Path, expected: Path) -> None:
    """Every file is the same to the byte, and so is everything in the saved state."""
    found, wanted = what_counts(folder), what_counts(expected)
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if found[name] != wanted[name]] == []
    states = [torch.load(run / "training_state.pt", weights_only=True) for run in (folder, expected)]
    for state in states:
        del state["options"]
    assert_equal(*states)
    assert scalars(folder) == scalars(expected)


def assert_equal(found, expected) -> None:
    """Nested dicts and lists of tensors and numbers are the same to the bit."""
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            assert_equal(found[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, two in zip(found, expected, strict=True):
            assert_equal(one, two)
    elif isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype and torch.equal(found, expected)
    else:
        assert found == expected


def scalars(folder: Path) -> dict[tuple[str, int], float]:
    """What TensorBoard shows: of each name and step the value written last, without purged ones."""
    shown = {}
    files = sorted(folder.glob("board/*/*tfevents*"), key=lambda path: path.stat().st_mtime_ns)
    assert files
    for path in files:
        for event in events(path.read_bytes()):
            if event.HasField("session_log"):
                shown = {key: value for key, value in shown.items() if key[1] < event.step}
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    shown[value.tag, event.step] = value.simple_value
    return shown


def events(data: bytes):
    """The records of a TensorBoard file that are complete: length, its check, content, its check."""
    place = 0
    while place + 12 <= len(data):
        (length,) = struct.unpack_from("<Q", data, place)
        content = data[place + 12 : place + 12 + length]
        place += 16 + length
        if place <= len(data):
            yield Event.FromString(content)


def finish(world: Path, script: tuple, folder: Path) -> Child:
    """Resume a run and let it end."""
    child = run_child(world, *script, *folders(folder), "--resume")
    assert child.status == 0, child.errors
    return child


@pytest.mark.parametrize("title", SCRIPTS)
def test_a_run_killed_at_any_moment_ends_as_one_that_was_not(title, uninterrupted, start, tmp_path):
    expected, seconds = uninterrupted(title)
    script, folder, moments = SCRIPTS[title], tmp_path / "run", random.Random()
    for _ in range(KILLS):
        moment = moments.uniform(0.2 * seconds, 0.7 * seconds)  # before, inside and after saves
        child = run_child(start, *script, *folders(folder), "--resume", kill=moment)
        if child.status == 0:  # it ended before
            break
        assert child.status == -signal.SIGKILL, child.errors
    finish(start, script, folder)
    assert_same_end(folder, expected)


@pytest.mark.parametrize("first", [True, False])
def test_a_run_killed_inside_saves_ends_as_one_that_was_not(first, uninterrupted, start, tmp_path):
    """At each place once: at the first save, or at one drawn anew."""
    expected, _ = uninterrupted("stage 1")
    script, folder = (*SCRIPTS["stage 1"], "--save-state-every", "1"), tmp_path / "run"
    for place in random.sample(PLACES, len(PLACES)):
        most = (
            3 if place in ("torch.save", "half") else 9
        )  # some of the others' calls are at the start of a run
        call = 1 if first else random.randint(2, most)
        child = run_child(start, *script, *folders(folder), "--resume", kill=(place, call))
        if child.status == 0:  # few saves were left
            break
        assert child.status == -signal.SIGKILL, child.errors
    finish(start, script, folder)
    assert_same_end(folder, expected)
    assert list(folder.rglob("*.part")) == []


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_run_asked_to_stop_saves_and_can_be_resumed(number, status, uninterrupted, start, tmp_path):
    title = "stage 2, gradient accumulation, worker processes"
    expected, _ = uninterrupted(title)
    script, folder = (*SCRIPTS[title], "--save-state-every", "100"), tmp_path / "run"
    child = run_child(start, *script, *folders(folder), stop=(number, folder / "log.jsonl", 2))
    assert child.status == status, child.errors
    (line,) = child.errors.splitlines()
    iteration = torch.load(folder / "training_state.pt", weights_only=True)["iteration"]
    saved = f"saved before iteration {iteration}; continue there with --resume"
    assert line == f"train_ft.py: {signal.Signals(number).name}: {saved}"
    assert 2 <= iteration < 4
    assert len((folder / "log.jsonl").read_text().splitlines()) == iteration
    child = finish(start, script, folder)
    assert f"Resuming at iteration {iteration} of 4." in child.output
    assert_same_end(folder, expected)


def test_a_finished_run_is_left_alone_and_can_be_made_longer(trained, start, tmp_path):
    before = what_counts(trained)
    again = run_in(start, "train_ms", *folders(trained), "--resume")  # all flags are the run's
    assert again.returncode == 0 and "Resuming at iteration 2 of 2." in again.stdout
    assert what_counts(trained) == before
    for folder, flags in ((trained, ("--resume",)), (tmp_path / "whole", SMALL)):
        result = run_in(start, "train_ms", *flags, *folders(folder), "--num-steps-stop", "4")
        assert result.returncode == 0, result.stderr
    for name in ("GTA5_4.pth", "GTA5_4_D1.pth", "GTA5_4_D2.pth", "log.jsonl"):
        assert (trained / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_resume_where_nothing_was_saved_starts(start, tmp_path):
    flags = (*SMALL, *folders(tmp_path / "run"), "--num-steps-stop", "1", "--resume")
    result = run_in(start, "train_ms", *flags)
    assert result.returncode == 0 and "Resuming" not in result.stdout
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--batch-size", "1"), ("--batch-size 1", "has 2")),
        (("--single-updates",), ("--single-updates True", "has False")),
        (("--optimizer", "adamw"), ("--optimizer adamw", "has 'sgd'")),
        (("--random-seed", "7"), ("--random-seed 7", "has 1234")),
        (("--train_bn",), ("--train-bn True", "has False")),
    ],
)
def test_resume_refuses_flags_that_make_it_another_run(flags, named, trained, run_main):
    before = files_of(trained)
    result = run_main("train_ms", *folders(trained), "--resume", *flags)
    one_line_error(result, *named, "choose another")
    assert files_of(trained) == before


def test_resume_names_the_flags_that_change_the_result(trained, run_main):
    flags = ("--resume", "--num-steps", "6", "--num-steps-stop", "3", "--learning-rate", "1e-5")
    result = run_main("train_ms", *folders(trained), *flags)
    assert result.returncode == 0, result.stderr
    line = next(line for line in result.stdout.splitlines() if line.startswith("Resumed with different"))
    assert "learning_rate 1e-05 (was 0.00025)" in line and "num_steps 6 (was 4)" in line
    assert "num_steps_stop" not in line
    rates = [json.loads(line)["lr"] for line in (trained / "log.jsonl").read_text().splitlines()]
    assert rates[2] == pytest.approx(1e-5 * (1 - 2 / 6) ** 0.9)  # the flag, not the saved optimiser's


class Hostile:
    """Unpickling it would make a file."""

    def __reduce__(self):
        return Path.touch, (Path("executed"),)


def change_state(path: Path, change: Callable[[dict], object]) -> None:
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)


SPOILT = {
    "empty": lambda path: path.write_bytes(b""),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "text": lambda path: path.write_text("nothing"),
    "another file": lambda path: torch.save({"iteration": 3}, path),
    "code": lambda path: change_state(path, lambda state: state.update(images=[Hostile()])),
    "another network": lambda path: change_state(
        path, lambda state: state["trainer"]["networks"].update({"G.conv1.weight": torch.zeros(3)})
    ),
    "no random states": lambda path: change_state(path, lambda state: state["processes"][0].pop("random")),
    "no batch statistics": lambda path: change_state(
        path, lambda state: state["processes"][0].update(buffers={})
    ),
    "the other stage": lambda path: None,
}


@pytest.mark.parametrize("spoilt", SPOILT)
def test_a_state_that_cannot_be_used_is_one_line(spoilt, trained, run_main):
    SPOILT[spoilt](trained / "training_state.pt")
    script = ("train_ms", *SMALL)
    if spoilt == "the other stage":
        script = ("train_ft", *SMALL, "--data-dir", "./data/Cityscapes/data", "--pseudo-dir", "./pseudo")
    before = files_of(trained)
    result = run_main(*script, *folders(trained), "--resume")
    one_line_error(result, "training_state.pt")
    assert files_of(trained) == before and not Path("executed").exists()


def test_a_state_that_lists_skipped_files_as_older_versions_did_can_be_resumed(trained, start):
    change_state(trained / "training_state.pt", lambda state: state.update(damaged=[]))
    result = run_in(start, "train_ms", *folders(trained), "--resume", "--num-steps-stop", "3")
    assert result.returncode == 0 and "Resuming at iteration 2 of 3." in result.stdout


def test_a_folder_of_published_snapshots_is_not_started_over(trained, run_main):
    (trained / "training_state.pt").unlink()
    before = files_of(trained)
    result = run_main("train_ms", *folders(trained), "--resume")
    one_line_error(result, "--resume", "no training_state.pt", "--restore-from")
    assert files_of(trained) == before


def test_a_new_run_in_the_folder_of_another_keeps_its_state_and_log(trained, run_main):
    names = ("training_state.pt", "log.jsonl", "opts.yaml")
    before = {name: (trained / name).read_bytes() for name in names}
    result = run_main("train_ms", *SMALL, *folders(trained), "--random-seed", "5", "--num-steps-stop", "1")
    assert result.returncode == 0 and f"{trained} holds an earlier run" in result.stdout
    for name, content in before.items():
        path = trained / name
        assert path.with_stem(f"{path.stem}.earlier").read_bytes() == content
        assert path.read_bytes() != content


def test_a_full_disk_leaves_the_last_save_and_is_reported(trained, start, tmp_path):
    before = files_of(trained)
    flags = ("train_ms", *SMALL, *folders(trained), "--num-steps-stop", "4", "--save-pred-every", "100")
    size = (trained / "training_state.pt").stat().st_size
    child = run_child(start, *flags, "--resume", largest_file=size // 2)
    assert child.status == 2 and child.errors.count("\n") == 1, child.errors
    assert "training_state.pt: cannot write (File too large)" in child.errors  # errno's words, not torch's
    assert "untouched" in child.errors
    for path, content in before.items():
        if path.suffix in (".pt", ".pth"):
            assert path.read_bytes() == content, path
    assert list(trained.rglob("*.part")) == []
    finish(start, flags, trained)
    whole = run_in(start, *flags, *folders(tmp_path / "whole"))
    assert whole.returncode == 0, whole.stderr
    assert (trained / "GTA5_4.pth").read_bytes() == (tmp_path / "whole" / "GTA5_4.pth").read_bytes()


def test_only_the_last_snapshots_and_the_best_are_kept(uninterrupted):
    folder, _ = uninterrupted("stage 1")
    names = sorted(path.name for path in folder.glob("*.pth"))
    kept = [f"GTA5_{n}{part}.pth" for n in (4, 6) for part in ("", "_D1", "_D2")]
    assert names == sorted([*kept, "GTA5_best.pth"])
    rows = [json.loads(line) for line in (folder / "validation.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [2, 4, 6]
    best = max(rows, key=lambda row: row["means"]["mIoU"])["iteration"]
    if best in (4, 6):
        assert (folder / "GTA5_best.pth").read_bytes() == (folder / f"GTA5_{best}.pth").read_bytes()


def test_validation_and_workers_change_nothing_in_the_training(uninterrupted, start, tmp_path):
    expected, _ = uninterrupted("stage 1")
    script = (*SCRIPTS["stage 1"], "--keep-best", "False", "--eval-every", "0", "--num-workers", "1")
    result = run_in(start, *script, *folders(tmp_path / "run"))
    assert result.returncode == 0, result.stderr
    for name in ("GTA5_6.pth", "GTA5_6_D1.pth", "log.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (expected / name).read_bytes()


def test_config_repeats_a_run_and_given_flags_override_it(trained, start, tmp_path):
    config = ("--config", str(trained / "opts.yaml"))
    for name, *flags in (("again",), ("other", "--num-steps-stop", "1", "--drop", "0.25")):
        result = run_in(start, "train_ms", *config, *flags, *folders(tmp_path / name))
        assert result.returncode == 0, result.stderr
    assert_same_end(tmp_path / "again", trained)
    one, two = (yaml.safe_load((run / "opts.yaml").read_text()) for run in (trained, tmp_path / "other"))
    differing = {name for name in one if one[name] != two[name]}
    assert differing == {"num_steps_stop", "droprate", "snapshot_dir", "log_dir"}


def test_a_run_folder_says_how_to_repeat_it(trained):
    (entry,) = yaml.safe_load((trained / "run.yaml").read_text())
    assert entry["command"].startswith("train_ms.py --arch mini") and entry["iteration"] == 0
    assert entry["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert entry["revision"] is None or len(entry["revision"].removesuffix("-dirty")) == 40
    options = yaml.safe_load((trained / "opts.yaml").read_text())
    assert options["random_seed"] == 1234 and "resume" not in options and "config" not in options


def test_the_loss_scaler_resumes_where_it_was(tmp_path):
    """fp16 needs CUDA; the scaler, which torch has for CPUs too, is saved and read the same way."""

    def built(seed: int) -> AD_Trainer:
        torch.manual_seed(seed)
        trainer = AD_Trainer(args)
        trainer.scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=3)
        return trainer

    def step(trainer: AD_Trainer, overflows: bool = False) -> None:
        batch = torch.Generator().manual_seed(5)
        images, images_t = (torch.randn(1, 3, 32, 32, generator=batch) for _ in range(2))
        labels = torch.randint(0, 19, (1, 32, 32), generator=batch)
        torch.manual_seed(9)  # of dropout
        spoil = trainer.G.conv1.weight.register_hook(lambda gradient: gradient / 0 if overflows else gradient)
        trainer.gen_update(images, images_t, labels, None, 0)
        spoil.remove()

    args = stage1_args([*TRAINING, "--snapshot-dir", str(tmp_path), "--drop", "0.1"])
    first, second = built(0), built(1)
    for overflows in (False, False, True, False):  # the third step is skipped and halves the scale
        step(first, overflows)
    assert first.scaler.get_scale() == 32.0
    save_state(tmp_path, first, 4, args, [1, 1])
    state = load_state(tmp_path)
    restore(state, second, tmp_path / "training_state.pt")
    restore_process(state, second)
    assert second.scaler.state_dict() == first.scaler.state_dict()
    for trainer in (first, second):
        step(trainer)
        step(trainer)
    assert second.scaler.get_scale() == first.scaler.get_scale() == 64.0  # three good steps over the save
    assert_equal(dict(second.G.state_dict()), dict(first.G.state_dict()))


@pytest.mark.parametrize(("before", "after"), [("tf32", "fp16"), ("bf16", "fp16"), ("fp16", "tf32")])
def test_a_run_resumes_with_and_without_loss_scaling_and_a_warning(before, after, tmp_path, caplog):
    """The scaler is that of a CPU: fp16 itself needs CUDA."""

    def built(precision: str) -> AD_Trainer:
        trainer = AD_Trainer(stage1_args([*TRAINING, "--snapshot-dir", str(tmp_path)]))
        trainer.args.precision, trainer.args.fp16 = precision, precision == "fp16"
        trainer.scaler = torch.amp.GradScaler("cpu", init_scale=64.0, enabled=precision == "fp16")
        return trainer

    torch.manual_seed(0)
    first, second = built(before), built(after)
    first.scaler.scale(torch.ones(()))  # as a step does
    save_state(tmp_path, first, 1, first.args, [1, 1])
    state = load_state(tmp_path)
    check_resumable(state, second, second.args, [1, 1], SINGLE_PROCESS)
    assert [record.getMessage().rpartition(": ")[2] for record in caplog.records] == [
        f"precision {after} (was {before!r})."
    ]
    restore(state, second, tmp_path / "training_state.pt")
    assert second.scaler.get_scale() == (64.0 if after == "fp16" else 1.0)
    assert_equal(dict(second.G.state_dict()), dict(first.G.state_dict()))
