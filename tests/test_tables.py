"""tables.py: the papers' tables as data, their jobs, what runs when, and the measured tables."""

import csv
import json
import os
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dataset.labels import CITYSCAPES_COLORS, ROBOTCAR_COLORS
from experiments import runner, tabulate
from experiments.jobs import Planner
from experiments.recipes import embedded_recipe, published_recipe
from experiments.runner import Job
from experiments.tables import (
    CITYSCAPES_CLASSES,
    ROBOTCAR_CLASSES,
    TABLES,
    WEIGHTS,
    Cell,
    Row,
    Stage1,
    Stage2,
    Table,
)
from tests.conftest import ROOT, one_line_error, run_script
from utils.errors import UserError
from utils.options import stage1_args, stage2_args
from utils.prediction_options import evaluate_args, generate_args

NAMES = ["mrnet-1", "mrnet-2", "mrnet-3", *(f"rectifying-{n}" for n in range(2, 11))]
PARSERS = {
    "train_ms.py": stage1_args,
    "train_ft.py": stage2_args,
    "generate_plabel_cityscapes.py": generate_args,
    "evaluate_cityscapes.py": evaluate_args,
}


def commands_of(printed: str) -> list[str]:
    """The lines of a dry run that a shell would run."""
    return [line for line in printed.splitlines() if not line.startswith("#")]


# The command line.


def test_list_says_what_each_table_shows(run_main):
    listed = run_main("tables", "--list")
    assert listed.returncode == 0
    for name in NAMES:
        assert f"\n{name} " in f"\n{listed.stdout}"
        table = TABLES[name]
        assert table.title in listed.stdout and table.shows in listed.stdout
        assert all(row.title in listed.stdout for row in table.rows)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["mrnet-9"], ["mrnet-9", *NAMES]),
        ([], NAMES),
        (["mrnet-2", "--quick"], ["--quick", "--embedded"]),
        (["mrnet-2", "--jobs", "0"], ["--jobs"]),
        (["mrnet-2", "--seeds", "0;1"], ["--seeds", "0,1,2"]),
        (["mrnet-2", "--gpu-ids", "cuda"], ["--gpu-ids"]),
    ],
)
def test_bad_flags_are_one_line_and_status_2(run_main, flags, words):
    done = run_main("tables", *flags)
    one_line_error(done, *words)
    assert done.stdout == ""


