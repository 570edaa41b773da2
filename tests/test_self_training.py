"""Class-balanced pseudo labels and training on them, through the scripts."""

import json
import re
import shutil
from argparse import Namespace

import numpy as np
import pytest
import torch

from dataset import MixedDataset, build_dataset
from dataset.cityscapes import CITYSCAPES_COLORS
from engine.restore import read_snapshot, recognise, restore_network
from experiments import runner
from experiments.rounds import Rounds
from self_train import self_train_args
from tests.conftest import (
    LABEL_IDS,
    PREDICTION,
    TRAINING,
    cityscapes_names,
    make_unsure,
    one_line_error,
    pixels_of,
    run_chain,
    save_png,
    write_world,
)
from trainer_ms_variance import AD_Trainer
from utils import class_balance
from utils.options import stage2_args
from utils.preprocess import to_network_input

IGNORED = 255
IMAGES = cityscapes_names(2)
SIZES = ((40, 72), (50, 90))  # scales 1 and 1.25 of PREDICTION
SELF_TRAINING = (
    *("train_ft", *TRAINING, "--restore-from", "./snapshots/stage1/GTA5_1.pth", "--conventional"),
    *("--norm-style", "gn", "--use-se", "--droprate", "0", "--is-training", "False", "--nesterov", "False"),
    *("--lambda-adv-target1", "0", "--lambda-adv-target2", "0", "--lambda-seg", "0.5", "--power", "0"),
    *("--portion", "0.3", "--source-portion", "0.5", "--input-size-source", "80,48", "--mine-chance", "0.8"),
    *("--label-scales", "0.8,1.5", "--mr-weight-kld", "0.1", "--learning-rate", "1e-2"),
    *("--save-state-every", "2"),
)
SNAPSHOT = "./snapshots/stage1/GTA5_1.pth"
LABELS = "data/Cityscapes/data/pseudo_CB_0.30/train"


def spread_classes(snapshot) -> None:
    """Give an untrained snapshot classifiers that predict many classes, some with confidence."""
    make_unsure(snapshot)
    state = torch.load(snapshot, weights_only=True)
    for layer in ("layer5", "layer6"):
        weight = state[f"{layer}.head.1.weight"]
        weight -= weight.mean(1, keepdim=True)  # else the class of the largest sum wins everywhere
        weight *= 3
    torch.save(state, snapshot)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The working folder with a snapshot and its class-balanced labels, and what was printed."""
    world = write_world(tmp_path_factory.mktemp("world"))
    train = ("train_ms", *TRAINING, *["--norm-style", "gn", "--use-se", "--num-steps-stop", "1"])
    run_chain(world, {"train": (*train, "--snapshot-dir", "./snapshots/stage1")})
    spread_classes(world / SNAPSHOT)
    generate = ("generate_plabel_cityscapes", "--restore-from", SNAPSHOT, *PREDICTION, "--portion", "0.3")
    return world, run_chain(
        world,
        {
            "hard": generate,
            "soft": (*generate, "--lr-weight-ent", "0.25", "--save", "./soft"),
            "best": (*generate, "--best-images", "3", "--save", "./best"),
        },
    )


@pytest.fixture
def trained(finished, monkeypatch):
    """That working folder, made the current one."""
    monkeypatch.chdir(finished[0])
    return finished[0]


def read(path) -> dict:
    return json.loads(path.read_text())


@torch.inference_mode()
def probabilities(world) -> list[torch.Tensor]:
    """Each training image's probabilities (C, H, W): two scales and their mirror images, averaged."""
    network = restore_network(
        Namespace(restore_from=world / SNAPSHOT, num_classes=19, precision=None), torch.device("cpu")
    )
    found = []
    for name in IMAGES:
        pixels = pixels_of(world / "data/Cityscapes/data/leftImg8bit/train" / name)
        image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]
        total = 0
        for size in SIZES:
            small = torch.nn.functional.interpolate(image, size, mode="bicubic", antialias=True)
            for flip in (False, True):
                x = to_network_input(small.permute(0, 2, 3, 1))
                z1, z2 = network(x.flip(3) if flip else x)
                p = (0.5 * z1 + z2).softmax(1)
                p = p.flip(3) if flip else p
                total += torch.nn.functional.interpolate(p, (48, 96), mode="bilinear", align_corners=True)
        found.append(total[0] / 4)
    return found


def expected_labels(images: list[torch.Tensor]) -> tuple[list[np.ndarray], torch.Tensor]:
    scores = [class_balance.class_scores(p) for p in images]
    thresholds = [class_balance.class_threshold(torch.cat(s), 0.3) for s in zip(*scores, strict=True)]
    thresholds = torch.stack(thresholds)
    return [class_balance.hard_labels(p, thresholds).numpy() for p in images], thresholds


