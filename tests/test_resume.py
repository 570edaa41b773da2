"""Runs that are killed, stopped or out of disk: what they leave, and that going on ends as it would have."""

import json
import os
import random
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from tensorboardX.proto.event_pb2 import Event

from engine.resume import load_state, restore_process, restore_trainer, save_state
from tests.conftest import ROOT, TRAINING, files_of, one_line_error, run_chain, write_world
from tests.killed import Child, run_child
from trainer_ms import AD_Trainer
from utils.options import stage1_args

STAGE1 = (
    *("--lambda-kl-target", "0.1", "--lambda-me-target", "0.05", "--reg-start", "3", "--lambda-seg", "0.5"),
    *("--use-se", "--norm-style", "gn", "--drop", "0.3", "--class-balance", "--often-balance"),
    *("--only-hard-label", "80", "--max-value", "7", "--warm-up", "2"),
)
STAGE2 = (
    *("--restore-from", "./snapshots/start/GTA5_4.pth", "--use-se", "--norm-style", "gn", "--train_bn"),
    *("--lambda-adv-target1", "0", "--lambda-adv-target2", "0", "--drop", "0.3", "--pseudo-dir", "./pseudo"),
)
LONG = ("--num-steps", "14", "--save-pred-every", "4", "--eval-every", "3", "--keep-best")
SAVING = ("--save-state-every", "2", "--keep", "2", "--pictures-every", "3", "--random-scale")
RUN = (*TRAINING, *LONG, *SAVING)
SCRIPTS = {
    "stage 1": ("train_ms", *RUN, *STAGE1),
    "stage 2": ("train_ft", *RUN, *STAGE2),
    "gradients added up, decoding processes": (
        *("train_ms", *RUN, "--iter-size", "2", "--num-workers", "1", "--autoaug"),
        *("--norm-style", "bn", "--batch-size", "1", "--save-state-every", "1"),
    ),
}
KILLS = 8  # of each script, at moments drawn anew; those inside a save are counted on top


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    """A working folder with a first network, its pseudo labels and an uninterrupted run of each script."""
    world = write_world(tmp_path_factory.mktemp("resume"))
    network = ("--use-se", "--norm-style", "gn")
    labels = ("--restore-from", "./snapshots/start/GTA5_4.pth", "--save", "./pseudo", "--num-workers", "0")
    steps = {
        "start": ("train_ms", *TRAINING, *network, "--snapshot-dir", "./snapshots/start"),
        "label": ("generate_plabel_cityscapes", *labels, "--input-size", "72,40", "--cpu"),
    }
    run_chain(world, steps)
    return world


@pytest.fixture(scope="module")
def uninterrupted(start) -> Callable[[str], tuple[Path, float]]:
    """The folder of an uninterrupted run of a script, and the seconds that it took."""
    done = {}

    def run(title: str) -> tuple[Path, float]:
        if title not in done:
            folder = start / "whole" / title.replace(" ", "-")
            began = time.monotonic()
            child = run_child(start, *SCRIPTS[title], *folders(folder))
            assert child.status == 0, child.errors
            done[title] = folder, time.monotonic() - began
        return done[title]

    return run


def folders(folder: Path) -> tuple[str, ...]:
    return "--snapshot-dir", str(folder), "--log-dir", str(folder / "board")


def what_counts(folder: Path) -> dict[str, bytes]:
    """All that a run leaves but the record of its starts and TensorBoard's files, which hold times."""
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


def go_on_to_the_end(world: Path, script: tuple, folder: Path) -> Child:
    child = run_child(world, *script, *folders(folder), "--resume")
    assert child.status == 0, child.errors
    return child


@pytest.mark.parametrize("title", SCRIPTS)
def test_a_run_killed_at_any_moment_ends_as_one_that_was_not(title, uninterrupted, start, tmp_path):
    expected, seconds = uninterrupted(title)
    script, folder, moments = SCRIPTS[title], tmp_path / "run", random.Random()
    killed = 0
    while killed < KILLS:
        # Saves come every second iteration, so some of these get on and some do not.
        moment = moments.uniform(0, seconds)
        child = run_child(start, *script, *folders(folder), "--resume", kill=moment)
        if child.status == 0:  # it came to its end before
            assert_same_end(folder, expected)
            shutil.rmtree(folder)
            continue
        assert child.status == -signal.SIGKILL, child.errors
        killed += 1
    go_on_to_the_end(start, script, folder)
    assert_same_end(folder, expected)