@pytest.mark.parametrize("setting", [[], ["--embedded"]])
def test_dry_run_prints_pasteable_commands_and_writes_nothing(run_main, setting, tmp_path):
    out = tmp_path / "the out put"  # needs quotes
    done = run_main("tables", *NAMES, *setting, "--seeds", "0,1", "--out", out, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []
    commands = [shlex.split(line) for line in commands_of(done.stdout)]
    assert len(commands) > 100
    for python, script, *flags in commands:
        assert python == "python"
        if script in PARSERS:
            PARSERS[script](flags)  # it knows every flag
        else:
            assert [script, flags[0]] == ["-m", "synthetic"]
    for flag in ("--snapshot-dir", "--log-dir", "--save"):
        folders = [c[c.index(flag) + 1] for c in commands if flag in c]
        assert len(set(folders)) == len(folders)
        assert all(Path(folder).is_relative_to(out) for folder in folders)


def test_dry_run_prints_what_a_command_reads_before_it(run_main, tmp_path):
    printed = run_main("tables", *NAMES, "--embedded", "--out", tmp_path, "--dry-run").stdout
    written = set()
    for words in map(shlex.split, commands_of(printed)):
        for flag in ("--restore-from", "--pseudo-dir", "--data-dir", "--data-dir-target"):
            if flag in words and (value := words[words.index(flag) + 1]) != "none":
                parents = {Path(value), *Path(value).parents}
                assert parents & written, f"{flag} {value} is read before it is there"
        made = [words[words.index(f) + 1] for f in ("--snapshot-dir", "--save") if f in words]
        written |= {Path(folder) for folder in made or [words[3]]}


def test_published_flags_are_the_published_commands(tmp_path):
    planner = Planner(published_recipe(), tmp_path, seed=1234)
    stage1, stage2 = (planner.train(planner.resolve(network)).job.command for network in (Stage1(), Stage2()))
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
    ours = ("snapshot_dir", "log_dir", "restore_from", "pseudo_dir")
    for command, published, parse in ((stage1, published1, stage1_args), (stage2, published2, stage2_args)):
        got, wanted = vars(parse(list(command[1:]))), vars(parse(published.split()))
        assert {k: v for k, v in got.items() if k not in ours} == {
            k: v for k, v in wanted.items() if k not in ours
        }
    assert stage2[stage2.index("--restore-from") + 1].endswith("gta5-mrnet/GTA5_25000.pth")


@pytest.mark.parametrize("benchmark", ["gta5", "synthia", "robotcar"])
def test_embedded_trainings_have_the_demos_flags(benchmark, tmp_path):
    planner = Planner(embedded_recipe(), tmp_path, seed=5)
    rectified = planner.train(planner.resolve(Stage2(Stage1(benchmark)))).job
    commands = [job.line for job in runner.in_order([rectified])]
    assert [command.split()[1] for command in commands] == [
        "-m",
        "train_ms.py",
        "train_ms.py",
        "generate_plabel_cityscapes.py",
        "train_ft.py",
    ]
    draw, start, stage1, labels, stage2 = commands
    assert f"--benchmark {benchmark} --seed 5 --source-images 240" in draw
    assert "--restore-from none" in start and "--num-steps 650" in start and "--batch-size 4" in start
    assert "--num-steps 280" in stage1 and "--lambda-kl-target 1 --reg-start 0" in stage1
    assert "--threshold 0.9" in labels and "--threshold 0.9" in stage2 and "--num-steps 200" in stage2


def test_jobs_that_tables_share_run_once(tmp_path):
    planner = Planner(published_recipe(), tmp_path, seed=0)

    def count(*names: str) -> int:
        cells = [cell for name in names for row in TABLES[name].rows_in(False) for cell in row.cells]
        return len(runner.in_order(map(planner.evaluate, cells)))

    assert count("mrnet-1") == 4  # two trainings and an evaluation each
    assert count("mrnet-1", "mrnet-2") == count("mrnet-2") == 8
    assert count("rectifying-2", "mrnet-2") == count("mrnet-2") + 1 + 2 * 2  # labels, two of Stage II
    assert count("rectifying-9", "rectifying-10", "rectifying-7", "rectifying-2") == 9 + 2 * (2 + 2 + 5)
    assert count("rectifying-6", "rectifying-2") == 9 + 7 * 3  # without a threshold it is the same network


def test_every_network_has_a_folder_of_its_own(tmp_path):
    for recipe in (published_recipe(), embedded_recipe()):
        planner = Planner(recipe, tmp_path, seed=0)
        cells = [c for table in TABLES.values() for row in table.rows for c in row.cells]
        networks = {planner.resolve(cell.network) for cell in cells}
        assert len({planner.network_name(network) for network in networks}) == len(networks)
        runner.in_order(map(planner.evaluate, cells))  # raises where two share a record or folder


def test_class_weights_of_one_evaluation_give_all_rows_of_the_first_table(tmp_path):
    planner = Planner(published_recipe(), tmp_path, seed=0)
    rows = TABLES["mrnet-1"].rows
    assert {row.cells[1].measure[1] for row in rows} == set(WEIGHTS)
    assert len({planner.evaluate(row.cells[1]) for row in rows}) == 1


# The published numbers.


@pytest.mark.parametrize("name", ["rectifying-2", "rectifying-3", "rectifying-4"])
def test_published_classes_average_to_the_published_mean(name):
    table = TABLES[name]
    checked = 0
    for row in table.rows:
        of_class = {c.measure[1]: c.published for c in row.cells if c.measure[0] == "iou"}
        means = {c.measure[1]: c.published for c in row.cells if c.measure[0] == "means"}
        if None in of_class.values():
            continue
        assert statistics.fmean(of_class.values()) == pytest.approx(means["mIoU"], abs=0.06)
        if "mIoU*" in means:
            thirteen = [v for c, v in of_class.items() if c not in ("wall", "fence", "pole")]
            assert len(thirteen) == 13
            assert statistics.fmean(thirteen) == pytest.approx(means["mIoU*"], abs=0.06)
        checked += 1
    assert checked >= 3


def test_one_network_has_one_published_number():
    planner = Planner(published_recipe(), Path("out"), seed=0)
    published = {}
    for table in TABLES.values():
        for cell in (cell for row in table.rows_in(False) for cell in row.cells):
            if cell.published is not None and cell.measure[-2:] == ("means", "mIoU"):
                key = planner.resolve(cell.network)
                assert published.setdefault(key, cell.published) == cell.published
    assert sorted(v for k, v in published.items() if k.benchmark == "gta5") == [37.2, 45.5, 48.3, 50.3]


def test_class_names_are_those_of_the_labels():
    assert tuple(CITYSCAPES_COLORS) == CITYSCAPES_CLASSES
    assert set(ROBOTCAR_CLASSES) == set(ROBOTCAR_COLORS)


# What was measured.


def result(miou: float, **classes: float | None) -> dict:
    """What evaluate_cityscapes.py writes, as far as tables read it."""
    return {"means": {"mIoU": miou}, "iou": classes}


def methods_table(*published: float | None) -> Table:
    """Source only, MRNet, ... in one column."""
    networks = (Stage1(memory=0, adversarial=False), Stage1(), Stage2(), Stage2(conventional=True))
    rows = [Row(f"method {n}", (Cell(networks[n], published=number),)) for n, number in enumerate(published)]
    return Table("mrnet-2", "Losses", "", ("mIoU",), tuple(rows))


def numbers(table: Table, *mious: list[float]) -> tabulate.Numbers:
    """The table with these mIoU, a list of seeds for each row."""
    results = {
        row.cells[0]: [result(m) for m in of_seeds] for row, of_seeds in zip(table.rows, mious, strict=True)
    }
    return tabulate.numbers_of(table, results, embedded=True)


def test_seeds_become_mean_and_sample_standard_deviation():
    table = methods_table(37.2, None)
    text = tabulate.as_text(table, numbers(table, [0.35, 0.36, 0.40], [0.4, 0.41, 0.42]), [])
    lines = {line.split("  ")[0]: line.split("  ")[1:] for line in text.splitlines()}
    assert [c.strip() for c in lines["method 0"] if c] == ["37.0 ± 2.6", "37.2"]
    assert [c.strip() for c in lines["method 1"] if c] == ["41.0 ± 1.0", "–"]


def test_one_seed_is_the_number_alone():
    table = methods_table(37.2)
    assert "±" not in tabulate.as_text(table, numbers(table, [0.3512]), [])
    assert numbers(table, [0.3512])[0][0].measured == "35.1"


def test_csv_and_markdown_hold_the_same_numbers():
    table = methods_table(37.2, None)
    rows = numbers(table, [0.3512, 0.3614], [0.4, 0.42])
    read = list(csv.DictReader(tabulate.as_csv(table, rows).splitlines()))
    assert [line["row"] for line in read] == ["method 0", "method 1"]
    assert read[0] == {
        "row": "method 0",
        "column": "mIoU",
        "measured": "35.63",
        "standard deviation": "0.72",
        "seeds": "2",
        "published": "37.20",
    }
    assert read[1]["published"] == ""
    markdown = tabulate.as_markdown(table, rows, ["A note."]).splitlines()
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in markdown if line.startswith("|")]
    assert cells[0] == ["", "mIoU, measured", "mIoU, published"]
    assert set(cells[1]) == {"---"}
    assert cells[2:] == [["method 0", "35.6 ± 0.7", "37.2"], ["method 1", "41.0 ± 1.4", "–"]]
    assert markdown[-1] == "A note."