def test_labels_are_balanced_over_the_whole_set(finished):
    world, said = finished
    images = probabilities(world)
    labels, thresholds = expected_labels(images)
    found = [pixels_of(world / LABELS / name) for name in IMAGES]
    assert 0.2 < np.mean(np.array(found) != 255) < 0.5
    assert np.mean(np.array(found) == np.array(labels)) > 0.999  # rounding may differ
    summary = read(world / LABELS / "class_balance.json")
    assert summary["thresholds"] == pytest.approx(thresholds.tolist(), abs=1e-5)
    assert summary["selected"] == [int(0.3 * n) for n in summary["scores"]]
    assert summary["images"] == 4 and sum(summary["predicted_pixels"]) == 4 * 48 * 96
    labelled = [int((np.array(found) == c).sum()) for c in range(19)]
    assert summary["labelled_pixels"] == labelled and sum(n > 0 for n in labelled) > 5
    rare = [c for c, n in enumerate(summary["predicted_pixels"]) if n < 1e-3 * 4 * 48 * 96]
    assert summary["mined_classes"] == rare
    rows = {line.split("  ")[0]: line for line in said["hard"].stdout.splitlines()}
    assert f"{labelled[0]:,}" in rows["road"] and f"{thresholds[0]:.4f}" in rows["road"]
    vanished = [name for name in ("road", "train", "bicycle") if "no pixel" in rows[name]]
    assert vanished == [n for n, c in (("road", 0), ("train", 16), ("bicycle", 18)) if not labelled[c]]
    assert f"Labelled {100 * sum(labelled) / (4 * 48 * 96):.1f} % of the pixels" in said["hard"].stdout


def test_soft_labels_lie_beside_hard_ones(finished):
    world, _ = finished
    images = probabilities(world)
    _, thresholds = expected_labels(images)
    for name, p in zip(IMAGES, images, strict=True):
        soft = class_balance.soft_labels(p, thresholds, 0.25).numpy()
        planes = pixels_of(world / "soft" / name.replace(".png", "_soft.png")).reshape(19, 48, 96)
        assert np.mean(np.abs(planes / 255 - soft) < 0.51 / 255) > 0.999
        hard = pixels_of(world / "soft" / name)
        assert np.array_equal(hard == 255, planes.sum(0) == 0)
    assert read(world / "soft" / "class_balance.json")["lr_weight_ent"] == 0.25


def test_only_the_best_images_get_labels_and_shape_the_thresholds(finished):
    world, _ = finished
    images = dict(zip(IMAGES, probabilities(world), strict=True))
    best = sorted(sorted(images, key=lambda name: class_balance.image_score(images[name]))[1:])
    assert (world / "best" / "best_images.txt").read_text().split() == best
    labels, _ = expected_labels([images[name] for name in best])
    found = [pixels_of(world / "best" / name) for name in best]
    assert np.mean(np.array(found) == np.array(labels)) > 0.999
    assert len([*(world / "best").rglob("*_color.png")]) == 3


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--portion", "0.3", "--threshold", "0.9"), "--threshold"),
        (("--portion", "0.333"), "--save"),
        (("--best-images", "3"), "--portion"),
        (("--lr-weight-ent", "0.25"), "--portion"),
    ],
)
def test_flags_that_do_not_fit_are_refused(flags, named, trained, run_main):
    command = ("generate_plabel_cityscapes", "--restore-from", SNAPSHOT, *PREDICTION)
    one_line_error(run_main(*command, *flags), named)


# Training


@pytest.mark.parametrize("method", ["MRKLD", "LRENT"])
def test_a_round_learns_from_both_domains_and_resumes_exactly(method, trained, run_main):
    flags = ("--lr-weight-ent", "0.25", "--pseudo-dir", "./soft") if method == "LRENT" else ()
    whole = run_main(*SELF_TRAINING, *flags, "--snapshot-dir", f"./{method}/whole")
    assert whole.returncode == 0, whole.stderr
    assert "Labelled: 6 images" in whole.stdout  # 4 of the target and half of the source's 4
    parts = (*SELF_TRAINING, *flags, "--snapshot-dir", f"./{method}/parts")
    assert run_main(*parts, "--num-steps-stop", "2").returncode == 0
    assert run_main(*parts, "--num-steps-stop", "4", "--resume").returncode == 0
    one, two = (trained / method / name / "GTA5_4.pth" for name in ("whole", "parts"))
    assert one.read_bytes() == two.read_bytes()
    assert one.read_bytes() != (trained / SNAPSHOT).read_bytes()