@pytest.mark.parametrize("place", ["os.replace", "after os.replace"])
def test_a_run_killed_at_one_save_after_another_ends_as_one_that_was_not(
    place, uninterrupted, start, tmp_path
):
    expected, _ = uninterrupted("stage 1")
    folder, calls = tmp_path / "run", random.Random()
    for _ in range(100):
        call = calls.randint(5, 16)  # the first four are at the start of a run
        child = run_child(start, *SCRIPTS["stage 1"], *folders(folder), "--resume", kill=(place, call))
        if child.status == 0:
            break
        assert child.status == -signal.SIGKILL, child.errors
    go_on_to_the_end(start, SCRIPTS["stage 1"], folder)  # the last kill may have been at its last save
    assert_same_end(folder, expected)


# Where in a save: before a file is opened, with half of it written, before and after it takes its place.
@pytest.mark.parametrize("place", ["torch.save", "half", "os.fsync", "os.replace", "after os.replace"])
def test_a_run_killed_inside_a_save_ends_as_one_that_was_not(place, uninterrupted, start, tmp_path):
    expected, _ = uninterrupted("stage 1")
    folder = tmp_path / "run"
    for call in (1, 4, 9):
        child = run_child(start, *SCRIPTS["stage 1"], *folders(folder), "--resume", kill=(place, call))
        assert child.status == -signal.SIGKILL, child.errors
    go_on_to_the_end(start, SCRIPTS["stage 1"], folder)
    assert_same_end(folder, expected)
    assert list(folder.rglob("*.part")) == []


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_run_asked_to_stop_saves_and_goes_on(number, status, uninterrupted, start, tmp_path):
    expected, _ = uninterrupted("gradients added up, decoding processes")
    script = (*SCRIPTS["gradients added up, decoding processes"], "--save-state-every", "100")
    folder = tmp_path / "run"
    child = run_child(start, *script, *folders(folder), stop=(number, folder / "log.jsonl", 3))
    assert child.status == status, child.errors
    (line,) = child.errors.splitlines()
    name = signal.Signals(number).name
    iteration = torch.load(folder / "training_state.pt", weights_only=True)["iteration"]
    assert line == f"train_ms.py: {name}: saved before iteration {iteration}; --resume goes on there"
    assert 3 <= iteration < 14
    assert len((folder / "log.jsonl").read_text().splitlines()) == iteration
    child = go_on_to_the_end(start, script, folder)
    assert f"Going on at iteration {iteration} of 14." in child.output
    assert_same_end(folder, expected)


def test_a_finished_run_is_left_alone_and_can_be_made_longer(start, tmp_path):
    short, whole = tmp_path / "short", tmp_path / "whole"
    flags = ("train_ms", *TRAINING, "--num-steps", "8", "--save-pred-every", "4")
    first = run_child(start, *flags, *folders(short), "--num-steps-stop", "5")
    assert first.status == 0, first.errors
    before = what_counts(short)
    again = go_on_to_the_end(start, ("train_ms",), short)  # all flags are the run's
    assert "Going on at iteration 5 of 5." in again.output and what_counts(short) == before
    go_on_to_the_end(start, ("train_ms", "--num-steps-stop", "8"), short)
    assert run_child(start, *flags, *folders(whole)).status == 0
    for name in ("GTA5_8.pth", "GTA5_8_D1.pth", "GTA5_8_D2.pth", "log.jsonl"):
        assert (short / name).read_bytes() == (whole / name).read_bytes(), name


def test_resume_where_nothing_was_saved_starts(start, tmp_path):
    child = run_child(start, "train_ms", *TRAINING, *folders(tmp_path / "run"), "--resume")
    assert child.status == 0 and "Going on" not in child.output
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == 4


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--batch-size", "1"), ("--batch-size 1", "has 2")),
        (("--single-updates",), ("--single-updates True", "has False")),
        (("--random-seed", "7"), ("--random-seed 7", "has 1234")),
        (("--train_bn",), ("--train-bn True", "has False")),
    ],
)
def test_resume_refuses_flags_that_make_it_another_run(flags, named, trained, run_main):
    before = files_of(trained / "run")
    result = run_main("train_ms", "--snapshot-dir", trained / "run", "--resume", *flags)
    one_line_error(result, *named, "choose another")
    assert files_of(trained / "run") == before