def test_wide_table_has_published_numbers_below_measured_ones():
    table = TABLES["rectifying-2"]
    everything = result(0.5, **{name: 0.25 for name in CITYSCAPES_CLASSES} | {"train": None})
    rows = tabulate.numbers_of(table, {c: [everything] for r in table.rows for c in r.cells}, embedded=True)
    text = tabulate.as_text(table, rows, []).splitlines()
    measured = next(i for i, line in enumerate(text) if line.startswith("MRNet"))
    assert text[measured].split() == ["MRNet", "measured", *["25.0"] * 16, "absent", *["25.0"] * 2, "50.0"]
    assert text[measured + 1].split()[:3] == ["published", "89.1", "23.9"]
    grid = [line.strip("|").split("|") for line in tabulate.as_markdown(table, rows, []).splitlines()[2:11]]
    assert {len(line) for line in grid if len(line) > 1} == {22}


def test_order_of_rows_is_compared_with_the_published_one():
    table = methods_table(37.2, 45.5, None, 50.3)
    agreeing = tabulate.order_line(numbers(table, [0.3], [0.4], [0.9], [0.5]))
    assert agreeing == "Order: as published (3 of 3 pairs)."
    wrong = tabulate.order_line(numbers(table, [0.3], [0.55], [0.9], [0.5]))
    assert "2 of 3" in wrong and "method 3 (50.0) is not above method 1 (55.0)" in wrong
    assert "method 0" not in wrong
    too_close = tabulate.order_line(numbers(table, [0.3], [0.5], [0.9], [0.5001]))
    assert "2 of 3" in too_close
    assert tabulate.order_line(numbers(methods_table(37.2, None), [0.3], [0.4])) == ""


