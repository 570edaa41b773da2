"""The scripts' flags: the published command lines, every flag with its default, and what is refused."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from evaluate_cityscapes import evaluate_args
from generate_plabel_cityscapes import generate_args
from segment import segment_args
from self_train import self_train_args
from tables import tables_args
from tests.conftest import ROOT, load_script, one_line_error
from utils import options
from utils.errors import UserError
from utils.idle_flags import idle_flags
from utils.options import network_options, read_options, stage1_args, stage2_args

report_args = load_script("report").report_args  # a package has the same name
STAGES = {"stage1": stage1_args, "stage2": stage2_args}
COMMANDS = {"train_ms": stage1_args, "train_ft": stage2_args, "generate_plabel_cityscapes": generate_args}
COMMANDS |= {"evaluate_cityscapes": evaluate_args, "self_train": self_train_args, "tables": tables_args}
STAGE1_FOLDER = "./snapshots/SE_GN_batchsize2_1024x512_pp_ms_me0_classbalance7_kl0.1_lr2_drop0.1_seg0.5"
STAGE2_FOLDER = (
    "./snapshots/1280x640_restore_ft_GN_batchsize9_512x256_pp_ms_me0_classbalance7_kl0_lr1_drop0.2_seg0.5"
    "_BN_80_255_0.8_Noaug"
)
STAGE1_COMMAND = (
    f"train_ms.py --snapshot-dir {STAGE1_FOLDER}  --drop 0.1 --warm-up 5000 --batch-size 2 "
    "--learning-rate 2e-4 --crop-size 1024,512 --lambda-seg 0.5  --lambda-adv-target1 0.0002 "
    "--lambda-adv-target2 0.001   --lambda-me-target 0  --lambda-kl-target 0.1  --norm-style gn  "
    "--class-balance  --only-hard-label 80  --max-value 7  --gpu-ids 0,1  --often-balance  --use-se"
)
STAGE2_COMMAND = (
    f"train_ft.py --snapshot-dir {STAGE2_FOLDER} --restore-from {STAGE1_FOLDER}/GTA5_25000.pth --drop 0.2 "
    "--warm-up 5000 --batch-size 9 --learning-rate 1e-4 --crop-size 512,256 --lambda-seg 0.5 "
    "--lambda-adv-target1 0 --lambda-adv-target2 0 --lambda-me-target 0 --lambda-kl-target 0 --norm-style gn "
    "--class-balance --only-hard-label 80 --max-value 7 --gpu-ids 0,1,2 --often-balance  --use-se  "
    "--input-size 1280,640  --train_bn  --autoaug False"
)
TRAINING_DEFAULTS = dict(
    model="DeepLab",
    batch_size=16,
    iter_size=1,
    droprate=0.1,
    input_size=(720, 1280),
    crop_size=(360, 640),
    input_size_target=(512, 1024),
    learning_rate=2.5e-4,
    learning_rate_D=1e-4,
    momentum=0.9,
    weight_decay=5e-4,
    power=0.9,
    warm_up=0,
    num_steps=100000,
    num_steps_stop=100000,
    save_pred_every=5000,
    random_seed=1234,
    num_classes=19,
    max_value=2,
    lambda_seg=0.1,
    lambda_adv_target1=0.0002,
    lambda_adv_target2=0.001,
    lambda_me_target=0,
    lambda_kl_target=0,
    only_hard_label=0,
    norm_style="bn",
    gpu_ids=[0],
    snapshot_dir=Path("./snapshots/"),
    log_dir=Path("./log"),
    set="train",
    target="cityscapes",
    data_dir=Path("./data/GTA5"),
    data_list=None,
    data_dir_target=Path("./data/Cityscapes/data"),
    data_list_target=None,
    restore_from="imagenet",
    ignore_label=255,
    tensorboard=True,
    reg_start=15000,
)
SWITCHES = (
    *("class-balance", "often-balance", "use-se", "train_bn", "sync_bn", "fp16", "random-mirror"),
    *("random-scale", "not-restore-last", "cpu", "autoaug", "autoaug_target"),
)
VALUED_FLAGS = {  # flag, what is written, what is read
    "model": ("DeepLab", "DeepLab"),
    "batch-size": ("3", 3),
    "iter-size": ("2", 2),
    "num-workers": ("0", 0),
    "droprate": ("0.3", 0.3),
    "input-size": ("1000,700", (700, 1000)),
    "crop-size": ("500,250", (250, 500)),
    "input-size-target": ("900,450", (450, 900)),
    "learning-rate": ("1e-3", 1e-3),
    "learning-rate-D": ("2e-4", 2e-4),
    "momentum": ("0.8", 0.8),
    "weight-decay": ("1e-4", 1e-4),
    "power": ("0.5", 0.5),
    "warm-up": ("100", 100),
    "num-steps": ("500", 500),
    "num-steps-stop": ("400", 400),
    "save-pred-every": ("50", 50),
    "save-num-images": ("1", 1),
    "random-seed": ("7", 7),
    "num-classes": ("20", 20),
    "max-value": ("7", 7),
    "lambda-seg": ("0.5", 0.5),
    "lambda-adv-target1": ("0.1", 0.1),
    "lambda-adv-target2": ("0.2", 0.2),
    "lambda-me-target": ("0.3", 0.3),
    "lambda-kl-target": ("0.4", 0.4),
    "only-hard-label": ("80", 80),
    "norm-style": ("gn", "gn"),
    "gpu-ids": ("1,0,3", [1, 0, 3]),
    "snapshot-dir": ("./elsewhere", Path("elsewhere")),
    "log-dir": ("./logs", Path("logs")),
    "set": ("val", "val"),
    "target": ("cityscapes", "cityscapes"),
    "data-dir": ("./a", Path("a")),
    "data-list": ("a.txt", Path("a.txt")),
    "data-dir-target": ("./b", Path("b")),
    "data-list-target": ("b.txt", Path("b.txt")),
    "restore-from": ("a.pth", "a.pth"),
    "ignore-label": ("254", 254),
    "is-training": ("False", False),
    "tensorboard": ("False", False),
}


def attribute(flag):
    return flag.replace("-", "_")


def test_adamw_has_its_own_rate_decay_and_warm_up():
    def settings(*flags: str) -> tuple:
        args = stage1_args(["--optimizer", "adamw", *flags])
        return args.learning_rate, args.weight_decay, args.warm_up

    assert settings() == (6e-5, 0.01, 1500)
    assert settings("--num-steps", "1000") == (6e-5, 0.01, 50)
    given = ("--learning-rate", "1e-3", "--weight-decay", "0", "--warm-up", "0")
    assert settings(*given) == (1e-3, 0, 0)


def test_the_published_stage_1_command_reads_as_published():
    args = stage1_args(shlex.split(STAGE1_COMMAND)[1:])
    expected = TRAINING_DEFAULTS | dict(
        snapshot_dir=Path(STAGE1_FOLDER),
        droprate=0.1,
        warm_up=5000,
        batch_size=2,
        learning_rate=2e-4,
        crop_size=(512, 1024),
        lambda_seg=0.5,
        lambda_kl_target=0.1,
        norm_style="gn",
        only_hard_label=80,
        max_value=7,
        gpu_ids=[0, 1],
    )
    assert {name: getattr(args, name) for name in expected} == expected
    on = {flag for flag in SWITCHES if getattr(args, attribute(flag))}
    assert on == {"class-balance", "often-balance", "use-se"}


def test_the_published_stage_2_command_reads_as_published():
    args = stage2_args(shlex.split(STAGE2_COMMAND)[1:])
    expected = TRAINING_DEFAULTS | dict(
        snapshot_dir=Path(STAGE2_FOLDER),
        restore_from=f"{STAGE1_FOLDER}/GTA5_25000.pth",
        data_dir=Path("./data/Cityscapes/data"),
        droprate=0.2,
        warm_up=5000,
        batch_size=9,
        learning_rate=1e-4,
        input_size=(640, 1280),
        crop_size=(256, 512),
        lambda_seg=0.5,
        lambda_adv_target1=0,
        lambda_adv_target2=0,
        norm_style="gn",
        only_hard_label=80,
        max_value=7,
        gpu_ids=[0, 1, 2],
        threshold=1.0,
        conventional=False,
        divergence="kl",
    )
    assert {name: getattr(args, name) for name in expected} == expected
    on = {flag for flag in SWITCHES if getattr(args, attribute(flag))}
    assert on == {"class-balance", "often-balance", "use-se", "train_bn"}, "--autoaug False means off"


def test_the_published_prediction_commands_read_as_published():
    snapshot = f"{STAGE1_FOLDER}/GTA5_25000.pth"
    for args, batchsize, split in (
        (generate_args(["--restore-from", snapshot]), 12, "train"),
        (evaluate_args(["--restore-from", snapshot]), 16, "val"),
    ):
        assert args.restore_from == snapshot
        assert (args.batchsize, args.set, args.gpu_ids) == (batchsize, split, [0])
        left_to_the_snapshot = ("source", "target", "data_dir", "num_classes", "input_size", "scales")
        assert all(getattr(args, name) is None for name in left_to_the_snapshot)
        assert args.data_list is None and args.save is None


@pytest.mark.parametrize(
    ("stage", "differing"),
    [
        ("stage1", {}),
        (
            "stage2",
            dict(input_size=(640, 1280), data_dir=Path("./data/Cityscapes/data"), threshold=1.0),
        ),
    ],
)
def test_training_defaults(stage, differing):
    args = STAGES[stage]([])
    expected = TRAINING_DEFAULTS | differing
    assert {name: getattr(args, name) for name in expected} == expected
    assert not any(getattr(args, attribute(flag)) for flag in SWITCHES)


@pytest.mark.parametrize("stage", STAGES)
def test_every_training_flag_takes_its_value(stage):
    argv = [text for flag, (written, _) in VALUED_FLAGS.items() for text in (f"--{flag}", written)]
    args = STAGES[stage](argv)
    read = {flag: getattr(args, attribute(flag)) for flag in VALUED_FLAGS}
    assert read == {flag: value for flag, (_, value) in VALUED_FLAGS.items()}


@pytest.mark.parametrize("flag", SWITCHES)
def test_a_switch_is_accepted_bare_and_with_a_value(flag):
    def read(*value):
        return getattr(stage1_args([f"--{flag}", *value, "--batch-size", "3"]), attribute(flag))

    assert read() is read("True") is read("true") is read("1") is True
    assert read("False") is read("false") is read("0") is False


def test_prediction_flags_take_their_values():
    written = (
        "--restore-from a/b.pth --data-dir ./d --data-list l.txt --num-classes 9 --gpu 1 --batchsize 3 "
        "--set test --save out --input-size 100,50 --scales 1,0.8"
    )
    argv = shlex.split(written)
    for parse in (generate_args, evaluate_args):
        args = parse(argv)
        assert (args.restore_from, args.data_dir, args.data_list) == ("a/b.pth", Path("d"), Path("l.txt"))
        assert (args.num_classes, args.gpu_ids, args.batchsize, args.set) == (9, [1], 3, "test")
        assert (args.save, args.input_size, args.scales) == (Path("out"), (50, 100), [1, 0.8])
    assert generate_args([*argv, "--threshold", "0.9"]).threshold == 0.9
    assert generate_args(argv).threshold is None  # left to the snapshot


def test_a_threshold_of_two_decimals_comes_with_its_folder():
    assert generate_args(["--restore-from", "a.pth", "--threshold", "0.95", "--save", "b"]).threshold == 0.95
    args = stage2_args(["--threshold", "0.95", "--pseudo-dir", "b"])
    assert (args.threshold, args.pseudo_dir) == (0.95, Path("b"))


def test_drop_is_droprate():
    assert stage1_args(["--drop", "0.25"]).droprate == stage1_args(["--droprate", "0.25"]).droprate == 0.25


def test_training_stops_at_num_steps_unless_told_otherwise():
    assert stage1_args(["--num-steps", "30"]).num_steps_stop == 30
    assert stage1_args(["--num-steps", "30", "--num-steps-stop", "20"]).num_steps_stop == 20


BAD_TRAINING_FLAGS = (
    *("--crop-size 12", "--crop-size 0,0", "--crop-size 8,-8", "--crop-size a,b", "--crop-size 1,2,3"),
    *("--crop-size 9.5,8", "--input-size 1280x720", "--input-size-target", "--crop-size 1600,360"),
    *("--learning-rate 0", "--learning-rate -1", "--learning-rate nan", "--learning-rate inf"),
    *("--learning-rate fast", "--batch-size 0", "--batch-size 1.5", "--batch-size two", "--iter-size 0"),
    *("--num-workers -1", "--droprate 1", "--droprate 1.5", "--drop -0.1", "--momentum 1"),
    *("--weight-decay -1", "--power -1", "--warm-up -1", "--num-steps 0", "--save-pred-every 0"),
    *(
        "--save-num-images -1",
        "--random-seed -1",
        "--random-seed x",
        "--random-seed 18446744073709551616",
        "--num-classes 0",
        "--max-value 0",
    ),
    *("--lambda-seg -0.1", "--lambda-kl-target nan", "--only-hard-label 100", "--only-hard-label -1"),
    *("--norm-style batch", "--gpu-ids a", "--gpu-ids 0,0", "--gpu-ids -1", "--gpu-ids 0,", "--target mars"),
    *("--source mars", "--model VGG", "--arch huge", "--ignore-label 256", "--ignore-label 5"),
    *("--autoaug maybe", "--class-balance 2", "--no-such-flag", "--restore-from", "--crop 640,360"),
    *("--num-steps-stop 200000",),
)


@pytest.mark.parametrize("flags", BAD_TRAINING_FLAGS)
def test_a_bad_training_flag_is_one_line_that_names_it(flags, capsys):
    argv = flags.split()
    for parse in (stage1_args, stage2_args):
        with pytest.raises(SystemExit) as leaving:
            parse(argv)
        assert leaving.value.code == 2
        output, errors = capsys.readouterr()
        assert output == "" and len(errors.splitlines()) == 1
        assert re.search(rf"{argv[0]}(?![\w-])", errors), errors
        assert len(argv) < 2 or argv[1] in errors


@pytest.mark.parametrize(
    ("parse", "flags", "named"),
    [
        (stage2_args, "--threshold 1.5", "--threshold"),
        (stage2_args, "--threshold 0.95", "--pseudo-dir"),
        (generate_args, "--restore-from a.pth --threshold 0.95", "--save"),
        (stage2_args, "--divergence l2", "--divergence"),
        (stage2_args, "--conventional maybe", "--conventional"),
        (stage1_args, "--threshold 0.9", "--threshold"),
        (generate_args, "", "--restore-from"),
        (generate_args, "--restore-from a.pth --threshold -1", "--threshold"),
        (evaluate_args, "", "--restore-from"),
        (evaluate_args, "--restore-from a.pth --predictions b", "--predictions"),
        (evaluate_args, "--restore-from a.pth --scales 1,0", "--scales"),
        (evaluate_args, "--restore-from a.pth --scales 1;2", "--scales"),
        (evaluate_args, "--restore-from a.pth --batchsize 0", "--batchsize"),
        (evaluate_args, "--restore-from a.pth --gpu x", "--gpu"),
        (segment_args, "a.png --restore-from a.pth --gpu 0,1", "--gpu"),
        (report_args, "a --titles b", "--titles"),
        (stage1_args, "--crop-size 640,360 --input-size-target 600,360", "--input-size-target"),
        (stage1_args, "--swa --recent", "--recent"),
        (stage1_args, "--adaboost --ema 0.9", "--ema"),
        (stage2_args, "--swa --adatype entropy", "--adatype"),
        (stage2_args, "--adaboost-temperature 2", "--adaboost-temperature"),
        (stage1_args, "--cosine --swa-batch 4", "--swa-batch"),
        (stage1_args, "--swa_every 9", "--swa-every"),
        (stage1_args, "--swa-start 9", "--swa-start"),
        (stage1_args, "--swa --swa_start 40000 --num-steps-stop 40000", "--swa-start"),
        (stage1_args, "--arch mini --norm-style gn --num-steps 5 --num-steps-stop 6", "--num-steps-stop"),
        (stage1_args, "--gan LS", "--adversarial adaptsegnet"),
        (stage1_args, "--adversarial clan --lambda-adv-target1 0 --gan ls", "--adversarial adaptsegnet"),
        (stage1_args, "--adversarial adaptsegnet --gan hinge", "--gan"),
        (stage2_args, "--adversarial clan", "--lambda-adv-target1 0"),
        (stage1_args, "--adversarial adaptsegnet --lambda-local 10", "--adversarial clan"),
        (stage1_args, "--epsilon 0.5", "--adversarial clan"),
        (stage1_args, "--warm-up-start 0", "--warm-up"),
        (stage1_args, "--warm-up-D", "--warm-up"),
        (stage1_args, "--adversarial adaptsegnet --crop-size 64,31", "at least 32"),
    ],
)
def test_flags_of_one_script_and_flags_that_contradict(parse, flags, named, capsys):
    with pytest.raises(SystemExit) as leaving:
        parse(flags.split())
    output, errors = capsys.readouterr()
    assert leaving.value.code == 2 and output == ""
    assert len(errors.splitlines()) == 1 and named in errors


# Flags that cannot act beside the others -> what the line about them must name.
IDLE_IN_TRAINING = {
    "--lambda-kl-target 0.1 --num-steps 10000": ["--lambda-kl-target", "--reg-start 15000", "10000 iter"],
    "--lambda-me-target 0.1 --num-steps-stop 15000": ["--lambda-me-target", "--reg-start 15000"],
    "--reg-start 0": ["--reg-start", "--lambda-kl-target"],
    "--max-value 7": ["--max-value", "--class-balance"],
    "--learning-rate-D 1e-3 --lambda-adv-target1 0": ["--learning-rate-D", "not trained"],
    "--lambda-adv-target1 0 --lambda-adv-target2 0.1": ["--lambda-adv-target2", "untrained"],
    "--adversarial clan --lambda-adv-target1 0 --lambda-adv-target2 0": ["--adversarial", "not trained"],
    "--warm-up 5000 --num-steps 500": ["--warm-up", "500 iterations"],
    "--eval-every 600 --num-steps 500": ["--eval-every", "500 iterations"],
    "--log-dir logs --tensorboard False": ["--log-dir", "--tensorboard"],
    "--eval-set test": ["--eval-set", "--eval-every"],
    "--eval-list val.txt": ["--eval-list", "--eval-every"],
    "--not-restore-last": ["--not-restore-last", "imagenet"],
    "--sync_bn": ["--sync_bn", "torchrun"],
    "--sync-bn True": ["--sync-bn", "torchrun"],
    "--gpu-ids 0,1 --cpu": ["--gpu-ids", "--cpu"],
}
IDLE_IN_STAGE_2 = {
    "--threshold 97": ["--threshold", "every pixel"],
    "--adaboost --lambda-adv-target1 0 --lambda-adv-target2 0": ["--adaboost", "nothing is learned"],
    "--only-hard-label 80": ["--only-hard-label", "--conventional"],
    "--conventional --divergence squared": ["--divergence", "--conventional"],
    "--threshold 0.9 --pseudo-dir there": ["--threshold", "--pseudo-dir"],
    "--input-size-source 800,600": ["--input-size-source", "--source-portion"],
}
IDLE_IN_EVALUATION = {
    "--restore-from a.pth --mc-passes 5": ["--mc-passes", "mc-dropout"],
    "--restore-from a.pth --random-seed 5": ["--random-seed", "mc-dropout"],
    "--restore-from a.pth --report-images 5": ["--report-images", "--report"],
    "--restore-from a.pth --batch-size 5 --cpu": ["--batch-size", "--cpu"],
    "--predictions there --scales 1": ["--scales", "--predictions"],
}
IDLE = [
    *((stage1_args, *case) for case in IDLE_IN_TRAINING.items()),
    *((stage2_args, *case) for case in IDLE_IN_STAGE_2.items()),
    *((evaluate_args, *case) for case in IDLE_IN_EVALUATION.items()),
    (generate_args, "--restore-from a.pth --threshold 777", ["--threshold", "every pixel"]),
    (segment_args, "a.png --restore-from a.pth --gpu 0 --cpu", ["--gpu ", "--cpu"]),
    (report_args, "a b --images 3 --names c", ["--images", "--names"]),
    (tables_args, "--list --jobs 3", ["--jobs", "--list"]),
]


@pytest.mark.parametrize(("parse", "flags", "named"), IDLE, ids=[flags for _, flags, _ in IDLE])
def test_a_flag_that_cannot_act_is_told_in_one_line(parse, flags, named):
    (line,) = idle_flags(parse(flags.split()))
    assert line.startswith(named[0]) and all(part in line for part in named) and "\n" not in line


@pytest.mark.parametrize(
    ("parse", "flags", "idle"),
    [
        (stage1_args, "", []),
        (stage2_args, "", []),
        (stage1_args, "--lambda-kl-target 0 --num-steps 10 --eval-every 10 --sync_bn False", []),
        (stage1_args, "--lambda-kl-target 1 --reg-start 9 --num-steps 10 --warm-up 9", []),
        (stage1_args, "--lambda-adv-target1 0 --lambda-adv-target2 0 --cpu", []),
        (stage1_args, shlex.join(shlex.split(STAGE1_COMMAND)[1:]), []),
        (stage2_args, shlex.join(shlex.split(STAGE2_COMMAND)[1:]), ["--only-hard-label"]),
    ],
)
def test_flags_that_act_are_not_mentioned(parse, flags, idle):
    lines = idle_flags(parse(shlex.split(flags)))
    assert [line.split()[0] for line in lines] == idle


def test_a_flag_in_an_earlier_runs_options_may_not_act_either(tmp_path):
    args = stage1_args(["--num-steps", "100"])
    file = tmp_path / "opts.yaml"
    options.write_options(tmp_path, args, {"road": (0, 0, 0)})  # every flag, most of them at their default
    assert idle_flags(stage1_args(["--config", str(file)])) == []
    file.write_text(file.read_text().replace("lambda_kl_target: 0.0", "lambda_kl_target: 0.1"))
    (line,) = idle_flags(stage1_args(["--config", str(file)]))
    assert line.startswith("--lambda-kl-target has no effect: --reg-start 15000")
    options.write_options(tmp_path, stage2_args([]), {"road": (0, 0, 0)})  # with what the data sets fill in
    assert idle_flags(stage2_args(["--config", str(file)])) == []


def write_options(file: Path, **options) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(options))
    return file


def test_an_earlier_runs_options_replace_defaults_and_flags_override_them(tmp_path):
    file = write_options(
        tmp_path / "opts.yaml",
        **{"batch_size": 3, "input_size": "1000,700", "gpu_ids": [0, 1], "autoaug": True, "num_steps": 9},
        **{"num_steps_stop": 9, "data_dir": "./a", "source": "synthia", "precision": "bf16", "fp16": True},
    )
    args = stage1_args(["--config", str(file), "--batch-size", "4", "--num-steps", "8"])
    read = (args.batch_size, args.input_size, args.gpu_ids, args.autoaug, args.source, args.data_dir)
    assert read == (4, (700, 1000), [0, 1], True, "synthia", Path("a"))
    assert (args.num_steps_stop, args.precision, args.fp16) == (8, "bf16", False)
    assert args.crop_size == (360, 640) and args.config == file


def test_resume_reads_the_options_in_its_folder(tmp_path):
    write_options(tmp_path / "opts.yaml", droprate=0.3, snapshot_dir="./elsewhere")
    flags = ["--snapshot-dir", str(tmp_path)]
    args = stage1_args([*flags, "--resume"])
    assert (args.droprate, args.snapshot_dir, args.resume) == (0.3, tmp_path, True)
    assert stage1_args([*flags, "--resume", "False"]).droprate == stage1_args(flags).droprate == 0.1
    assert stage1_args(["--snapshot-dir", str(tmp_path / "new"), "--resume"]).droprate == 0.1


def test_options_of_flags_that_do_not_exist_are_named_and_passed_over(tmp_path, caplog):
    others = dict(divergence="kl", power=0.5, classes={"a": 1})  # the first is Stage II's
    file = write_options(tmp_path / "opts.yaml", on_damaged="skip", batch_sise=3, **others)
    args = stage1_args(["--config", str(file)])
    assert args.power == 0.5 and not hasattr(args, "on_damaged")
    (record,) = caplog.records
    assert record.getMessage() == f"{file}: no flag is named batch_sise or on_damaged; passed over."


def test_stage_2_refuses_a_recipe_of_online_self_training(capsys):
    with pytest.raises(SystemExit):
        stage2_args(["--config", str(ROOT / "recipes/daformer.yaml")])
    assert "--self-training learns from the labelled source" in capsys.readouterr().err


def test_a_published_opts_yaml_describes_its_network(tmp_path):
    (tmp_path / "opts.yaml").write_text(
        "num_classes: 19\nuse_se: true\ntrain_bn: false\nnorm_style: gn\ndroprate: 0.1\n"
        "crop: !!python/tuple [512, 1024]\nhflip: true\n"
    )
    options = read_options(tmp_path / "GTA5_25000.pth")
    expected = dict(num_classes=19, use_se=True, train_bn=False, norm_style="gn", droprate=0.1)
    assert network_options(options) == expected | {"arch": "resnet101"} and options["crop"] == [512, 1024]


@pytest.mark.parametrize(
    "wrong",
    [{"num_classes": 0}, {"use_se": "maybe"}, {"norm_style": ["gn"] * 2}, {"droprate": 1}, {"arch": {}}],
)
def test_an_option_that_its_flag_does_not_take_is_named_with_its_file(wrong, tmp_path):
    good = dict(num_classes=19, use_se=True, train_bn=False, norm_style="gn", droprate=0.1, arch="mini")
    file = write_options(tmp_path / "opts.yaml", **good | wrong)
    (name,) = wrong
    for read in (lambda: read_options(tmp_path / "a.pth"), lambda: stage1_args(["--config", str(file)])):
        with pytest.raises(UserError, match=name.replace("_", "[-_]")) as refused:
            read()
        assert str(file) in str(refused.value)


def test_defaults_follow_the_pair_of_domains():
    args = stage1_args(["--source", "cityscapes", "--target", "robotcar"])
    assert (args.num_classes, args.input_size, args.input_size_target) == (9, (640, 1280), (960, 1280))
    assert (args.data_dir, args.data_dir_target) == (
        Path("./data/Cityscapes/data"),
        Path("./data/Oxford_Robot_ICCV19"),
    )
    args = stage2_args(["--source", "synthia"])
    assert (args.threshold, args.input_size, args.data_dir) == (
        0.9,
        (640, 1280),
        Path("./data/Cityscapes/data"),
    )


def test_the_commands_of_the_follow_up_methods_are_flags_that_fit_together(monkeypatch):
    monkeypatch.chdir(ROOT)
    text = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    found = re.findall(r"python (\w+)\.py ([^`\n…]*)", text)
    mixed, cold = re.search(r"`(--config [^`]+)`, with `(--warm-up [^`]+)`", text).groups()
    found += [("train_ms", f"{mixed} {more}") for more in ("", cold, "--lambda-mask 1")]
    assert {script for script, _ in found} == COMMANDS.keys() and len(found) > 20
    for script, flags in found:
        COMMANDS[script](shlex.split(flags))


def test_help_shows_every_flag(capsys):
    with pytest.raises(SystemExit) as leaving:
        stage2_args(["--help"])
    assert leaving.value.code == 0
    shown = capsys.readouterr().out
    for flag in (*SWITCHES, *VALUED_FLAGS, "drop", "threshold", "conventional", "divergence"):
        assert re.search(rf"--{flag}\b", shown), flag


@pytest.mark.parametrize(
    ("weights", "named"),
    [
        ("1", ["'1'", "primary:auxiliary"]),
        ("1:2:3", ["1:2:3", "primary:auxiliary"]),
        ("a:b", ["a:b"]),
        ("1:-1", ["1:-1"]),
        ("1:nan", ["1:nan"]),
        ("0:0", ["0:0", "neither"]),
        ("1:0,", ["''"]),
        ("1:0,1:0", ["1:0", "twice"]),
    ],
)
def test_weights_of_the_classifiers_that_are_none_are_named(weights, named, run_main):
    flags = ("--restore-from", "a.pth", "--weights", weights)
    one_line_error(run_main("evaluate_cityscapes", *flags), "--weights", *named)
    one_line_error(run_main("generate_plabel_cityscapes", *flags), "--weights")