def test_other_source_images_are_noticed_on_resume(trained, run_main):
    flags = (*SELF_TRAINING, "--snapshot-dir", "./other", "--num-steps-stop")
    assert run_main(*flags, "1").returncode == 0
    images = trained / "data/GTA5/images"
    (images / "00001.png").rename(images / "00009.png")
    labels = trained / "data/GTA5/labels"
    (labels / "00001.png").rename(labels / "00009.png")
    try:
        resumed = run_main(*flags, "1", "--resume")
    finally:
        (images / "00009.png").rename(images / "00001.png")
        (labels / "00009.png").rename(labels / "00001.png")
    assert "uninterrupted run would have computed: other source images." in resumed.stdout


def test_the_target_stream_is_seen_only_where_something_depends_on_it(trained, run_main, monkeypatch):
    seen, segment = [], AD_Trainer.segment
    monkeypatch.setattr(
        AD_Trainer, "segment", lambda self, x, **more: seen.append(len(x)) or segment(self, x, **more)
    )
    passes, snapshots = [], []
    for every, flags in ((1, ()), (3, ("--save-num-images", "0"))):  # pictures show it
        folder = trained / "seen" / str(every)
        result = run_main(*SELF_TRAINING, *flags, "--log-every", every, "--snapshot-dir", folder)
        assert result.returncode == 0, result.stderr
        passes.append(len(seen))
        seen.clear()
        log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        snapshots.append(((folder / "GTA5_4.pth").read_bytes(), {line["iteration"]: line for line in log}))
    assert passes == [8, 6]  # of 4 iterations, 0 and 3 are logged
    (one, log), (two, shorter) = snapshots
    assert one == two and shorter == {i: log[i] for i in (0, 3)} and log[3]["val"] > 0


def test_the_rectified_loss_learns_from_class_balanced_labels(trained, run_main):
    rectified = [flag for flag in SELF_TRAINING if flag != "--conventional"]
    mine = rectified.index("--source-portion")
    del rectified[mine : mine + 6]  # images of the target alone, crops as ever
    at = rectified.index("--portion")
    runs = {
        "balanced": rectified,
        "folder": [*rectified[:at], *rectified[at + 2 :], "--pseudo-dir", str(trained / LABELS)],
        "conventional": [*rectified, "--conventional"],
    }
    bytes_of = {}
    for name, flags in runs.items():
        result = run_main(*flags, "--num-steps-stop", "2", "--snapshot-dir", f"./rectified/{name}")
        assert result.returncode == 0, result.stderr
        bytes_of[name] = (trained / "rectified" / name / "GTA5_2.pth").read_bytes()
    assert bytes_of["balanced"] == bytes_of["folder"] != bytes_of["conventional"]


def test_the_mixed_stream_has_true_labels_of_other_source_images_for_each_seed(trained):
    size = dict(input_size=(48, 80), crop_size=(48, 80), labelled_stream=True)

    def mixed(seed: int) -> MixedDataset:
        target = build_dataset("cityscapes", pseudo=True, portion=0.3, **size)
        return MixedDataset(target, build_dataset("gta5", **size), 0.5, seed)

    sets = [mixed(seed) for seed in range(8)]
    assert {len(data) for data in sets} == {6}
    chosen = [tuple(data.names[4:]) for data in sets]
    assert len(set(chosen)) > 2 and all(len(set(names)) == 2 for names in chosen)
    samples = [sets[0].sample(index, np.random.default_rng(0)) for index in range(6)]
    assert [sample["pseudo"] for sample in samples] == [True] * 4 + [False] * 2
    assert [sample["name"] for sample in samples] == [*IMAGES, *chosen[0]]
    for sample in samples[4:]:
        ids = pixels_of(trained / "data/GTA5/labels" / sample["name"])
        classes = {LABEL_IDS.index(i) for i in np.unique(ids).tolist() if i in LABEL_IDS}
        found = set(np.unique(sample["label"]).tolist()) - {IGNORED}
        assert found and found <= classes