@pytest.fixture
def trained(start, tmp_path, monkeypatch) -> Path:
    """A working folder with a short run in `run`, made the current one."""
    monkeypatch.chdir(start)
    child = run_child(start, "train_ms", *TRAINING, *folders(tmp_path / "run"))
    assert child.status == 0, child.errors
    return tmp_path


def test_resume_says_what_makes_the_result_another(trained, run_main):
    flags = ("--resume", "--num-steps", "6", "--num-steps-stop", "5", "--learning-rate", "1e-5")
    result = run_main("train_ms", "--snapshot-dir", trained / "run", *flags)
    assert result.returncode == 0, result.stderr
    line = next(line for line in result.stdout.splitlines() if line.startswith("Not what"))
    assert "learning_rate 1e-05 (was 0.00025)" in line and "num_steps 6 (was 4)" in line
    assert "num_steps_stop" not in line


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "other", "code", "stage"])
def test_a_state_that_cannot_be_used_is_one_line(damage, trained, run_main, tmp_path):
    path = trained / "run" / "training_state.pt"
    content, script = path.read_bytes(), ("train_ms",)
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "text":
        path.write_text("nothing")
    elif damage == "other":
        torch.save({"iteration": 3}, path)
    elif damage == "code":
        torch.save({"format": 1, "call": Child}, path)
    else:
        script = ("train_ft", "--data-dir", "./data/Cityscapes/data", "--pseudo-dir", "./pseudo")
    before = files_of(trained / "run")
    one_line_error(run_main(*script, "--snapshot-dir", trained / "run", "--resume"), "training_state.pt")
    assert files_of(trained / "run") == before


def test_a_folder_of_published_snapshots_is_not_started_over(trained, run_main):
    (trained / "run" / "training_state.pt").unlink()
    before = files_of(trained / "run")
    result = run_main("train_ms", "--snapshot-dir", trained / "run", "--resume")
    one_line_error(result, "--resume", "no training_state.pt", "--restore-from")
    assert files_of(trained / "run") == before


def test_a_new_run_in_the_folder_of_another_puts_its_state_aside(trained, run_main):
    folder = trained / "run"
    before = {name: (folder / name).read_bytes() for name in ("training_state.pt", "log.jsonl", "opts.yaml")}
    result = run_main("train_ms", *TRAINING, *folders(folder), "--random-seed", "5", "--num-steps-stop", "1")
    assert result.returncode == 0 and "--resume would go on with it" in result.stdout
    for name, content in before.items():
        path = folder / name
        assert path.with_stem(f"{path.stem}.earlier").read_bytes() == content
        assert path.read_bytes() != content