def test_both_means_of_synthia_are_compared_each_with_itself():
    table = TABLES["rectifying-3"]
    results = {}
    for rank, row in enumerate(table.rows):
        values = {c.measure[1]: 0.1 for c in row.cells if c.measure[0] == "iou"}
        means = {"mIoU": 0.1 * rank, "mIoU*": 0.5 - 0.1 * rank}
        results |= {cell: [{"means": means, "iou": values}] for cell in row.cells}
    line = tabulate.order_line(tabulate.numbers_of(table, results, embedded=False))
    assert "6 of 12 pairs" in line
    assert "MRNet, mIoU* (40.0) is not above source only, mIoU* (50.0)" in line


def test_number_that_an_evaluation_lacks_is_named():
    with pytest.raises(UserError, match="classifiers 1:0 means mIoU"):
        tabulate.read_number(result(0.5), TABLES["mrnet-1"].rows[1].cells[0])


# Running jobs: real ones, of a few lines.

SCRIPT = """\
import pathlib, sys, time
folder, action = pathlib.Path(sys.argv[1]), sys.argv[2]
folder.mkdir(parents=True, exist_ok=True)
(folder / "part").write_text("half")
with open("order.txt", "a") as order:
    order.write(f"{folder.name}\\n")
if action == "fail":
    sys.exit("script.py: error: no such thing")
time.sleep(60 if action == "hang" else float(action))
(folder / "whole").write_text("all")
"""


@pytest.fixture
def base(tmp_path) -> Path:
    """A project folder with a script that fills a folder."""
    (tmp_path / "script.py").write_text(SCRIPT)
    return tmp_path


def small_job(name: str, action: object = 0, needs: tuple[Job, ...] = ()) -> Job:
    home = Path("out/seed0")
    folder = home / "made" / name
    return Job(name, ("script.py", str(folder), str(action)), home, folder, needs)


def run(base: Path, *jobs: Job, side_by_side: int = 1) -> None:
    runner.run(jobs, base, base / "out", side_by_side)


def ran(base: Path) -> list[str]:
    """Names of the jobs that were started, in order."""
    return (base / "order.txt").read_text().split()


def test_jobs_run_once_in_the_order_of_their_needs(base):
    data = small_job("data")
    first, second = small_job("first", needs=(data,)), small_job("second", needs=(data,))
    run(base, small_job("last", needs=(second, first)), first)
    assert ran(base) == ["data", "second", "first", "last"]
    assert json.loads((base / first.record).read_text())["command"] == first.line