def test_crops_are_centred_on_rare_classes_with_their_probability(trained):
    folder = trained / "one-pixel"
    shutil.copytree(trained / LABELS, folder)
    for name in IMAGES:  # one pixel of class 6 in the lower right quarter, of class 7 in none
        label = np.zeros((48, 96), np.uint8)
        label[40, 80] = 6
        save_png(folder / name, label)
    balance = read(folder / "class_balance.json") | {"mined_classes": [6, 7]}
    (folder / "class_balance.json").write_text(json.dumps(balance))
    options = dict(input_size=(48, 96), crop_size=(16, 24), pseudo_dir=folder, label_scales=(1, 1))
    data = build_dataset("cityscapes", pseudo=True, portion=0.3, mine_chance=0.8, **options)
    rng = np.random.default_rng(0)
    labels = [data.sample(index % 4, rng)["label"] for index in range(400)]
    seen = np.mean([(label == 6).any().item() for label in labels])
    at_random = 8 / 33 * 16 / 73  # offsets that show the pixel, of all
    assert seen == pytest.approx(0.8 + 0.2 * at_random, abs=0.06)
    centred = [tuple(np.argwhere(label.numpy() == 6)[0]) for label in labels if (label == 6).any()]
    assert np.mean([place in ((8, 12), (8, 11)) for place in centred]) > 0.9


def test_soft_labels_are_scaled_with_their_image_and_add_up_to_1(trained):
    options = dict(crop_size=(40, 64), pseudo_dir="./soft", lr_weight_ent=0.25)
    data = build_dataset("cityscapes", pseudo=True, portion=0.3, input_size=(48, 96), **options)
    for index in range(8):
        sample = data.sample(index % 4, np.random.default_rng(index))
        soft, label = sample["soft_labels"], sample["label"]
        assert soft.shape == (19, 40, 64) and soft.dtype == torch.float32
        labelled = label != IGNORED
        assert torch.allclose(soft.sum(0), labelled.float(), atol=1e-6)
        agree = soft.argmax(0)[labelled] == label[labelled]
        assert agree.float().mean() > 0.9  # nearest and bilinear differ at borders
    data = build_dataset(
        "cityscapes", pseudo=True, portion=0.3, input_size=(48, 96), label_scales=(1, 1), **options
    )
    sample = data.sample(0, np.random.default_rng(0))
    planes = pixels_of(trained / "soft" / IMAGES[0].replace(".png", "_soft.png")).reshape(19, 48, 96)
    values = np.unique(planes.max(0))
    largest = np.unique((sample["soft_labels"].amax(0) * 255).round().numpy())
    assert np.isin(largest, [*values, *values + 1, *values - 1]).all()  # sums of rounded values are not 255


def test_the_regulariser_counts_target_pixels_twice_weighted_and_source_pixels_by_their_own(float64):
    flags = "--arch mini --num-classes 5 --crop-size 24,16 --conventional --mr-weight-src 0.2"
    z1, z2 = (torch.randn(3, 5, 16, 24) for _ in range(2))
    labels = torch.randint(0, 5, (3, 16, 24))
    labels[:, :4] = IGNORED
    found = {}
    for beta in (0.1, 1e-12):
        trainer = AD_Trainer(stage2_args([*flags.split(), "--mr-weight-kld", str(beta)]))
        trainer.class_weight = torch.ones(5)
        trainer.image_weights = torch.tensor([0.1, 0.2, 0.1])
        seg1, seg2 = trainer.segmentation_losses(z1, z2, labels)
        found[beta] = seg1 | seg2
    for name, z in (("seg1", z1), ("seg2", z2)):
        divergence = -z.log_softmax(1).mean(1)[:, 4:]
        added = 0.1 * (torch.tensor([0.1, 0.2, 0.1]) * divergence.mean((1, 2))).mean()
        assert (found[0.1][name] - found[1e-12][name]).item() == pytest.approx(added.item(), rel=1e-9)


def test_labels_made_with_other_flags_are_refused(trained, run_main):
    flags = (*SELF_TRAINING, "--snapshot-dir", "./refused")
    one_line_error(run_main(*flags, "--portion", "0.2"), "pseudo_CB_0.20/train/class_balance.json")
    one_line_error(run_main(*flags, "--lr-weight-ent", "0.25"), "--lr-weight-ent 0.0, not 0.25")
    one_line_error(run_main(*flags, "--source-portion", "0.1"), "--source-portion 0.1")


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--portion", "0.3", "--threshold", "0.9"), "--threshold"),
        (("--portion", "0.333"), "--pseudo-dir"),
        (("--mine-chance", "0.8"), "--portion"),
        (("--lr-weight-ent", "0.25"), "--portion"),
        (("--mr-weight-src", "0.1"), "--mr-weight-kld"),
        (("--source-dir", "data/GTA5"), "--source-portion"),
    ],
)
def test_flags_of_training_that_do_nothing_are_refused(flags, named, trained, run_main):
    one_line_error(run_main("train_ft", *TRAINING, *flags), named)


