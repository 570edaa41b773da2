"""What a user can put right: one line that names it, exit status 2, and nothing damaged."""

import struct
import zlib

import numpy as np
import pytest
import torch
import yaml

from dataset.cityscapes import CITYSCAPES_COLORS
from model.deeplab_multi import DeeplabMulti
from tests.conftest import (
    PREDICTION,
    TRAINING,
    cityscapes_names,
    files_of,
    one_line_error,
    run_script,
    save_png,
)
from utils.errors import run_script as run_guarded
from utils.options import stage1_args, write_options

IMAGE = "data/GTA5/images/00002.png"
LABEL = "data/GTA5/labels/00002.png"
TARGET = "data/Cityscapes/data"
TARGET_IMAGE = f"{TARGET}/leftImg8bit/train/{cityscapes_names(1)[0]}"
TARGET_LABEL = TARGET_IMAGE.replace("leftImg8bit", "gtFine", 1).replace("leftImg8bit", "gtFine_labelIds")
VAL_LABEL = TARGET_LABEL.replace("train", "val")


def keep_bytes(path, share):
    """Cut a file short."""
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])


def spoil_middle(path):
    """A PNG whose header and end are right and whose pixels are not."""
    whole = bytearray(path.read_bytes())
    middle = len(whole) // 2
    whole[middle : middle + 200] = bytes(200)
    path.write_bytes(whole)