def test_each_job_says_when_it_starts_and_ends(base, caplog):
    caplog.set_level("INFO")
    run(base, small_job("a"), small_job("b"))
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == "job 1 of 2: seed0/a started"
    assert lines[1].startswith("job 1 of 2: seed0/a done in 0:00:0") and lines[1].endswith(", 1 left")
    assert lines[2:3] == ["job 2 of 2: seed0/b started"]
    assert (base / small_job("a").log).read_text().startswith(f"$ {small_job('a').line}\n")


def test_finished_jobs_are_skipped(base):
    run(base, small_job("a"))
    run(base, small_job("a"), small_job("b"))
    assert ran(base) == ["a", "b"]
    assert runner.dry_run([small_job("a"), small_job("c")], base) == [
        f"# done: {small_job('a').line}",
        small_job("c").line,
    ]


def test_finished_job_of_another_command_is_refused(base):
    run(base, small_job("a"))
    changed, other = small_job("a", 0.0), small_job("b")
    for attempt in (lambda: run(base, other, changed), lambda: runner.dry_run([changed], base)):
        with pytest.raises(UserError, match=r"records/a\.json.*--out"):
            attempt()
    assert ran(base) == ["a"]


def test_record_of_a_job_that_read_an_earlier_result_is_refused(base):
    first, other = small_job("first"), small_job("other")
    last = small_job("last", needs=(first, other))
    run(base, last)
    (base / first.record).unlink()
    with pytest.raises(UserError, match=r"last\.json.*earlier result of seed0/first"):
        run(base, last)
    run(base, first)  # made again, so that last is of an earlier one
    with pytest.raises(UserError, match=r"last\.json.*earlier result of seed0/first"):
        run(base, last)
    (base / last.record).unlink()
    run(base, last)
    assert ran(base) == ["first", "other", "last", "first", "last"]


def test_half_finished_job_is_kept_aside_and_started_afresh(base, caplog):
    caplog.set_level("INFO")
    job = small_job("a")
    for _ in range(2):
        (base / job.folder).mkdir(parents=True)
        (base / job.folder / "part").write_text("precious")
        assert runner.dry_run([job], base)[0].startswith("# half made: ")
        run(base, job)
        assert (base / job.folder / "whole").is_file()
        (base / job.record).unlink()
        shutil.rmtree(base / job.folder)
    kept = [base / f"{job.folder}.stopped-{n}" for n in (1, 2)]
    assert [(folder / "part").read_text() for folder in kept] == ["precious"] * 2
    assert sum("kept as a.stopped-" in record.getMessage() for record in caplog.records) == 2


def test_empty_folder_is_no_half_finished_job(base):
    job = small_job("a")
    (base / job.folder).mkdir(parents=True)
    run(base, job)
    assert [folder.name for folder in (base / job.folder).parent.iterdir()] == ["a"]


@pytest.mark.parametrize("side_by_side", [1, 2])
def test_failing_script_stops_with_one_line_and_keeps_records(base, side_by_side):
    good, bad = small_job("good", 0.5), small_job("bad", "fail")
    after = small_job("after", needs=(bad,))
    with pytest.raises(UserError) as error:
        run(base, good, bad, after, small_job("later", needs=(good, bad)), side_by_side=side_by_side)
    message = str(error.value)
    assert "status 1" in message and bad.line in message and "no such thing" in message
    assert str(base / bad.log) in message and "\n" not in message
    assert (base / good.record).is_file() and not (base / bad.record).exists()
    assert set(ran(base)) == {"good", "bad"}


def test_needed_folder_that_is_gone_is_named(base):
    first = small_job("first")
    run(base, first)
    (base / first.folder).rename(base / "moved")
    run(base, first)  # nothing reads it
    with pytest.raises(UserError, match="first.*gone, and seed0/second needs it"):
        run(base, small_job("second", needs=(first,)))


