"""The papers' tables as data, the commands that measure them, the runner, and the measured tables."""

import csv
import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
import time
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dataset import find_domain
from evaluate_cityscapes import evaluate_args
from experiments import runner, tabulate
from experiments.recipes import ADVERSARIES, Planner, Published, Synthetic
from experiments.runner import Job
from experiments.tables import (
    ROBOTCAR_CLASSES,
    TABLES,
    WEIGHTS,
    Averaged,
    Cell,
    Row,
    SelfTrained,
    Stage1,
    Stage2,
    Table,
)
from generate_plabel_cityscapes import generate_args
from model.deeplab_multi import DeeplabMulti
from self_train import self_train_args
from tests.conftest import ROOT, make_unsure, one_line_error, run_script
from utils.errors import UserError
from utils.options import stage1_args, stage2_args, write_options

NAMES = ["mrnet-1", "mrnet-2", "mrnet-3", *(f"rectifying-{n}" for n in range(2, 11))]
NAMES += ["adaboost-1", "crst-1", "related-1", "pipa-1", "backbones", "online-1", "online-2", "lineage"]
PARSERS = {
    "train_ms.py": stage1_args,
    "train_ft.py": stage2_args,
    "generate_plabel_cityscapes.py": generate_args,
    "evaluate_cityscapes.py": evaluate_args,
    "self_train.py": self_train_args,
}

# The command line.


def test_list_describes_each_table(run_main):
    listed = run_main("tables", "--list")
    assert listed.returncode == 0 and list(TABLES) == NAMES
    for name, table in TABLES.items():
        assert f"\n{name} " in f"\n{listed.stdout}"
        assert table.title in listed.stdout
        assert all(row.title in listed.stdout for row in table.rows)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["mrnet-9"], ["mrnet-9", *NAMES]),
        ([], NAMES),
        (["mrnet-2", "--quick"], ["--quick", "--synthetic"]),
        (["mrnet-2", "--synthetic", "--quick", "--short"], ["--quick", "--short"]),
        (["mrnet-2", "--jobs", "0"], ["--jobs"]),
        (["mrnet-2", "--seeds", "0;1"], ["--seeds", "0,1,2"]),
        (["mrnet-2", "--gpu-ids", "cuda"], ["--gpu-ids"]),
    ],
)
def test_bad_flags_are_one_line_and_status_2(run_main, flags, words):
    done = run_main("tables", *flags)
    one_line_error(done, *words)
    assert done.stdout == ""