def test_a_full_disk_leaves_the_last_save_and_says_so(start, tmp_path):
    folder = tmp_path / "run"
    flags = ("train_ms", *TRAINING, *folders(folder), "--save-state-every", "2", "--save-pred-every", "100")
    stopped = run_child(start, *flags, "--num-steps-stop", "2")
    assert stopped.status == 0, stopped.errors
    before = files_of(folder)
    size = (folder / "training_state.pt").stat().st_size
    child = run_child(start, *flags, "--resume", "--num-steps-stop", "4", largest_file=size // 2)
    assert child.status == 2 and child.errors.count("\n") == 1, child.errors
    assert "training_state.pt: cannot write" in child.errors or "GTA5_4" in child.errors, child.errors
    assert "untouched" in child.errors
    after = files_of(folder)
    for path, content in before.items():
        if path.suffix in (".pt", ".pth"):
            assert after[path] == content, path
    assert list(folder.rglob("*.part")) == []
    whole = tmp_path / "whole"
    go_on_to_the_end(start, (*flags[: 1 + len(TRAINING)], "--num-steps-stop", "4"), folder)
    assert run_child(start, "train_ms", *TRAINING, *folders(whole), "--save-pred-every", "100").status == 0
    assert (folder / "GTA5_4.pth").read_bytes() == (whole / "GTA5_4.pth").read_bytes()


OWN_MOUNTS = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c")


def test_a_small_file_system_that_is_full_leaves_the_last_save(start, tmp_path):
    disk, kept, whole = tmp_path / "disk", tmp_path / "kept", tmp_path / "whole"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size=48m tmpfs {disk}"
    if not shutil.which("unshare") or subprocess.run([*OWN_MOUNTS, mount], capture_output=True).returncode:
        pytest.skip("only root may mount here; the test before this one limits the size of files instead")
    flags = ("train_ms", *TRAINING, "--save-state-every", "2", "--save-pred-every", "3", "--num-steps", "9")
    name, *rest = flags
    script = shlex.join([sys.executable, str(ROOT / f"{name}.py"), *rest, *folders(disk / "run")])
    # Room for the first state and the first snapshot, and not for the next state beside them.
    command = f"{mount} && {script}; status=$?; cp -r {disk}/run {kept}; exit $status"
    child = subprocess.run(
        [*OWN_MOUNTS, command],
        cwd=start,
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1"},  # as in `run_child`: results depend on it
    )
    (line,) = child.stderr.splitlines()
    assert child.returncode == 2 and "No space left on device" in line and "untouched" in line
    assert 0 < torch.load(kept / "training_state.pt", weights_only=True)["iteration"] < 9
    assert list(kept.rglob("*.part")) == []
    go_on_to_the_end(start, flags, kept)
    assert run_child(start, *flags, *folders(whole)).status == 0
    assert_same_end(kept, whole)


def test_only_the_last_snapshots_and_the_best_are_kept(uninterrupted):
    folder, _ = uninterrupted("stage 1")
    names = sorted(path.name for path in folder.glob("*.pth"))
    kept = [f"GTA5_{n}{part}.pth" for n in (12, 14) for part in ("", "_D1", "_D2")]
    assert names == sorted([*kept, "GTA5_best.pth"])
    rows = [json.loads(line) for line in (folder / "validation.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [3, 6, 9, 12, 14]
    best = max(rows, key=lambda row: row["means"]["mIoU"])
    if best["iteration"] in (12, 14):
        assert (folder / "GTA5_best.pth").read_bytes() == (
            folder / f"GTA5_{best['iteration']}.pth"
        ).read_bytes()


def test_validation_changes_nothing_in_the_training(uninterrupted, start, tmp_path):
    expected, _ = uninterrupted("stage 1")
    script = (*SCRIPTS["stage 1"], "--keep-best", "False", "--eval-every", "0", "--num-workers", "1")
    child = run_child(start, *script, *folders(tmp_path / "run"))
    assert child.status == 0, child.errors
    for name in ("GTA5_14.pth", "GTA5_14_D1.pth", "log.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (expected / name).read_bytes()


def test_config_repeats_a_run_and_given_flags_override_it(uninterrupted, start, tmp_path):
    expected, _ = uninterrupted("stage 1")
    child = run_child(
        start, "train_ms", "--config", str(expected / "opts.yaml"), *folders(tmp_path / "again")
    )
    assert child.status == 0, child.errors
    assert_same_end(tmp_path / "again", expected)
    flags = ("--config", str(expected / "opts.yaml"), "--num-steps-stop", "1", "--drop", "0.25")
    child = run_child(start, "train_ms", *flags, *folders(tmp_path / "other"))
    assert child.status == 0, child.errors
    options = [yaml.safe_load((run / "opts.yaml").read_text()) for run in (expected, tmp_path / "other")]
    assert {name for name in options[0] if options[0][name] != options[1][name]} == {
        *("num_steps_stop", "droprate", "snapshot_dir", "log_dir")
    }


def test_a_run_folder_says_how_to_repeat_it(trained):
    (entry,) = yaml.safe_load((trained / "run" / "run.yaml").read_text())
    assert entry["command"].startswith("train_ms.py --arch mini") and entry["iteration"] == 0
    assert entry["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert entry["revision"] is None or len(entry["revision"].removesuffix("-dirty")) == 40
    options = yaml.safe_load((trained / "run" / "opts.yaml").read_text())
    assert options["random_seed"] == 1234 and "resume" not in options and "config" not in options


def test_the_loss_scaler_goes_on_where_it_was(tmp_path):
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
    save_state(tmp_path, first, 4, args, [1, 1], [])
    state = load_state(tmp_path)
    restore_trainer(state, second, tmp_path / "training_state.pt")
    restore_process(state, second)
    assert second.scaler.state_dict() == first.scaler.state_dict()
    for trainer in (first, second):
        step(trainer)
        step(trainer)
    assert second.scaler.get_scale() == first.scaler.get_scale() == 64.0  # three good steps over the save
    assert_equal(dict(second.G.state_dict()), dict(first.G.state_dict()))
