"""The commands of docs/data.md, as printed there, on two small folders of own data."""

import re
import shlex
import shutil
import subprocess

import numpy as np
import pytest
import yaml

from tests.conftest import ROOT, describe, label_blocks, make_unsure, picture, run_in, run_script, save_png
from utils.options import stage1_args, stage2_args

GUIDE = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
ITERATIONS = {"1000": "2", "400": "3", "300": "4"}  # of the small network; they name its snapshots
CLASSES = {"road": {"ids": 7}, "car": {"ids": [26, 27]}, "person": {"ids": 24}}


def blocks(section: str) -> list[str]:
    """The blocks of commands in a section of the guide."""
    text = GUIDE.partition(f"### {section}")[2].partition("\n### ")[0]
    found = re.findall(r"^```\n(.*?)^```$", text, re.M | re.S)
    assert found, section
    return found


def commands(block: str) -> list[list[str]]:
    """The project's commands in a block, with few iterations; a loop is gone through once."""
    shell = (
        f"python() {{ printf 'python %s\\n' \"${{*@Q}}\"; }}; grep() {{ :; }}\n{block.replace('1 2 3', '2')}"
    )
    printed = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=True).stdout
    short = re.sub(r"(?<=[ _'])(1000|400|300)(?=[.' ])", lambda found: ITERATIONS[found[1]], printed)
    return [shlex.split(line)[1:] for line in short.splitlines()]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Labelled `campus` and `photos`, of which only `val` has labels, as the guide describes them."""
    world, rng = tmp_path_factory.mktemp("guide"), np.random.default_rng(0)
    for domain, split, labelled in (("campus", "train", 1), ("photos", "train", 0), ("photos", "val", 1)):
        for number in range(4):
            save_png(world / f"{domain}/images/{split}/{number}.png", picture(rng, (72, 128)))
            if labelled:
                label = label_blocks(rng, (72, 128), (0, 7, 24, 26), 24)
                save_png(world / f"{domain}/labels/{split}/{number}.png", label)
        describe(world / domain / "dataset.yaml", classes=CLASSES, ignore={"ids": [0, 255]})
    shutil.copytree(ROOT / "recipes", world / "recipes")
    return world


@pytest.fixture(scope="module")
def followed(folders):
    """What each command from the check to segment.py printed."""
    steps = ("3. Check", "4. First on a CPU", "5. What one number is worth")
    said = {}
    for command in (c for step in steps for block in blocks(step) for c in commands(block)):
        script, *flags = command
        if script.startswith("generate"):  # sure of something, although trained for a moment only
            make_unsure(folders / flags[flags.index("--restore-from") + 1], gain=8.0)
        said[" ".join(command)] = result = run_in(folders, script.removesuffix(".py"), *flags)
        assert result.returncode == 0 and result.stderr == "", (command, result.stderr)
        idle = set(re.findall(r"^(--\S+) has no effect", result.stdout, re.M))
        assert idle <= {"--log-every"} or "opts.yaml" in " ".join(flags), command  # fewer iterations here
    return said


def test_every_command_of_the_small_network_works_as_printed(folders, followed):
    scripts = [command.partition(" ")[0] for command in followed]
    assert scripts.count("evaluate_cityscapes.py") == 6 and scripts.count("train_ft.py") == 2
    assert {path.name for path in (folders / "result").iterdir()} >= {"photos_source_only", "photos_stage2"}
    assert (folders / "comparison.html").is_file() and len(list((folders / "seen").iterdir())) == 3 * 4
    assert list((folders / "photos/pseudo_campus_0.9/train").glob("*_color.png"))
    assert not list((folders / "snapshots").rglob("*_D1.pth")), "no discriminator is trained"


def test_the_loop_over_seeds_differs_from_the_first_run_in_its_seed(folders, followed):
    for run in ("start", "source_only", "stage1", "stage2"):
        first, again = (
            yaml.safe_load((folders / f"snapshots/{name}/opts.yaml").read_text())
            for name in (run, f"{run}_2")
        )
        differing = {name for name in first if first[name] != again[name]}
        assert differing <= {"random_seed", "restore_from", "snapshot_dir", "pseudo_dir"}
        assert again["random_seed"] == 2


def test_the_line_at_the_end_of_the_loop_shows_every_miou(folders, followed):
    line = blocks("5. What one number is worth")[0].splitlines()[-1]
    shown = subprocess.run(["bash", "-c", line], cwd=folders, capture_output=True, text=True).stdout
    assert [text.partition(":")[0] for text in shown.splitlines()] == [
        f"result/photos_{run}_2/metrics.json" for run in ("source_only", "stage1", "stage2")
    ]


def test_the_commands_for_a_gpu_are_flags_that_fit_together(folders, monkeypatch):
    monkeypatch.chdir(folders)
    block, *_ = blocks("6. Then on a GPU")
    trainings = [shlex.split(line)[1:] for line in block.splitlines() if "train_" in line]
    for script, *flags in trainings:
        args = (stage2_args if script == "train_ft.py" else stage1_args)(flags)
        assert args.arch == "resnet101" and args.num_steps_stop == 25000
        assert (args.batch_size, args.lambda_kl_target) == {
            "gpu_source_only": (2, 0),
            "gpu_stage1": (2, 0.1),
            "gpu_stage2": (9, 0),
        }[args.snapshot_dir.name]


def test_the_line_for_a_video_makes_a_folder_of_frames(tmp_path):
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "drive.mp4"), "w") as video:
        stream = video.add_stream("mpeg4", rate=30)
        stream.width, stream.height = 64, 48
        for number in range(61):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 4 * number, np.uint8))
            video.mux(stream.encode(frame))
        video.mux(stream.encode())
    line = re.search(r"python -c \"(import av.*)\"", GUIDE)[0]
    subprocess.run(["bash", "-c", line], cwd=tmp_path, check=True)
    frames = [path.name for path in sorted((tmp_path / "photos/images/train").iterdir())]
    assert frames == [f"drive_{number:06}.jpg" for number in (0, 30, 60)]
    assert run_script("check_data", "photos", cwd=tmp_path).returncode == 0