@pytest.mark.parametrize("setting", [[], ["--synthetic", "--short"], ["--embedded", "--gpu-ids", "3,4"]])
def test_dry_run_prints_commands_for_a_shell_in_order_and_writes_nothing(run_main, setting, tmp_path):
    out = tmp_path / "the out put"  # needs quotes
    done = run_main("tables", *NAMES, *setting, "--seeds", "0,1", "--out", out, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []
    head, *lines = done.stdout.splitlines()
    assert head == f"# run in {ROOT}" and len(set(lines)) == len(lines) > 100
    written = {Path("data")} if setting == [] else set()
    for python, script, *flags in map(shlex.split, lines):
        assert python == "python"
        values = dict(zip(flags, flags[1:], strict=False))
        for flag in ("--restore-from", "--pseudo-dir", "--data-dir", "--data-dir-target"):
            if (value := values.get(flag, "none")) not in ("none", "imagenet"):
                assert {Path(value), *Path(value).parents} & written, f"{flag} {value} is read too early"
        made = [Path(values[flag]) for flag in ("--snapshot-dir", "--save") if flag in values]
        if script in PARSERS:
            args = PARSERS[script](flags)  # accepts every flag
            assert args.gpu_ids == ([3, 4] if "train" in script else [3]) or "3,4" not in setting
        elif script == "benchmarks/step.py":
            made = [Path(values["--json"]).parent]
        else:
            assert [script, flags[0]] == ["-m", "synthetic"]
            made = [Path(flags[1])]
        assert not written.intersection(made) and all(folder.is_relative_to(out) for folder in made)
        written.update(made)


def test_published_flags_are_the_published_commands(tmp_path):
    planner = Planner(Published(), tmp_path, seed=1234)
    stage1, stage2 = (shlex.split(planner.train(planner.resolve(n)).command) for n in (Stage1(), Stage2()))
    published1 = (
        "--drop 0.1 --warm-up 5000 --batch-size 2 --learning-rate 2e-4 --crop-size 1024,512 --lambda-seg 0.5 "
        "--lambda-adv-target1 0.0002 --lambda-adv-target2 0.001 --lambda-me-target 0 --lambda-kl-target 0.1 "
        "--norm-style gn --class-balance --only-hard-label 80 --max-value 7 --gpu-ids 0,1 --often-balance "
        "--use-se --num-steps-stop 25000"
    )
    published2 = (
        "--drop 0.2 --warm-up 5000 --batch-size 9 --learning-rate 1e-4 --crop-size 512,256 --lambda-seg 0.5 "
        "--lambda-adv-target1 0 --lambda-adv-target2 0 --lambda-me-target 0 --lambda-kl-target 0 "
        "--norm-style gn --class-balance --only-hard-label 80 --max-value 7 --gpu-ids 0,1,2 --often-balance "
        "--use-se --input-size 1280,640 --train_bn --autoaug False --num-steps-stop 50000"
    )
    ours = dict.fromkeys(("snapshot_dir", "log_dir", "restore_from", "pseudo_dir", "resume"))
    for command, published, parse in ((stage1, published1, stage1_args), (stage2, published2, stage2_args)):
        assert vars(parse(command[1:])) | ours == vars(parse(published.split())) | ours
    assert stage2[stage2.index("--restore-from") + 1].endswith("gta5-adversarial-kl0.1/GTA5_25000.pth")


def test_averages_are_trained_as_published_and_used_by_the_next_stage(tmp_path):
    planner = Planner(Published(), tmp_path, seed=1234)
    average = Averaged(Stage1(), sampled=True)
    jobs = runner.unfinished([planner.train(planner.resolve(Averaged(Stage2(teacher=average))))])
    stage1, labels, stage2 = (shlex.split(job.command) for job in jobs)
    args = stage1_args(stage1[1:])
    assert (args.swa, args.swa_start, args.adaboost, args.recent, args.gpu_ids) == (True, 0, True, False, [0])
    assert args.num_steps_stop == 40000
    name = "gta5-adversarial-kl0.1-average-adaboost/GTA5_40000_average.pth"
    for command in (labels, stage2):
        assert command[command.index("--restore-from") + 1].endswith(name)
    args = stage2_args(stage2[1:])
    assert (args.batch_size, args.crop_size, args.learning_rate) == (2, (480, 960), 4e-4)
    assert args.swa and args.swa_start == 25000 and not args.adaboost
    assert jobs[-1].result.name == "GTA5_50000_average.pth"


def test_backbones_of_timm_train_with_their_own_rates_through_both_stages(tmp_path):
    planner = Planner(Synthetic(), tmp_path, seed=0)
    row = next(row for row in TABLES["backbones"].rows if row.title == "ViT")
    costs = {planner.evaluate(cell) for cell in row.cells[:3]}
    assert len(costs) == 1 and "--arch timm/test_vit" in costs.pop().command
    jobs = runner.unfinished([planner.evaluate(row.cells[-1])])
    training = [shlex.split(job.command) for job in jobs if job.command.startswith("train_")]
    flags = [(stage1_args if words[0] == "train_ms.py" else stage2_args)(words[1:]) for words in training]
    assert [(args.arch, args.optimizer, args.learning_rate) for args in flags] == [
        ("timm/test_vit", "adamw", rate) for rate in (5e-4, 1e-4, 1e-5)
    ]
    assert all(args.restore_from.endswith(".pth") for args in flags[1:])
    other = {planner.evaluate(cell).result for row in TABLES["backbones"].rows for cell in row.cells}
    assert len(other) == 4 * len(TABLES["backbones"].rows)  # three numbers of each are of one measurement


def test_numbers_of_a_table_without_published_ones_stand_alone():
    table = methods_table(None, None)
    assert "published" not in tabulate.as_text(table, numbers(table, [0.35], [0.4]), [])


def test_adversaries_differ_from_mrnets_only_in_their_losses(tmp_path):
    planner = Planner(Published(), tmp_path, seed=1234)
    found, *others = (
        stage1_args(shlex.split(planner.train(Stage1(memory=0, adversary=name)).command)[1:])
        for name in ADVERSARIES
    )
    changed = {"adversarial", "gan", "lambda_adv_target1", "lambda_adv_target2", "lambda_seg", "focal"}
    changed |= {"lambda_weight", "lambda_local", "epsilon", "snapshot_dir", "log_dir"}
    assert {args.adversarial for args in others} == {"adaptsegnet", "clan"}
    for args in others:
        assert {name for name, value in vars(args).items() if value != getattr(found, name)} <= changed
        assert args.adversarial == "adaptsegnet" or (args.focal, args.lambda_seg) == (2, 1)


def test_class_balanced_labels_serve_the_rectified_loss_and_rounds_from_any_network(tmp_path):
    planner = Planner(Published(), tmp_path, seed=1234)
    _, labels, stage2 = runner.unfinished([planner.train(planner.resolve(Stage2(portion=0.5)))])
    made, learned = (
        generate_args(shlex.split(labels.command)[1:]),
        stage2_args(shlex.split(stage2.command)[1:]),
    )
    assert made.portion == learned.portion == 0.5 and not learned.conventional
    assert made.threshold is None and learned.pseudo_dir == made.save
    *_, last = runner.unfinished([planner.evaluate(Cell(SelfTrained(3, Stage1())))])
    args = self_train_args(shlex.split(last.command)[1:])
    assert (args.rounds, args.best_images) == (3, 505)
    assert args.restore_from.endswith("gta5-adversarial-kl0.1/GTA5_25000.pth")


@pytest.mark.parametrize("benchmark", ["gta5", "synthia", "robotcar"])
def test_synthetic_trainings_have_the_flags_of_the_demo(benchmark, tmp_path):
    planner = Planner(Synthetic(), tmp_path, seed=5)
    jobs = runner.unfinished([planner.train(planner.resolve(Stage2(benchmark)))])
    draw, start, stage1, labels, stage2 = (job.command for job in jobs)
    scripts = ["-m", "train_ms.py", "train_ms.py", "generate_plabel_cityscapes.py", "train_ft.py"]
    assert [job.command.split()[0] for job in jobs] == scripts
    assert f"--benchmark {benchmark} --seed 5 --source-images 240" in draw
    assert all(words in start for words in ("--restore-from none", "--num-steps 650", "--batch-size 4"))
    assert all(words in stage1 for words in ("--num-steps 280", "--lambda-kl-target 1", "--reg-start 0"))
    assert "--threshold 0.9" in labels and "--threshold 0.9" in stage2 and "--num-steps 200" in stage2


def test_jobs_that_tables_share_run_once(tmp_path):
    planner = Planner(Published(), tmp_path, seed=0)

    def count(*names: str) -> int:
        return len(runner.unfinished(planner.evaluate(cell) for name in names for cell in TABLES[name].cells))

    assert count("mrnet-1") == 4  # two trainings with one evaluation each, for all class weights
    assert {row.cells[1].measure[1] for row in TABLES["mrnet-1"].rows} == set(WEIGHTS)
    assert count("mrnet-1", "mrnet-2") == count("mrnet-2") == 8
    assert count("rectifying-2", "mrnet-2") == count("mrnet-2") + 1 + 2 * 2  # labels, two of Stage II
    assert count("rectifying-9", "rectifying-10", "rectifying-7", "rectifying-2") == 9 + 2 * (2 + 2 + 5)
    assert count("rectifying-6", "rectifying-2") == 9 + 7 * 3  # without a threshold it is the same network


# The published numbers.


@pytest.mark.parametrize("name", ["rectifying-2", "rectifying-3", "rectifying-4"])
def test_published_classes_average_to_the_published_mean(name):
    checked = 0
    for row in TABLES[name].rows:
        iou = {c.measure[1]: c.published for c in row.cells if c.measure[0] == "iou"}
        means = {c.measure[1]: c.published for c in row.cells if c.measure[0] == "means"}
        if None in iou.values():
            continue
        assert statistics.fmean(iou.values()) == pytest.approx(means["mIoU"], abs=0.06)
        if "mIoU*" in means:
            thirteen = [value for name, value in iou.items() if name not in ("wall", "fence", "pole")]
            assert len(thirteen) == 13
            assert statistics.fmean(thirteen) == pytest.approx(means["mIoU*"], abs=0.06)
        checked += 1
    assert checked == (3 if name == "rectifying-4" else 4)


def test_one_network_has_one_published_number():
    planner, published = Planner(Published(), Path("out"), seed=0), {}
    for cell in (cell for table in TABLES.values() for cell in table.cells):
        if cell.published is not None and cell.measure[-2:] == ("means", "mIoU"):
            assert published.setdefault(planner.resolve(cell.network), cell.published) == cell.published
    gta5 = sorted(v for k, v in published.items() if k.benchmark == "gta5")
    expected = [33.35, 37.2, 41.4, 42.4, 43.2, 44.1, 45.5, 46.47, 46.51, 47.39, 48.3, 49.0, 49.72, 50.3, 50.9]
    assert gta5 == expected


def test_classes_of_robotcar_are_those_of_the_data_set():
    assert set(ROBOTCAR_CLASSES) == set(find_domain("robotcar").colors)


# What was measured.


def metrics(miou: float, **iou: float | None) -> dict:
    """The part of metrics.json that tables read."""
    return {"means": {"mIoU": miou}, "iou": iou}


def methods_table(*published: float | None) -> Table:
    """Four methods in one column."""
    networks = (Stage1(memory=0, adversarial=False), Stage1(), Stage2(), Stage2(conventional=True))
    rows = [Row(f"method {n}", (Cell(networks[n], published=number),)) for n, number in enumerate(published)]
    return Table("mrnet-2", "Losses", ("mIoU",), tuple(rows))


def numbers(table: Table, *mious: list[float]) -> tabulate.Numbers:
    """The table with these mIoU, a list of seeds per row."""
    results = {
        row.cells[0]: [metrics(m) for m in of_seeds] for row, of_seeds in zip(table.rows, mious, strict=True)
    }
    return tabulate.numbers_of(table, results)


def test_seeds_become_the_mean_with_its_95_percent_t_interval():
    """t quantiles from a printed table: 4.3027 with 2 degrees of freedom, 12.706 with 1."""
    table = methods_table(37.2, None)
    rows = numbers(table, [0.35, 0.36, 0.40], [0.4, 0.41, 0.42])
    text = tabulate.as_text(table, rows, []).splitlines()
    assert text[0] == "mrnet-2: Losses (percent, mean ± half-width of the 95 % t-interval over 3 seeds)"
    assert text[-3].split() == ["method", "0", "37.0", "±", "6.6", "37.2"]  # 4.3027 * sqrt(7 / 3) = 6.572
    expected = ["method", "1", "41.0", "±", "2.5", "–", "4.0", "±", "4.3"]  # 4.3027 / sqrt(3) = 2.484
    assert text[-2].split() == expected  # gains of 5, 5 and 2: 4.3027 * sqrt(3) / sqrt(3)
    low, high = (float(text) for text in tabulate.as_csv(table, rows).splitlines()[1].split(",")[3:5])
    assert (low, high) == (30.43, 43.57)
    assert numbers(table, [0.4, 0.42], [0.4, 0.4])[0][0].margin == pytest.approx(12.706, abs=1e-3)
    assert numbers(table, [0.4, 0.42], [0.4, 0.4])[1][0].measured == "40.0 ± 0.0"


def test_one_seed_is_the_number_alone():
    table = methods_table(37.2)
    rows = numbers(table, [0.3512])
    assert rows[0][0].measured == "35.1"
    text = tabulate.as_text(table, rows, [])
    assert "±" not in text and "interval" not in text
    assert tabulate.as_csv(table, rows).splitlines()[1] == "method 0,mIoU,35.12,,,1,37.20,yes"


def test_csv_holds_the_numbers_and_their_intervals():
    table = methods_table(37.2, None)
    rows = numbers(table, [0.3512, 0.3614], [0.4, 0.42])
    read = list(csv.DictReader(tabulate.as_csv(table, rows).splitlines()))
    assert read[0] == {
        **{"row": "method 0", "column": "mIoU", "measured": "35.63", "published": "37.20", "seeds": "2"},
        **{"95% low": "29.15", "95% high": "42.11", "comparable": "yes"},  # 35.63 -+ 12.706 * 0.51
    }
    assert read[1]["row"] == "method 1" and read[1]["published"] == read[1]["comparable"] == ""


def test_wide_table_has_published_numbers_below_measured_ones():
    table = TABLES["rectifying-2"]
    everything = metrics(0.5, **{name: 0.25 for name in find_domain("cityscapes").colors} | {"train": None})
    rows = tabulate.numbers_of(table, {cell: [everything] for cell in table.cells})
    text = tabulate.as_text(table, rows, []).splitlines()
    measured = next(i for i, line in enumerate(text) if line.startswith("MRNet"))
    assert text[measured].split() == ["MRNet", "measured", *["25.0"] * 16, "absent", *["25.0"] * 2, "50.0"]
    assert text[measured + 1].split()[:3] == ["published", "89.1", "23.9"]


def test_order_of_rows_is_compared_with_the_published_one():
    table = methods_table(37.2, 45.5, None, 50.3)
    agreeing = tabulate.order_line(numbers(table, [0.3], [0.4], [0.9], [0.5]))
    assert agreeing == "Order: 3 of 3 pairs as published"
    wrong = tabulate.order_line(numbers(table, [0.3], [0.55], [0.9], [0.5]))
    assert "2 of 3" in wrong and "method 3, mIoU (50.0) is not above method 1, mIoU (55.0)" in wrong
    assert "method 0" not in wrong
    assert "2 of 3" in tabulate.order_line(numbers(table, [0.3], [0.5], [0.9], [0.5001]))  # prints the same
    assert tabulate.order_line(numbers(methods_table(37.2, None), [0.3], [0.4])) == ""


def test_numbers_of_other_networks_are_marked_and_take_no_part_in_the_order():
    table = methods_table(37.2, 45.5, 50.3)
    row = table.rows[1]
    other = replace(table, rows=(table.rows[0], Row(row.title, (replace(row.cells[0], comparable=False),))))
    rows = numbers(other, [0.4], [0.3])
    assert [row[0].published for row in rows] == ["37.2", "45.5*"] and tabulate.order_line(rows) == ""
    line = tabulate.as_csv(other, rows).splitlines()[2]
    assert line.endswith(",45.50,no")
    assert tabulate.order_line(numbers(replace(table, rows=table.rows[:2]), [0.4], [0.3]))


def test_each_mean_of_synthia_is_compared_with_itself():
    table, results = TABLES["rectifying-3"], {}
    for rank, row in enumerate(table.rows):
        iou = {c.measure[1]: 0.1 for c in row.cells if c.measure[0] == "iou"}
        means = {"mIoU": 0.1 * rank, "mIoU*": 0.5 - 0.1 * rank}
        results |= {cell: [{"means": means, "iou": iou}] for cell in row.cells}
    line = tabulate.order_line(tabulate.numbers_of(table, results))
    assert "6 of 12 pairs" in line
    assert "MRNet, mIoU* (40.0) is not above source only, mIoU* (50.0)" in line


def test_number_that_an_evaluation_lacks_is_named():
    with pytest.raises(UserError, match="classifiers 1:0 means mIoU"):
        tabulate.read_number(metrics(0.5), TABLES["mrnet-1"].rows[1].cells[0])


# Running jobs: real ones, of a few lines.

SCRIPT = """\
import os, pathlib, sys, time
folder, action = pathlib.Path(sys.argv[1]), sys.argv[2]
folder.mkdir(parents=True, exist_ok=True)
(folder / "pid").write_text(str(os.getpid()))
with open("order.txt", "a") as order:
    order.write(f"{folder.name}\\n")
if action == "fail":
    sys.exit("script.py: error: no such thing")
if action == "meet":
    deadline = time.time() + 30
    while len(list(folder.parent.iterdir())) < 2:
        assert time.time() < deadline, "the other one never started"
        time.sleep(0.02)
time.sleep(60 if action == "hang" else 0)
(folder / "result").write_text(os.environ["OMP_NUM_THREADS"])
"""


@pytest.fixture
def base(tmp_path, monkeypatch) -> Path:
    """The current folder, with a script that fills a folder."""
    (tmp_path / "script.py").write_text(SCRIPT)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def small_job(name: str, action: str = "work", *needs: Job) -> Job:
    folder = Path("out") / name
    return Job(name, f"script.py {folder} {action}", folder / "result", Path(f"logs/{name}.txt"), needs)


def started() -> list[str]:
    """Names of the jobs that were started, in order."""
    return Path("order.txt").read_text().split()


def test_jobs_run_once_in_the_order_of_their_needs(base, caplog):
    caplog.set_level("INFO")
    data = small_job("data")
    first, second = small_job("first", "work", data), small_job("second", "work", data)
    runner.run([small_job("last", "work", second, first), first])
    assert started() == ["data", "second", "first", "last"]
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == "data started" and lines[1].startswith("data finished in 0:00:0")
    assert lines[1].endswith(", 3 to go")
    assert Path("logs/data.txt").read_text().startswith("$ python script.py out/data work\n")


def test_jobs_with_a_result_are_skipped_and_half_finished_ones_run_again(base):
    data = small_job("data")
    runner.run([small_job("a", "work", data)])
    Path("out/b").mkdir()
    Path("out/data/result").unlink()  # read by finished jobs only, so not needed any more
    jobs = [small_job("a", "work", data), small_job("b")]
    assert runner.unfinished(jobs) == [small_job("b")]
    runner.run(jobs)
    assert started() == ["data", "a", "b"]


@pytest.mark.parametrize("workers", [1, 2])
def test_failing_script_ends_in_one_line_with_command_and_log(base, workers):
    good, bad = small_job("good"), small_job("bad", "fail")
    after, later = small_job("after", "work", bad), small_job("later", "work", good, bad)
    with pytest.raises(UserError) as error:
        runner.run([good, bad, after, later], workers)
    message = str(error.value)
    assert bad.line in message and "no such thing" in message and str(bad.log) in message
    assert "\n" not in message
    assert good.result.is_file() and not bad.result.exists()
    assert set(started()) == {"good", "bad"}


def test_independent_jobs_run_at_the_same_time_with_their_share_of_the_cores(base, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    jobs = [small_job("a", "meet"), small_job("b", "meet")]
    runner.run(jobs, workers=2)
    assert {job.result.read_text() for job in jobs} == {str(max(1, os.cpu_count() // 2))}


def test_a_runner_within_a_runner_keeps_the_threads_it_was_given(base, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    job = small_job("a")
    runner.run([job])
    assert job.result.read_text() == "7"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_scripts_and_leaves_one_line(base, number):
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from pathlib import Path\n"
        "from experiments import runner; from utils.script import run_script\n"
        "job = runner.Job('slow', 'script.py out/slow hang', Path('out/slow/result'), Path('log.txt'))\n"
        "run_script(lambda: runner.run([job]))\n"
    )
    driver = subprocess.Popen(
        [sys.executable, "-c", code],
        stderr=subprocess.PIPE,
        # As at a terminal, or in the background of a shell, where Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_DFL if number == signal.SIGINT else signal.SIG_IGN
        ),
    )
    deadline = time.monotonic() + 60
    while not Path("order.txt").exists():
        assert time.monotonic() < deadline and driver.poll() is None
        time.sleep(0.05)
    driver.send_signal(number)
    _, stderr = driver.communicate(timeout=30)
    assert driver.returncode == 130 and stderr.count(b"\n") == 1
    with pytest.raises(ProcessLookupError):
        os.kill(int(Path("out/slow/pid").read_text()), 0)
    assert runner.unfinished([small_job("slow", "hang")])


# End to end.


def write_untrained_snapshot(path: Path, args: Namespace) -> None:
    """A network of random weights that is sure in places, as a training with these flags would leave it."""
    path.parent.mkdir(parents=True)
    network = DeeplabMulti(args.num_classes, args.use_se, norm_style=args.norm_style, arch=args.arch)
    torch.save(network.state_dict(), path)
    make_unsure(path, gain=10)
    write_options(path.parent, args, find_domain("cityscapes").colors)


def test_table_measured_on_synthetic_data(run_main, tmp_path, monkeypatch):
    """Stage I's network and the evaluations of two others are there already."""
    planner = Planner(Synthetic("synthetic-quick"), tmp_path / "out", seed=0)
    stage1 = planner.train(planner.resolve(Stage1("gta5")))
    write_untrained_snapshot(stage1.result, stage1_args(shlex.split(stage1.command)[1:]))
    kl, *others = (planner.evaluate(cell).result for cell in TABLES["rectifying-9"].cells)
    for path, miou in zip(others, (0.25, 0.125), strict=True):
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(metrics(miou)))
    flags = ["rectifying-9", "--synthetic", "--quick", "--out", "out", "--jobs", "2"]
    done = run_script("tables", *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr + done.stdout
    assert done.stdout.count(" started\n") == 4
    folder = tmp_path / "out/synthetic-quick"
    text = (folder / "rectifying-9.txt").read_text(encoding="utf-8")
    assert text in done.stdout
    assert "synthetic data" in text and "19 classes; seed 0" in text and "Compare only the order" in text
    lines = list(csv.DictReader((folder / "rectifying-9.csv").read_text(encoding="utf-8").splitlines()))
    measured = [100 * json.loads(kl.read_text())["miou"], 25.0, 12.5]
    assert [float(line["measured"]) for line in lines] == pytest.approx(measured, abs=0.006)
    assert [line["published"] for line in lines] == ["50.30", "", ""]
    assert "*" not in text

    monkeypatch.chdir(tmp_path)
    again = run_main("tables", *flags)
    assert again.returncode == 0 and text in again.stdout and "started" not in again.stdout
