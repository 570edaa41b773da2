"""The published commands one after another as a user runs them: what they write, print and leave alone."""

import json
import re
import shutil
from argparse import Namespace
from importlib import metadata

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from PIL import Image

from model.deeplab_multi import DeeplabMulti
from tests.conftest import (
    LABEL_IDS,
    PREDICTION,
    ROOT,
    TRAINING,
    cityscapes_names,
    files_of,
    make_unsure,
    one_line_error,
    run_chain,
    run_script,
    write_world,
)
from trainer_ms import AD_Trainer
from trainer_ms_variance import AD_Trainer as Stage2Trainer
from utils.device import choose_device
from utils.options import stage1_args, stage2_args

STAGE1 = (
    *("--lambda-kl-target", "0.1", "--lambda-me-target", "0.05", "--reg-start", "0", "--lambda-seg", "0.5"),
    *("--use-se", "--norm-style", "gn", "--drop", "0.1", "--class-balance", "--often-balance"),
    *("--only-hard-label", "80", "--max-value", "7", "--warm-up", "2"),
)
STAGE2 = (
    *("--restore-from", "./snapshots/stage1/GTA5_4.pth", "--use-se", "--norm-style", "gn", "--train_bn"),
    *("--lambda-adv-target1", "0", "--lambda-adv-target2", "0", "--learning-rate", "1e-3"),
)
SNAPSHOTS = ["GTA5_2.pth", "GTA5_2_D1.pth", "GTA5_2_D2.pth", "GTA5_4.pth", "GTA5_4_D1.pth", "GTA5_4_D2.pth"]
WRITTEN = ["log.jsonl", "opts.yaml", "run.yaml", "training_state.pt"]
SIZE = (48, 96)  # of the target's images
IMAGES = cityscapes_names(2)
SCRIPTS = sorted(path.stem for path in ROOT.glob("*.py") if "__main__" in path.read_text())
LABELLED = np.full(256, 255)
LABELLED[list(LABEL_IDS)] = range(19)


def png(path):
    image = Image.open(path)
    return np.asarray(image.convert("RGB") if path.stem.endswith(("_color", "_heatmap")) else image)