def test_independent_jobs_run_side_by_side_with_their_share_of_the_cores(base):
    (base / "threads.py").write_text(
        "import os, pathlib, sys, time\n"
        "folder = pathlib.Path(sys.argv[1]); folder.mkdir(parents=True)\n"
        "(folder / 'threads').write_text(os.environ['OMP_NUM_THREADS'])\n"
        "other = folder.parent / sys.argv[2]\n"
        "deadline = time.time() + 30\n"
        "while not other.exists():\n"
        "    assert time.time() < deadline, 'the other one never started'\n"
        "    time.sleep(0.05)\n"
    )
    home = Path("out/seed0")
    jobs = [
        Job(name, ("threads.py", str(home / name), other), home, home / name)
        for name, other in (("a", "b"), ("b", "a"))
    ]
    run(base, *jobs, side_by_side=2)
    threads = {(base / home / name / "threads").read_text() for name in "ab"}
    assert threads == {str(max(1, os.cpu_count() // 2))}


def driver(base: Path) -> subprocess.Popen:
    """A campaign of one hanging job as a process of its own."""
    code = (
        "import pathlib, sys; sys.path.insert(0, sys.argv[1])\n"
        "from experiments import runner; from utils.errors import run_script\n"
        "home = pathlib.Path('out/seed0'); folder = home / 'made/slow'\n"
        "job = runner.Job('slow', ('script.py', str(folder), 'hang'), home, folder)\n"
        "run_script(lambda: runner.run([job], pathlib.Path.cwd(), pathlib.Path('out')))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(ROOT)],
        cwd=base,
        stderr=subprocess.PIPE,
        # What was started in the background passes on that Ctrl-C is not heard.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 30
    while not (base / "out/seed0/made/slow/part").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    return process


@pytest.mark.skipif(runner.fcntl is None, reason="this system has no fcntl")
def test_two_drivers_in_one_folder_are_refused_and_ctrl_c_stops_the_script_too(base):
    process = driver(base)
    try:
        with pytest.raises(UserError, match="another run is at work"):
            run(base, small_job("b"))
        assert ran(base) == ["slow"]
    finally:
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130 and said.count(b"\n") == 1
    run(base, small_job("b"))  # the script, which holds the lock too, is gone
    assert ran(base) == ["slow", "b"]
    assert not (base / "out/seed0/records/slow.json").exists()


# End to end.


def test_drawing_is_a_command_that_fills_a_new_folder_or_none(tmp_path):
    root = tmp_path / "drawn"
    few = ("--benchmark", "synthia", "--source-images", 1, "--target-images", 1, "--val-images", 1)
    command = [sys.executable, "-m", "synthetic", root, *few]
    first, second = (
        subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True) for _ in range(2)
    )
    assert first.returncode == 0, first.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["drawn"]
    assert sorted(path.name for path in root.iterdir()) == ["Cityscapes", "synthia"]
    one_line_error(second, root)


def test_table_measured_on_embedded_data(run_main, tmp_path):
    flags = ["rectifying-9", "--embedded", "--quick", "--out", "out", "--jobs", "2"]
    done = run_script("tables", *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr + done.stdout
    folder = tmp_path / "out/embedded-quick"
    text = (folder / "rectifying-9.txt").read_text(encoding="utf-8")
    assert text in done.stdout
    assert "embedded data" in text and "19 classes; seed 0" in text and "only in ordering" in text
    lines = list(csv.DictReader((folder / "rectifying-9.csv").read_text(encoding="utf-8").splitlines()))
    names = ("gta5-rectified", "gta5-rectified-reverse-kl", "gta5-rectified-squared")
    for line, name in zip(lines, names, strict=True):
        metrics = json.loads((folder / f"seed0/results/{name}/metrics.json").read_text())
        assert float(line["measured"]) == pytest.approx(100 * metrics["miou"], abs=0.006)
    assert [line["published"] for line in lines] == ["50.30", "", ""]

    again = run_script("tables", *flags, cwd=tmp_path)
    assert again.returncode == 0 and text in again.stdout
    assert "started" not in again.stdout
    dry = run_main("tables", *flags[:4], tmp_path / "out", "--dry-run").stdout
    assert commands_of(dry) == [] and dry.count("# done: python ") == 10