def png_of_size(width, height):
    """A PNG header that claims any size, and hardly any pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


def save_snapshot(folder, name="GTA5_4.pth", flags="--norm-style gn --use-se", options=True):
    """A snapshot of untrained weights, with the flags beside it."""
    args = stage1_args(["--arch", "mini", *flags.split()])
    network = DeeplabMulti(
        args.num_classes, args.use_se, args.train_bn, args.norm_style, args.droprate, args.arch
    )
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), folder / name)
    if options:
        write_options(folder, args, CITYSCAPES_COLORS)
    return folder / name


def refused(run_main, folder, script, *flags, named, untouched=True):
    """Run into an error; assert its one line and that all files are as before, by default none added."""
    before = files_of(folder)
    result = run_main(script, *flags)
    line = one_line_error(result, *named)
    after = files_of(folder)
    assert {path: after.get(path) for path in before} == before
    assert not untouched or after.keys() == before.keys()
    return line


# Training: found before it starts


def empty_list(world):
    (world / "list.txt").write_text("\n \n")


def list_of(*names):
    def write(world):
        (world / "list.txt").write_text("\n".join(names))

    return write


def binary_list(world):
    (world / "list.txt").write_bytes((world / IMAGE).read_bytes())


def no_images(world):
    for file in (world / "data/GTA5/images").iterdir():
        file.unlink()


def damage(path, how, *options):
    return lambda world: how(world / path, *options)


def nothing(world):
    pass


def file_instead(name):
    return lambda world: (world / name).write_text("a file of the user's")


def bigger_label(path):
    save_png(path, np.full((50, 80), 7, np.uint8))


def colour_label(path):
    save_png(path, np.zeros((48, 80, 3), np.uint8))


def text_file(path):
    path.write_text("<html>404 Not Found</html>")


def folder_instead(path):
    path.unlink()
    path.mkdir()


FOUND_EARLY = {
    "no data folder": (nothing, "--data-dir ./nowhere", ["nowhere/images", "no such folder"]),
    "no target folder": (
        nothing,
        "--data-dir-target ./nowhere",
        ["nowhere/leftImg8bit/train", "no such folder"],
    ),
    "no such split": (nothing, "--set trian", [f"{TARGET}/leftImg8bit/trian", "no such folder"]),
    "a file as data folder": (file_instead("GTA5"), "--data-dir ./GTA5", ["GTA5/images", "no such folder"]),
    "an empty folder": (no_images, "", ["data/GTA5/images", "no file here ends in .png"]),
    "no list": (nothing, "--data-list nowhere.txt", ["nowhere.txt", "cannot read this list"]),
    "an empty list": (empty_list, "--data-list list.txt", ["list.txt", "the list is empty"]),
    "an empty target list": (empty_list, "--data-list-target list.txt", ["list.txt", "the list is empty"]),
    "a picture as list": (binary_list, "--data-list list.txt", ["list.txt", "cannot read this list"]),
    "a folder as list": (nothing, "--data-list data", ["data: cannot read this list"]),
    "a name without a file": (
        *(list_of("00001.png", "00077.png"), "--data-list list.txt"),
        ["data/GTA5/images/00077.png", "no such file"],
    ),
    "a name that climbs out": (
        *(list_of("00001.png", "../images/00002.png"), "--data-list list.txt"),
        ["list.txt", "../images/00002.png", "leaves the data folder"],
    ),
    "an absolute name": (list_of("/etc/hosts"), "--data-list list.txt", ["list.txt", "/etc/hosts", "leaves"]),
    "a name with a zero byte": (list_of("0000\0.png"), "--data-list list.txt", ["0000"]),
    "a folder's name": (list_of("aachen"), "--data-list-target list.txt", ["leftImg8bit/train/aachen"]),
    "an image cut short": (damage(IMAGE, keep_bytes, 0.6), "", [IMAGE, "cut short"]),
    "a target image cut short": (damage(TARGET_IMAGE, keep_bytes, 0.99), "", [TARGET_IMAGE, "cut short"]),
    "an empty file": (damage(IMAGE, keep_bytes, 0), "", [IMAGE, "not a readable image"]),
    "a text file as image": (damage(IMAGE, text_file), "", [IMAGE, "not a readable image"]),
    "a folder as image": (damage(IMAGE, folder_instead), "", [IMAGE]),
    "an image of absurd size": (
        *(lambda world: (world / IMAGE).write_bytes(png_of_size(60000, 60000)), ""),
        [IMAGE],
    ),
    "a label cut short": (damage(LABEL, keep_bytes, 0.9), "", [LABEL, "cut short"]),
    "a missing label": (lambda world: (world / LABEL).unlink(), "", [LABEL, "no such label file"]),
    "a label of another size": (damage(LABEL, bigger_label), "", [LABEL, "80x50", "80x48"]),
    "a target label of another size": (
        damage(TARGET_LABEL, bigger_label),
        "",
        [TARGET_LABEL, "80x50", "96x48"],
    ),
    "a label in colours": (damage(LABEL, colour_label), "", [LABEL, "one id per pixel", "RGB"]),
    "too few classes": (nothing, "--num-classes 16", ["--num-classes 16", "19"]),
    "a crop larger than the target": (
        nothing,
        "--crop-size 80,32",
        ["--crop-size 80,32", "--input-size-target"],
    ),
    "a crop larger than the source": (nothing, "--crop-size 64,32 --input-size 50,48", ["--crop-size 64,32"]),
    "a crop too small for instance norm": (nothing, "--norm-style in --crop-size 8,8", ["--crop-size 8,8"]),
    "no checkpoint": (nothing, "--restore-from a.pth", ["--restore-from a.pth", "no such file"]),
    "a folder as checkpoint": (nothing, "--restore-from data", ["--restore-from data"]),
    "a picture as checkpoint": (
        nothing,
        f"--restore-from {IMAGE}",
        [f"--restore-from {IMAGE}", "not a checkpoint"],
    ),
    "a file as snapshot folder": (
        *(file_instead("snap"), "--snapshot-dir ./snap"),
        ["snap", "cannot write", "another folder"],
    ),
    "a file in the snapshot folder's way": (
        *(file_instead("snap"), "--snapshot-dir ./snap/stage1"),
        ["snap/stage1", "cannot write"],
    ),
}


@pytest.mark.parametrize("case", FOUND_EARLY)
def test_training_refuses_before_it_starts(case, world, run_main):
    prepare, flags, named = FOUND_EARLY[case]
    prepare(world)
    refused(run_main, world, "train_ms", *TRAINING, *flags.split(), named=named)


@pytest.mark.parametrize(
    ("of_snapshot", "flags", "named"),
    [
        ("--num-classes 16 --norm-style gn", "--norm-style gn", ["16 classes", "not 19", "--num-classes"]),
        ("--norm-style bn", "--norm-style gn", ["another network", "--norm-style"]),
        ("--use-se --norm-style gn", "--norm-style gn", ["another network", "--use-se"]),
    ],
)
def test_training_refuses_a_snapshot_of_another_network(of_snapshot, flags, named, world, run_main):
    snapshot = save_snapshot(world / "old", flags=of_snapshot)
    flags = (*TRAINING, *flags.split(), "--restore-from", snapshot)
    refused(run_main, world, "train_ms", *flags, named=[f"--restore-from {snapshot}", *named])


def test_training_refuses_a_discriminator_as_network(world, run_main):
    snapshot = world / "GTA5_4_D1.pth"
    torch.save({"cnns.0.0.conv.weight": torch.zeros(3)}, snapshot)
    named = [f"--restore-from {snapshot}", "another network"]
    refused(run_main, world, "train_ms", *TRAINING, "--restore-from", snapshot, named=named)


def test_a_log_folder_that_cannot_be_written_is_named(world, run_main):
    file_instead("logs")(world)
    named = ["logs", "cannot write the log"]
    refused(run_main, world, "train_ms", *TRAINING, "--log-dir", "./logs", named=named, untouched=False)


def test_a_full_disk_is_one_line(world, run_main):
    (world / "snapshots").mkdir()
    (world / "snapshots" / "log.jsonl").symlink_to("/dev/full")
    one_line_error(run_main("train_ms", *TRAINING), "log.jsonl", "No space left on device")


# Training: found on the way


def unknown_id(path):
    save_png(path, np.full((48, 80), 77, np.uint8))


@pytest.mark.parametrize("workers", ["0", "1"])
@pytest.mark.parametrize(
    ("prepare", "named"),
    [
        (damage(LABEL, unknown_id), [LABEL, "77", "not a label of this data set"]),
        (damage(IMAGE, spoil_middle), [IMAGE, "not a readable image"]),
        (damage(TARGET_IMAGE, spoil_middle), [TARGET_IMAGE, "not a readable image"]),
    ],
)
def test_what_only_decoding_shows_stops_training_in_one_line(prepare, named, workers, world, run_main):
    prepare(world)
    flags = (*TRAINING, "--num-steps", "8", "--num-workers", workers)
    refused(run_main, world, "train_ms", *flags, named=named, untouched=False)


def test_a_16_bit_label_with_ids_beyond_a_byte_is_refused(world, run_main):
    save_png(world / LABEL, np.full((48, 80), 700, np.uint16))
    named = [LABEL, "700", "not a label of this data set"]
    refused(run_main, world, "train_ms", *TRAINING, "--num-steps", "8", named=named, untouched=False)


def test_a_refused_run_leaves_an_earlier_run_in_its_folder_usable(world, run_main):
    snapshot = save_snapshot(world / "snapshots", flags="--norm-style gn --use-se")
    (world / "snapshots" / "log.jsonl").write_text('{"iteration": 0}\n')
    unknown_id(world / LABEL)
    flags = (*TRAINING, "--num-steps", "8", "--norm-style", "bn")
    one_line_error(run_main("train_ms", *flags))
    result = run_main("generate_plabel_cityscapes", "--restore-from", snapshot, *PREDICTION)
    assert result.returncode == 0, "opts.yaml no longer fits the snapshots beside it: " + result.stderr


def test_a_loss_that_is_not_finite_stops_training_and_is_named(world, run_main):
    flags = (*TRAINING, "--learning-rate", "1e30", "--num-steps", "8")
    named = ["iteration 1", "seg1 nan", ".png", "_leftImg8bit.png", "--learning-rate", "--resume"]
    refused(run_main, world, "train_ms", *flags, named=named, untouched=False)


def test_no_snapshot_of_a_broken_network_is_written(world, run_main):
    flags = (*TRAINING, "--learning-rate", "1e30", "--num-steps", "8", "--log-every", "5")
    one_line_error(run_main("train_ms", *flags), "--learning-rate")
    for file in (world / "snapshots").glob("GTA5_?.pth"):
        state = torch.load(file, weights_only=True)
        assert all(value.isfinite().all() for value in state.values()), file.name


# Stage II


def test_stage_2_without_pseudo_labels_says_how_to_make_them(world, run_main):
    named = [f"{TARGET}/pseudo_FULL/train/{cityscapes_names(1)[0]}", "generate_plabel_cityscapes.py"]
    refused(run_main, world, "train_ft", *TRAINING, named=named)
    named = [f"{TARGET}/pseudo_0.9/train/{cityscapes_names(1)[0]}", "--threshold"]
    refused(run_main, world, "train_ft", *TRAINING, "--threshold", "0.9", named=named)


def test_stage_2_refuses_labels_that_are_no_train_ids(world, run_main):
    for name in cityscapes_names(2):
        save_png(world / TARGET / "pseudo_FULL" / "train" / name, np.full((48, 96), 33, np.uint8))
    named = [f"{TARGET}/pseudo_FULL/train/", "_leftImg8bit.png", "33", "not a label"]
    refused(run_main, world, "train_ft", *TRAINING, named=named, untouched=False)


# Prediction


@pytest.fixture
def snapshot(world):
    """A snapshot with its flags in ./snapshots/old."""
    return save_snapshot(world / "snapshots" / "old")


SCRIPTS = ("generate_plabel_cityscapes", "evaluate_cityscapes")


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_snapshot_without_its_flags_is_refused(script, world, run_main):
    alone = save_snapshot(world / "alone", options=False)
    named = [world / "alone" / "opts.yaml", "no such file"]
    refused(run_main, world, script, "--restore-from", alone, *PREDICTION, named=named)


def spoil(**changed):
    def prepare(world):
        file = world / "snapshots" / "old" / "opts.yaml"
        file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | changed))

    return prepare


BEFORE_PREDICTING = {
    "no snapshot": (nothing, "--restore-from nowhere.pth", ["--restore-from nowhere.pth", "no such file"]),
    "a folder as snapshot": (nothing, "--restore-from snapshots/old", ["--restore-from snapshots/old"]),
    "a URL": (
        nothing,
        "--restore-from https://a.org/GTA5_4.pth",
        ["--restore-from https://a.org/GTA5_4.pth"],
    ),
    "no data folder": (nothing, "--data-dir ./nowhere", ["nowhere/leftImg8bit", "no such folder"]),
    "no such split": (nothing, "--set trian", ["leftImg8bit/trian", "no such folder"]),
    "other classes": (nothing, "--num-classes 16", ["--num-classes 16", "19"]),
    "a snapshot cut short": (
        damage("snapshots/old/GTA5_4.pth", keep_bytes, 0.5),
        "",
        ["GTA5_4.pth", "not a checkpoint"],
    ),
    "flags of another network": (spoil(norm_style="bn"), "", ["GTA5_4.pth", "another network"]),
    "a norm style that is none": (spoil(norm_style="batch"), "", ["opts.yaml", "norm_style"]),
    "classes that are no number": (spoil(num_classes="many"), "", ["num"]),
    "a drop rate that is none": (spoil(droprate="much"), "", ["opts.yaml", "droprate"]),
    "an architecture that is none": (spoil(arch="huge"), "", ["opts.yaml", "arch"]),
}


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("case", BEFORE_PREDICTING)
def test_prediction_refuses_before_it_starts(script, case, world, snapshot, run_main):
    prepare, flags, named = BEFORE_PREDICTING[case]
    prepare(world)
    flags = (*PREDICTION, "--restore-from", snapshot, *flags.split())
    refused(run_main, world, script, *flags, named=named)


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_image_that_cannot_be_decoded_stops_prediction_in_one_line(script, world, snapshot, run_main):
    broken = world / (TARGET_IMAGE if script.startswith("generate") else TARGET_IMAGE.replace("train", "val"))
    spoil_middle(broken)
    flags = (*PREDICTION, "--restore-from", snapshot, "--num-workers", "1")
    refused(run_main, world, script, *flags, named=[broken.name, "not a readable image"], untouched=False)


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_output_folder_that_cannot_be_written_is_named(script, world, snapshot, run_main):
    file_instead("out")(world)
    flags = (*PREDICTION, "--restore-from", snapshot, "--save", "./out")
    refused(run_main, world, script, *flags, named=["out/", "cannot write"])


def test_evaluation_needs_every_label(world, snapshot, run_main):
    (world / VAL_LABEL).unlink()
    flags = ("--restore-from", snapshot, *PREDICTION)
    refused(run_main, world, "evaluate_cityscapes", *flags, named=[VAL_LABEL, "no such label file"])


def test_evaluation_refuses_labels_with_unknown_ids(world, snapshot, run_main):
    save_png(world / VAL_LABEL, np.full((48, 96), 77, np.uint8))
    flags = ("--restore-from", snapshot, *PREDICTION)
    named = [VAL_LABEL, "77", "not a label of this data set"]
    refused(run_main, world, "evaluate_cityscapes", *flags, named=named, untouched=False)


def write_predictions(world, pixels=None):
    """Predictions of the validation images by file."""
    pixels = np.zeros((48, 96), np.uint8) if pixels is None else pixels
    for name in cityscapes_names(2):
        save_png(world / "predictions" / name, pixels)


def missing_prediction(world):
    write_predictions(world)
    (world / "predictions" / cityscapes_names(2)[1]).unlink()


FILES_TO_SCORE = {
    "no folder": (nothing, "", ["predictions/aachen/", "no such prediction"]),
    "one is missing": (missing_prediction, "", [cityscapes_names(2)[1], "no such prediction", "1"]),
    "another size": (
        *(lambda world: write_predictions(world, np.zeros((24, 48), np.uint8)), ""),
        [cityscapes_names(1)[0], "24", "48"],
    ),
    "pictures": (
        *(lambda world: write_predictions(world, np.zeros((48, 96, 3), np.uint8)), ""),
        [cityscapes_names(1)[0], "one id per pixel", "RGB"],
    ),
    "fewer classes than the data": (write_predictions, "--num-classes 10", ["--num-classes 10"]),
    "more classes than the data": (write_predictions, "--num-classes 25", ["--num-classes 25"]),
}


@pytest.mark.parametrize("case", FILES_TO_SCORE)
def test_files_that_cannot_be_scored_are_refused(case, world, run_main):
    prepare, flags, named = FILES_TO_SCORE[case]
    prepare(world)
    flags = ("--predictions", "./predictions", *flags.split())
    refused(run_main, world, "evaluate_cityscapes", *flags, named=named)


def test_a_network_of_more_classes_than_the_data_names_is_evaluated_or_refused(world, run_main):
    snapshot = save_snapshot(world / "snapshots" / "more", flags="--num-classes 25")
    result = run_main("evaluate_cityscapes", "--restore-from", snapshot, "--num-classes", "25", *PREDICTION)
    if result.returncode:
        one_line_error(result, "--num-classes")


# As real processes: what the tests above cannot see, such as other noise on standard error


def test_processes_say_one_line_and_exit_with_2(world):
    result = run_script("train_ms", *TRAINING, "--data-dir", "./nowhere", cwd=world)
    line = one_line_error(result, "nowhere/images: no such folder")
    assert line.startswith("train_ms.py: error: ") and result.stdout == ""

    (world / "alone").mkdir()
    torch.save({"conv1.weight": torch.zeros(3)}, world / "alone" / "GTA5_4.pth")
    result = run_script("evaluate_cityscapes", "--restore-from", "./alone/GTA5_4.pth", "--cpu", cwd=world)
    line = one_line_error(result, "alone/opts.yaml: no such file")
    assert line.startswith("evaluate_cityscapes.py: error: ")


def test_a_worker_process_passes_its_error_on_in_one_line(world):
    spoil_middle(world / IMAGE)
    result = run_script("train_ms", *TRAINING, "--num-steps", "8", "--num-workers", "2", cwd=world)
    assert one_line_error(result, IMAGE, "not a readable image").startswith("train_ms.py: error: ")


def test_an_interrupted_run_says_so_without_a_traceback(capsys):
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as leaving:
        run_guarded(interrupted)
    assert leaving.value.code == 130
    assert capsys.readouterr().err.splitlines()[0].endswith("interrupted")


@pytest.mark.parametrize("script", ["train_ms", "train_ft", *SCRIPTS])
def test_help_needs_no_data(script, tmp_path, monkeypatch, run_main):
    monkeypatch.chdir(tmp_path)
    result = run_main(script, "--help")
    assert result.returncode == 0 and "--restore-from" in result.stdout and result.stderr == ""
    assert not files_of(tmp_path)