def stems(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.png"))


def written_for_each(*suffixes):
    return sorted(name.removesuffix(".png") + f"{suffix}.png" for name in IMAGES for suffix in suffixes)


def weights(path):
    return torch.load(path, weights_only=True)


def same_weights(path, other):
    one, two = weights(path), weights(other)
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def log_lines(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def printed_miou(result):
    return float(re.search(r"^mIoU +([\d.]+)$", result.stdout, re.MULTILINE)[1])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The working folder after all scripts, and the result of each."""
    world = write_world(tmp_path_factory.mktemp("world"))
    stage1 = ("train_ms", "--snapshot-dir", "./snapshots/stage1", *TRAINING, *STAGE1)
    results = {"stage 1": run_script(*stage1, cwd=world)}  # as a user does; the others in this process
    assert results["stage 1"].returncode == 0, results["stage 1"].stderr
    stage1, stage2 = "./snapshots/stage1/GTA5_4.pth", "./snapshots/stage2/GTA5_4.pth"
    conventional = ("--snapshot-dir", "./snapshots/pl", "--conventional", "--num-steps-stop", "1")
    steps = {
        "generate": ("generate_plabel_cityscapes", "--restore-from", stage1, *PREDICTION),
        "stage 2": ("train_ft", *TRAINING, *STAGE2, "--snapshot-dir", "./snapshots/stage2"),
        "conventional": ("train_ft", *TRAINING, *STAGE2, *conventional),
        "evaluate": ("evaluate_cityscapes", "--restore-from", stage2, *PREDICTION),
    }
    return world, results | run_chain(world, steps)


@pytest.fixture
def trained(finished, monkeypatch):
    """That working folder, made the current one."""
    monkeypatch.chdir(finished[0])
    return finished[0]


# What they write and print


def test_standard_error_stays_empty(finished):
    assert {step: result.stderr for step, result in finished[1].items()} == dict.fromkeys(finished[1], "")


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_a_stage_writes_snapshots_flags_log_and_pictures(finished, stage):
    folder = finished[0] / "snapshots" / stage
    files = sorted(str(path.relative_to(folder)) for path in files_of(folder))
    # Stage II does not train the discriminators.
    snapshots = SNAPSHOTS if stage == "stage1" else [name for name in SNAPSHOTS if "_D" not in name]
    assert files == sorted([*snapshots, *WRITTEN, "pictures/2.png", "pictures/4.png"])
    assert not any(path.name.endswith(".part") for path in finished[0].rglob("*"))
    assert list((finished[0] / "log" / stage).iterdir()), "TensorBoard's files"
    assert png(folder / "pictures" / "4.png").shape == (24 + 2 * 164 - 4, 7 * 324 - 4, 3)


def test_stage_1_logs_every_loss_and_rate(finished):
    lines = log_lines(finished[0] / "snapshots" / "stage1")
    assert [line["iteration"] for line in lines] == [0, 1, 2, 3]
    for line in lines:
        assert {"seg1", "seg2", "adv1", "adv2", "me", "kl", "val", "D1", "D2", "lr", "lr_D"} < line.keys()
        assert all(line[name] > 0 for name in ("seg1", "seg2", "adv1", "adv2", "me", "kl", "val", "D1", "D2"))
    decay = [(1 - i / 4) ** 0.9 for i in range(4)]
    warmed = [0.1, 0.55, *decay[2:]]
    assert [line["lr"] for line in lines] == pytest.approx([2.5e-4 * share for share in warmed])
    assert [line["lr_D"] for line in lines] == pytest.approx([1e-4 * share for share in decay])


def test_stage_1_prints_its_data_progress_and_snapshots(finished):
    output = finished[1]["stage 1"].stdout
    assert "Starting from random weights." in output
    assert re.search(r"Labelled: 4 images in data/GTA5/images\n", output)
    assert re.search(r"Target: +4 images in data/Cityscapes/data/leftImg8bit/train \(labels only", output)
    for iteration in range(4):
        assert re.search(rf"^ *{iteration}/4  seg1 .*kl .*lr ", output, re.MULTILINE)
    assert [line for line in output.splitlines() if line.startswith("Saved")] == [
        "Saved snapshots/stage1/GTA5_2.pth",
        "Saved snapshots/stage1/GTA5_4.pth",
    ]


def test_stage_2_without_adversarial_weights_leaves_the_discriminators_alone(finished):
    for line in log_lines(finished[0] / "snapshots" / "stage2"):
        assert line["seg1"] > 0 and line["seg2"] > 0
        assert all(line[name] == 0 for name in ("adv1", "adv2", "D1", "D2", "me", "kl"))
    stage1 = finished[0] / "snapshots" / "stage1"
    assert not same_weights(stage1 / "GTA5_2_D1.pth", stage1 / "GTA5_4_D1.pth")


def moved_between_snapshots(folder, *names, numbers=(2, 4)):
    """The share of the backbone's tensors with these names that training moved."""
    before, after = (weights(folder / f"GTA5_{number}.pth") for number in numbers)
    tensors = [key for key in before if key.startswith("layer") and key[5] in "1234" and key.endswith(names)]
    assert len(tensors) > 10
    return sum(not torch.equal(before[key], after[key]) for key in tensors) / len(tensors)


AFFINE = tuple(f"bn{i}.{name}" for i in (1, 2, 3) for name in ("weight", "bias"))
STATISTICS = ("running_mean", "running_var")
CONVOLUTIONS = ("conv1.weight", "conv2.weight", "conv3.weight")


def test_batch_norm_follows_the_images_and_its_weights_train_only_with_train_bn(finished):
    snapshots = finished[0] / "snapshots"
    assert moved_between_snapshots(snapshots / "stage1", *STATISTICS, *CONVOLUTIONS) == 1
    assert moved_between_snapshots(snapshots / "stage1", *AFFINE) == 0
    assert moved_between_snapshots(snapshots / "stage2", *AFFINE) == 1  # --train_bn


def test_stage_2_starts_from_stage_1_and_learns_from_the_pseudo_labels(finished):
    output = finished[1]["stage 2"].stdout
    assert "Starting from ./snapshots/stage1/GTA5_4.pth (network)." in output
    assert "Labelled: 4 images in data/Cityscapes/data/leftImg8bit/train" in output
    snapshots = finished[0] / "snapshots"
    assert not same_weights(snapshots / "stage1" / "GTA5_4.pth", snapshots / "stage2" / "GTA5_4.pth")


def test_rectified_and_conventional_stage_2_differ_in_their_loss_alone(finished):
    snapshots = finished[0] / "snapshots"
    rectified, conventional = (
        yaml.safe_load((snapshots / f / "opts.yaml").read_text()) for f in ("stage2", "pl")
    )
    differing = {key for key in rectified if rectified[key] != conventional[key]}
    assert differing == {"conventional", "snapshot_dir", "num_steps_stop"}
    first, other = log_lines(snapshots / "stage2")[0], log_lines(snapshots / "pl")[0]
    assert first["val"] == other["val"] and first["seg1"] != other["seg1"]


def test_pseudo_labels_are_train_ids_of_the_image_size(finished):
    folder = finished[0] / "data" / "Cityscapes" / "data" / "pseudo_FULL" / "train"
    assert stems(folder) == written_for_each("", "_color", "_heatmap")
    colors = {}
    for name in IMAGES:
        label = Image.open(folder / name)
        assert label.mode == "L" and label.size == SIZE[::-1]
        label = np.asarray(label)
        assert label.dtype == np.uint8 and label.max() < 19
        shown = {png(folder / name.replace(".png", f"_{kind}.png")).shape for kind in ("color", "heatmap")}
        assert shown == {(*SIZE, 3)}
        for train_id in np.unique(label):
            of_class = png(folder / name.replace(".png", "_color.png"))[label == train_id]
            assert len(np.unique(of_class, axis=0)) == 1
            assert colors.setdefault(int(train_id), tuple(of_class[0])) == tuple(of_class[0])
    assert len(set(colors.values())) == len(colors)
    output = finished[1]["generate"].stdout
    assert "Labelled 100.0 % of the pixels of 4 images: data/Cityscapes/data/pseudo_FULL/train" in output


@pytest.mark.parametrize(
    ("folder", "script", "flags"),
    [
        ("data/Cityscapes/data/pseudo_FULL/train", "generate_plabel_cityscapes", {"threshold": 1.0}),
        ("result/cityscapesstage2", "evaluate_cityscapes", {"set": "val"}),
    ],
)
def test_run_yaml_beside_predictions_says_how_they_were_made(folder, script, flags, finished):
    (entry,) = yaml.safe_load((finished[0] / folder / "run.yaml").read_text())
    assert entry["command"].startswith(f"{script}.py --restore-from ./snapshots/")
    assert entry["folder"] == str(finished[0]) and entry["packages"]["torch"] == metadata.version("torch")
    # What the snapshot or the data said is written down too.
    used = {"input_size": "72,40", "scales": "1.0,1.25", "num_classes": 19, "weights": "1:0.5", **flags}
    assert used.items() <= entry["flags"].items()


def test_evaluation_agrees_with_the_files_it_wrote(finished):
    world, said = finished
    folder = world / "result" / "cityscapesstage2"
    assert stems(folder) == written_for_each("", "_color", "_heatmap", "_score")
    matrix = np.zeros((19, 19), np.int64)
    for name in IMAGES:
        label = LABELLED[
            png(world / "data/Cityscapes/data/gtFine/val" / name.replace("leftImg8bit", "gtFine_labelIds"))
        ]
        prediction = png(folder / name)
        np.add.at(matrix, (label[label < 255], prediction[label < 255]), 1)
    with np.errstate(invalid="ignore"):
        expected = np.diag(matrix) / (matrix.sum(0) + matrix.sum(1) - np.diag(matrix))
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["confusion"] == matrix.tolist() and not any(metrics["void_predictions"])
    scores = [np.nan if value is None else value for value in metrics["iou"].values()]
    assert scores == pytest.approx(expected.tolist(), abs=1e-12, nan_ok=True)
    assert metrics["miou"] == pytest.approx(np.nanmean(expected), abs=1e-12)
    assert printed_miou(said["evaluate"]) == pytest.approx(100 * metrics["miou"], abs=0.0051)
    assert metrics["images"] == 4 and metrics["names"] == [name.removesuffix(".png") for name in IMAGES]
    assert metrics["restore_from"] == "./snapshots/stage2/GTA5_4.pth"


def test_scoring_the_written_files_gives_the_same_result(trained, run_main):
    before = json.loads((trained / "result/cityscapesstage2/metrics.json").read_text())
    result = run_main(
        "evaluate_cityscapes", "--predictions", "./result/cityscapesstage2", "--save", "./again"
    )
    after = json.loads((trained / "again/metrics.json").read_text())
    assert result.returncode == 0 and before.keys() == after.keys()
    assert before["classifiers"]["1:0.5"] == after["classifiers"]["files"]
    of_a_network = {"classifiers", "uncertainty", "uncertainty_gap"}
    assert {key for key in before if before[key] != after[key]} == {"restore_from", *of_a_network}


def test_below_the_threshold_there_is_no_label(trained, run_main):
    sure = trained / "snapshots" / "sure"
    sure.mkdir()
    for name in ("opts.yaml", "GTA5_4.pth"):
        shutil.copy(trained / "snapshots" / "stage1" / name, sure)
    make_unsure(sure / "GTA5_4.pth")
    flags = ("--restore-from", sure / "GTA5_4.pth", *PREDICTION)
    result = run_main("generate_plabel_cityscapes", *flags, "--threshold", "0.9")
    run_main("evaluate_cityscapes", *flags, "--set", "train", "--save", trained / "all")
    folder = trained / "data" / "Cityscapes" / "data" / "pseudo_0.9" / "train"
    assert stems(folder) == written_for_each("", "_color", "_heatmap")
    labelled = []
    for name in IMAGES:
        label, full = png(folder / name), png(trained / "all" / name)
        score = png(trained / "all" / name.replace(".png", "_score.png")) / 255
        above, below = score > 0.9 + 1 / 255, score < 0.9 - 1 / 255
        assert above.any() and below.any()
        assert np.array_equal(label[above], full[above]) and (label[below] == 255).all()
        labelled.append((label != 255).mean())
    share = f"Labelled {100 * np.mean(labelled):.1f} % of the pixels of 4 images"
    assert share in result.stdout and 0.01 < np.mean(labelled) < 0.99
    stage2 = (*TRAINING, *STAGE2, "--snapshot-dir", "./snapshots/0.9", "--num-steps-stop", "1")
    assert run_main("train_ft", *stage2, "--threshold", "0.9").returncode == 0


def test_batch_size_and_workers_do_not_change_pseudo_labels(trained, run_main):
    flags = ("--restore-from", "./snapshots/stage1/GTA5_4.pth", *PREDICTION)
    run_main(
        "generate_plabel_cityscapes", *flags, "--batchsize", "1", "--num-workers", "1", "--save", "./one"
    )
    whole = trained / "data" / "Cityscapes" / "data" / "pseudo_FULL" / "train"
    agreeing = [np.mean(png(trained / "one" / name) == png(whole / name)) for name in IMAGES]
    assert min(agreeing) > 0.999  # rounding may differ


def test_stage_2_reads_the_pseudo_labels_of_pseudo_dir(trained, run_main):
    stage2 = (*TRAINING, *STAGE2, "--num-steps-stop", "3")
    shutil.copytree("data/Cityscapes/data/pseudo_FULL/train", "mine")
    for path in trained.glob("mine/*/*"):  # another model's labels
        if path.name in {name.split("/")[1] for name in IMAGES}:
            Image.fromarray(18 - np.asarray(Image.open(path))).save(path)
    result = run_main("train_ft", *stage2, "--pseudo-dir", "./mine", "--snapshot-dir", "./snapshots/mine")
    assert result.returncode == 0, result.stderr
    first, other = (log_lines(trained / "snapshots" / name)[0] for name in ("stage2", "mine"))
    assert first["seg1"] != other["seg1"] and first["val"] == other["val"]


# Reproducing


def train(run_main, name, *flags, stop=1):
    """The first iterations of Stage I again, in a snapshot folder of their own; what was printed."""
    stop = ("--num-steps-stop", str(stop))
    result = run_main("train_ms", *TRAINING, *STAGE1, "--snapshot-dir", f"./snapshots/{name}", *stop, *flags)
    assert result.returncode == 0 and result.stderr == ""
    return result


def logs(trained, name):
    """The log of `train` and as many lines of Stage I's."""
    lines = log_lines(trained / "snapshots" / name)
    return lines, log_lines(trained / "snapshots" / "stage1")[: len(lines)]


def test_the_same_seed_repeats_a_run_and_snapshot_i_is_written_after_iteration_i(trained, run_main):
    train(run_main, "again", stop=3)
    files = sorted(path.name for path in (trained / "snapshots" / "again").glob("*.pth"))
    assert files == ["GTA5_3.pth", "GTA5_3_D1.pth", "GTA5_3_D2.pth"]
    for suffix in ("", "_D1", "_D2"):  # three updates made both
        assert same_weights(f"snapshots/again/GTA5_3{suffix}.pth", f"snapshots/stage1/GTA5_2{suffix}.pth")
    found, expected = logs(trained, "again")
    assert found == expected and len(found) == 3


def test_another_seed_is_another_run(trained, run_main):
    train(run_main, "seed", "--random-seed", "5")
    found, expected = logs(trained, "seed")
    assert found != expected


def test_a_target_without_labels_trains_to_the_same_network(trained, run_main, tmp_path):
    target = shutil.copytree(trained / "data/Cityscapes/data/leftImg8bit", tmp_path / "leftImg8bit").parent
    result = train(run_main, "unlabelled", "--data-dir-target", target, stop=3)
    assert re.search(r"Target: +4 images in .* \(no labels\)", result.stdout)
    assert not any("val" in line for line in log_lines(trained / "snapshots" / "unlabelled"))
    assert same_weights("snapshots/unlabelled/GTA5_3.pth", "snapshots/stage1/GTA5_2.pth")


# Flags


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_names_the_script_and_its_flags(script, run_main):
    result = run_main(script, "--help")
    assert result.returncode == 0 and result.stdout.startswith(f"usage: {script}.py ")
    assert "--" in result.stdout and result.stderr == ""


@pytest.mark.parametrize(("name", "flags", "on"), [("off", ("False",), False), ("on", (), True)])
def test_autoaug_false_is_off_and_bare_autoaug_is_on(name, flags, on, trained, run_main):
    train(run_main, name, "--autoaug", *flags)
    assert yaml.safe_load((trained / "snapshots" / name / "opts.yaml").read_text())["autoaug"] is on
    found, default = logs(trained, name)
    assert (found != default) is on


def test_two_gpus_named_where_there_is_none_run_on_the_cpu_with_a_warning(trained, run_main, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = train(run_main, "gpus", "--cpu", "False", "--gpu-ids", "0,1", "--fp16")
    assert "No CUDA GPU found: computing on the CPU" in result.stdout
    assert "fp16 needs a CUDA GPU: computing in full precision" in result.stdout
    assert (trained / "snapshots" / "gpus" / "GTA5_1.pth").is_file()


def test_of_two_gpus_named_the_one_that_is_there_is_used_and_the_other_missed(monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda gpu: None)
    assert choose_device(Namespace(cpu=False, gpu_ids=[0, 1])) == (torch.device("cuda", 0), [0])
    assert "--gpu-ids 0,1: this machine has 1 GPU(s); computing on 0." in caplog.text
    assert choose_device(Namespace(cpu=False, gpu_ids=[3])) == (torch.device("cuda", 0), [0])
    assert choose_device(Namespace(cpu=True, gpu_ids=[0])) == (torch.device("cpu"), [])


FAILED_ALLOCATIONS = {
    "2.00 GiB": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 is full."),
    "8 bytes": RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 8 bytes"),
    "CUBLAS": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "MemoryError": MemoryError(),
}


@pytest.mark.parametrize(("shown", "error"), FAILED_ALLOCATIONS.items(), ids=FAILED_ALLOCATIONS)
def test_out_of_memory_is_one_line_with_the_flags_that_help(shown, error, trained, run_main, monkeypatch):
    def allocate(*_):
        raise error

    monkeypatch.setattr(DeeplabMulti, "forward", allocate)
    fragments = "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True"
    training = ("--batch-size", "--crop-size", "--precision", "--checkpointing", fragments, shown)
    stage1 = ("train_ms", *TRAINING, "--snapshot-dir", "memory", "--log-dir", "memory")
    one_line_error(run_main(*stage1), "train_ms.py: error: out of memory", *training)
    restored = ("--restore-from", "./snapshots/stage1/GTA5_4.pth")
    for script in ("generate_plabel_cityscapes", "evaluate_cityscapes"):
        result = run_main(script, *restored, *PREDICTION, "--save", "memory")
        one_line_error(result, "--precision", "--scales", "--input-size", fragments, shown)
    image = next((trained / "data").rglob("*_leftImg8bit.png"))
    result = run_main("segment", *restored, "--save", "memory", "--cpu", image)
    one_line_error(result, "--precision", "--fast", "--input-size", "--cpu", fragments, shown)


def test_evaluation_in_bf16_is_close_to_the_exact_one(trained, run_main):
    scores = []
    for precision in ("fp32", "bf16"):
        result = run_main(
            *("evaluate_cityscapes", "--restore-from", "./snapshots/stage2/GTA5_4.pth", *PREDICTION),
            *("--precision", precision, "--save", precision),
        )
        assert result.returncode == 0, result.stderr
        scores.append([png(path).astype(int) for path in sorted((trained / precision).rglob("*_score.png"))])
        (entry,) = yaml.safe_load((trained / precision / "run.yaml").read_text())
        assert entry["flags"]["precision"] == precision
    differences = [np.abs(exact - half).max() for exact, half in zip(*scores, strict=True)]
    assert 0 < max(differences) <= 3  # of 255


def test_regularisation_starts_at_its_iteration(trained, run_main):
    train(run_main, "late", "--reg-start", "1", stop=2)
    for name in ("kl", "me"):
        assert [line[name] > 0 for line in log_lines(trained / "snapshots" / "late")] == [False, True]


def test_is_training_false_keeps_the_statistics_of_batch_norm(trained, run_main):
    train(run_main, "frozen", "--is-training", "False", "--save-pred-every", "1", stop=3)
    folder = trained / "snapshots" / "frozen"
    assert moved_between_snapshots(folder, *STATISTICS, numbers=(1, 3)) == 0
    assert moved_between_snapshots(folder, *CONVOLUTIONS, numbers=(1, 3)) == 1


@pytest.mark.parametrize("style", ["bn", "in", "ln"])
def test_every_norm_style_trains_and_predicts(style, trained, run_main):
    train(run_main, style, "--norm-style", style)
    flags = ("--restore-from", f"./snapshots/{style}/GTA5_1.pth", *PREDICTION, "--save", "./out")
    assert "mIoU" in run_main("evaluate_cityscapes", *flags).stdout


def test_single_updates_differ_from_the_published_ones_from_the_first_update_on(trained, run_main):
    train(run_main, "single", "--single-updates", stop=2)
    found, published = logs(trained, "single")
    assert found[0] == published[0] and found[1] != published[1]


def test_iter_size_2_on_one_batch_twice_is_one_update_with_its_gradient(float64, one_thread):
    flags = ["--arch", "mini", "--norm-style", "gn", "--drop", "0", "--learning-rate", "0.01"]
    rng = torch.Generator().manual_seed(0)
    images, images_t = (torch.randn(2, 3, 32, 64, generator=rng) * 50 for _ in range(2))
    labels = torch.randint(19, (2, 32, 64), generator=rng)
    trainers = []
    for iter_size in (1, 2):
        torch.manual_seed(0)
        trainer = AD_Trainer(stage1_args([*flags, "--iter-size", str(iter_size)]))
        initial = {key: value.clone() for key, value in trainer.named_parameters()}
        for part in range(1, iter_size + 1):
            last = part == iter_size
            assert all(torch.equal(initial[key], value) for key, value in trainer.named_parameters())
            _, predictions = trainer.gen_update(images, images_t, labels, None, 0, update=last)
            trainer.dis_update(*predictions, update=last)
        trainers.append(dict(trainer.named_parameters()))
        moved = [key for key in initial if not torch.equal(initial[key], trainers[-1][key])]
        assert {key.split(".")[0] for key in moved} == {"G", "D1", "D2"}
    once, twice = trainers
    assert all(torch.allclose(once[key], twice[key], rtol=1e-9, atol=1e-12) for key in once)


def kl(p, q):
    return (p * (p.log() - q.log())).sum(1)


# How far classifier b is from classifier a, whose loss is rectified.
DISTANCES = {
    "": lambda pa, pb: kl(pb, pa),
    "--divergence reverse-kl": lambda pa, pb: kl(pa, pb),
    "--divergence squared": lambda pa, pb: ((pa - pb) ** 2).sum(1),
    "--conventional": None,
}


@pytest.mark.parametrize("flags", DISTANCES)
def test_stage_2_rectifies_by_the_distance_that_the_flags_name(flags, float64, one_thread):
    torch.manual_seed(0)
    mini = ["--arch", "mini", "--norm-style", "gn", "--lambda-adv-target1", "0", "--lambda-adv-target2", "0"]
    trainer = Stage2Trainer(stage2_args([*mini, *flags.split()]))
    for classifier in (trainer.G.layer5, trainer.G.layer6):
        torch.nn.init.normal_(classifier.head[1].weight, std=0.2)  # so that the two disagree
    images, images_t = torch.randn(2, 2, 3, 32, 64) * 50
    labels = torch.randint(19, (2, 32, 64))
    labels[:, :8] = 255
    losses, (z1, z2, *_) = trainer.gen_update(images, images_t, labels, None, 0)
    p1, p2 = z1.softmax(1), z2.softmax(1)
    for name, z, pa, pb in (("seg1", z1, p1, p2), ("seg2", z2, p2, p1)):
        expected = F.cross_entropy(z, labels, ignore_index=255)
        if DISTANCES[flags]:
            variance = DISTANCES[flags](pa, pb)
            ce = F.cross_entropy(z, labels, ignore_index=255, reduction="none")
            expected = (ce * torch.exp(-variance)).mean() + variance.mean()
            assert variance.mean() > 0.1
        assert losses[name].item() == pytest.approx(expected.item(), rel=1e-12)


def test_no_tensorboard_and_no_pictures_on_demand(trained, run_main):
    train(run_main, "bare", "--tensorboard", "False", "--save-num-images", "0", "--num-steps-stop", "2")
    assert not (trained / "log" / "bare").exists()
    assert not (trained / "snapshots" / "bare" / "pictures").exists()