def test_classes_without_a_pseudo_label_are_named(trained, run_main):
    balance = read(trained / LABELS / "class_balance.json")
    absent = [c for c, count in enumerate(balance["labelled_pixels"]) if not count]
    result = run_main(*SELF_TRAINING, "--num-steps-stop", "1", "--snapshot-dir", "./named")
    names = [name for c, name in enumerate(CITYSCAPES_COLORS) if c in absent]
    assert bool(absent) == (f"No pseudo label is {', '.join(names)}:" in result.stdout)


# Rounds


ROUNDS = ("self_train", "--restore-from", SNAPSHOT, "--source-portion", "0.5", "--source-portion-max", "0.5")
SCRIPTS = ("generate_plabel", "train_ft", "evaluate_cityscapes")
TINY = "--input-size 72,40 --cpu --num-workers 0"
OF_SCRIPTS = (
    *("--generate", f"{TINY} --scales 1", "--evaluate", f"{TINY} --scales 1"),
    *("--train", f"{TINY} --crop-size 64,32 --input-size-source 80,48 --input-size-target 72,40"),
)


def test_rounds_follow_the_published_schedule(trained):
    args = self_train_args(
        [*f"--restore-from {SNAPSHOT} --rounds 8 --mr-weight-kld 0.1 --best-images 3 --random-seed 0".split()]
        + ["--source-portion", "0.5", "--source-portion-step", "0.25", "--source-portion-max", "1"]
    )
    snapshot, options = read_snapshot(SNAPSHOT)
    pair = recognise(snapshot, options, None, None)
    jobs = runner.unfinished(Rounds(args, pair, options).evaluations().values())
    kinds = {kind: [job.command for job in jobs if kind in job.command] for kind in SCRIPTS}
    assert [len(kinds[kind]) for kind in SCRIPTS] == [8, 8, 9]
    portions = [re.search(r"--portion (\S+)", c)[1] for c in kinds["generate_plabel"]]
    assert portions == ["0.2", "0.25", "0.3", "0.35", "0.4", "0.45", "0.5", "0.5"]
    assert [re.search(r"--portion (\S+)", c)[1] for c in kinds["train_ft"]] == portions
    source = [re.search(r"--source-portion (\S+)", c)[1] for c in kinds["train_ft"]]
    assert source[:4] == ["0.5", "0.75", "1.0", "1.0"]
    steps = [int(re.search(r"--num-steps (\d+)", c)[1]) for c in kinds["train_ft"]]
    assert steps[:3] == [2 * 3, 2 * 3, 2 * 4]  # (2, 3, 4 of the source + 3 of the target) / 2, twice
    assert [re.search(r"--random-seed (\d+)", c)[1] for c in kinds["train_ft"]] == list("01234567")
    assert ["--best-images 3" in c for c in kinds["generate_plabel"]] == [True] + 7 * [False]
    assert all("round1/labels/best_images.txt" in c for c in kinds["generate_plabel"][1:] + kinds["train_ft"])
    assert all("--mr-weight-kld 0.1" in c and "--nesterov False" in c for c in kinds["train_ft"])
    for later, earlier in zip(kinds["generate_plabel"][1:], steps, strict=False):
        assert f"GTA5_{earlier}.pth" in later


def test_a_round_labels_trains_and_evaluates_and_is_not_repeated(trained, run_main):
    command = (*ROUNDS, "--rounds", "1", "--epochs", "1", "--out", "./rounds", *OF_SCRIPTS)
    result = run_main(*command)
    assert result.returncode == 0, result.stderr
    folders = ("start", "round1/evaluation")
    mious = [read(trained / "rounds" / folder / "metrics.json")["miou"] for folder in folders]
    shown = dict(line.rsplit(maxsplit=1) for line in result.stdout.splitlines()[-2:])
    assert shown == {"start": f"{100 * mious[0]:.2f}", "round 1": f"{100 * mious[1]:.2f}"}
    assert (trained / "rounds/round1/GTA5_3.pth").is_file()
    again = run_main(*command)
    assert "started" in result.stdout and "started" not in again.stdout
    assert again.stdout.splitlines()[-2:] == result.stdout.splitlines()[-2:]


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ((), "--restore-from"),
        (("--restore-from", SNAPSHOT, "--portion", "0"), "--portion"),
        (("--restore-from", SNAPSHOT, "--source-portion", "0.5"), "--source-portion-max"),
    ],
)
def test_flags_of_rounds_that_make_no_sense_are_refused(flags, named, trained, run_main):
    one_line_error(run_main("self_train", *flags), named)
