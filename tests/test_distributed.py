"""Several processes against one with the same samples, in float64, over gloo on the CPU."""

import datetime
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from PIL import Image

from dataset import adapt, build_dataset, find_domain
from engine.averaging import Averaging
from engine.class_balanced import ClassBalancedLabels
from report.result_folder import read_result
from tests.conftest import PREDICTION, ROOT, TRAINING, files_of, run_in, write_cityscapes, write_world
from tests.global_batch_norm import convert_global_batchnorm
from tests.test_trainers import REGULARISED, TRAINERS, WEIGHTING, build
from tests.test_trainers import step as one_step
from trainer_ms import AD_Trainer as Stage1Trainer
from utils import distributed
from utils.distributed import SINGLE_PROCESS, Processes
from utils.errors import StopRequest
from utils.inference import predict_all
from utils.options import stage1_args
from utils.percentile import percentile

CLASSES = 7
STEPS = 3
NETWORK = f"--arch mini --norm-style gn --use-se --droprate 0 --num-classes {CLASSES} --crop-size 56,40"
ALL_LOSSES = "--lambda-seg 0.5 --lambda-kl-target 0.1 --lambda-me-target 0.05 --reg-start 0"
BALANCE = "--class-balance --often-balance --max-value 7"
RATES = "--learning-rate 1e-2 --learning-rate-D 1e-3"
STAGE1 = f"{NETWORK} {ALL_LOSSES} {BALANCE} {RATES} --only-hard-label 80 --sync_bn"
CLAN = (
    "--adversarial clan --lambda-adv-target1 0 --lambda-adv-target2 0.1 --warm-up 1 --warm-up-start 0 "
    "--warm-up-D --lambda-weight 0.1 --focal 2"
)
ADAPTSEGNET = "--adversarial adaptsegnet --gan LS --lambda-adv-target1 0 --lambda-adv-target2 0.1"
ONLINE = (
    f"{NETWORK} {BALANCE} {RATES} --sync_bn --lambda-seg 0.5 --lambda-adv-target1 0 --lambda-adv-target2 0"
)
ONLINE += " --self-training --lambda-mask 0.7 --mask-block 8 --pseudo-threshold 0.3 --pseudo-weight both"
ONLINE += " --jitter-chance 0.6 --reg-start 0"
FEATURES = "--lambda-fd 0.05 --fd-classes 1,2,3 --lambda-adv-target1 0.1 --lambda-adv-target2 0.1"
STAGE2 = f"{NETWORK} {BALANCE} {RATES} --lambda-adv-target1 0 --lambda-adv-target2 0 --train_bn --sync_bn"


def samples(step: int, images: int, size: tuple[int, int]) -> tuple:
    """The whole batch of a step, the same in every process."""
    generator = torch.Generator().manual_seed(step)
    draw = dict(generator=generator, dtype=torch.float64)
    pictures = [torch.randn(images, 3, *size, **draw) * 50 for _ in range(2)]
    labels = [torch.randint(CLASSES + 2, (images, *size), generator=generator) for _ in range(2)]
    for label in labels:
        label[label >= CLASSES] = 255
        label[:, : size[0] // 2] = label[:, :1]  # classes of few pixels and of many
        label[:, 24:, 24:] = torch.arange(images)[:, None, None]  # and of whole cells
    return *pictures, *labels


def train(stage: int, flags: str, images: int, processes: Processes) -> dict:
    """Three steps of a trainer on this process's part of every batch, and all that they leave."""
    parse, kind = TRAINERS[stage - 1]
    torch.manual_seed(0)
    trainer = kind(parse([*flags.split(), "--batch-size", str(images)]))
    for classifier in (trainer.G.layer5, trainer.G.layer6):
        torch.nn.init.normal_(classifier.head[1].weight, std=0.3)
    if getattr(trainer.args, "lambda_fd", 0):
        with tempfile.NamedTemporaryFile() as file:
            torch.save(trainer.G.state_dict(), file.name)
            trainer.args.imnet_from = file.name
            trainer.load_reference()
    trainer.distribute(processes)
    history = []
    for step in range(STEPS):
        trainer.adjust_learning_rates(step)
        for part in range(trainer.args.iter_size):
            update = part == trainer.args.iter_size - 1
            shard = processes.shard(images)
            batch = [
                x[shard.start : shard.stop] for x in samples(10 * step + part, images, trainer.args.crop_size)
            ]
            losses, predictions = trainer.gen_update(*batch, i_iter=step, update=update)
            losses |= trainer.dis_update(*predictions, update=update)
            history.append({name: loss.item() for name, loss in losses.items()})
    return {"losses": history, "networks": trainer.state_dict()}


def _work(rank: int, count: int, port: int, folder: str, job) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    torch.nn.SyncBatchNorm.convert_sync_batchnorm = staticmethod(convert_global_batchnorm)
    processes = distributed.init_distributed(cpu=True)
    assert (processes.rank, processes.world_size, processes.local_rank) == (rank, count, rank)
    torch.save(job(processes), Path(folder) / f"{rank}.pth")
    distributed.shutdown()


def run_processes(count: int, folder: Path, job) -> list:
    """What `job(processes)` returns in each of `count` processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_work, (count, port, str(folder), job), nprocs=count)
    return [torch.load(folder / f"{rank}.pth", weights_only=False) for rank in range(count)]


# stage, flags, images
RUNS = {
    "stage 1": (1, STAGE1, 4),
    "stage 1, uneven": (1, STAGE1, 3),
    "stage 1, gradients added up": (1, f"{STAGE1} --iter-size 2", 2),
    "CLAN, uneven": (1, f"{STAGE1} {CLAN}", 3),
    "AdaptSegNet, one level, gradients added up": (1, f"{STAGE1} --iter-size 2 {ADAPTSEGNET}", 2),
    "stage 2, uneven": (2, STAGE2, 3),
    "self-training": (2, f"{STAGE2} --conventional --mr-weight-kld 0.5", 3),
    "online self-training, uneven": (3, f"{ONLINE} {FEATURES}", 3),
    "online self-training, gradients added up": (3, f"{ONLINE} --iter-size 2 --lambda-kl-target 0.1", 2),
    "conventional": (2, f"{STAGE2} --conventional --only-hard-label 60 --focal 2 --lambda-weight 0.1", 2),
    "a transformer of timm": (
        1,
        f"{STAGE1} --arch timm/test_vit --optimizer sgd --learning-rate 1e-4 --sync_bn False",
        2,
    ),
}

# Each target loss on or off, the regularisers from the second step on.
TARGET_LOSSES = {
    "adv1": "--lambda-adv-target1",
    "adv2": "--lambda-adv-target2",
    "me": "--lambda-me-target",
    "kl": "--lambda-kl-target",
}
SMALL = f"{NETWORK} {RATES} --is-training False --crop-size 24,16 --reg-start 1"
COMBINATIONS = list(
    product(
        (1, 2), ("", "--checkpointing"), ("", "--iter-size 2"), product((0, 0.1), repeat=len(TARGET_LOSSES))
    )
)


def combination(stage: int, checkpointing: str, iter_size: str, weights: tuple, processes: Processes) -> dict:
    """A short training with these weights of the target's losses."""
    given = " ".join(f"{flag} {weight}" for flag, weight in zip(TARGET_LOSSES.values(), weights, strict=True))
    return train(stage, f"{SMALL} {checkpointing} {iter_size} {given}", 2, processes)


def compare_combinations(processes: Processes) -> list[tuple]:
    """Fail where two processes train otherwise than one, which each process runs for half of them."""
    for index, case in enumerate(COMBINATIONS):
        found = combination(*case, processes)
        if index % processes.world_size == processes.rank:
            expected = combination(*case, SINGLE_PROCESS)
            learned = [expected["losses"][-1][name] > 0 for name in TARGET_LOSSES]
            assert learned == [weight > 0 for weight in case[-1]], case
            try:
                assert_same(found, expected)
            except AssertionError as error:
                raise AssertionError(case) from error
    return COMBINATIONS


PERCENTILES = 0, 12.5, 80, 99.95, 100


def spread_values() -> torch.Tensor:
    values = torch.randn(1001, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values[::5] = 0  # ties, as ignored pixels make them
    values[1::50] = -0.0
    return values


def percentiles_of_shards(processes: Processes) -> dict[torch.dtype, list[float]]:
    """Percentiles of values that are spread over the processes."""
    shard = processes.shard(len(spread_values()))
    mine = spread_values()[shard.start : shard.stop]
    return {
        dtype: [percentile(mine.to(dtype), q, processes).item() for q in PERCENTILES]
        for dtype in (torch.float64, torch.float32)
    }


def predicted_at_once(processes: Processes, fitting: int, of_rank: tuple[int, int]) -> list[int]:
    """Images per pass where `fitting` fit on rank 1's device and all on rank 0's."""
    shown = []

    class Network(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            if processes.rank == 1 and len(images) > fitting:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            shown.append(len(images))
            return images, images

    images = torch.zeros(4, 8, 8, 3, dtype=torch.uint8)
    batch = {"images": [images], "label": [images[0, ..., 0]] * 4, "size": [(8, 8)] * 4, "name": list("abcd")}
    batches = [batch] * of_rank[processes.rank]
    found = list(predict_all(Network(), batches, torch.device("cpu"), [(0.5, 1)], processes))
    assert [name for name, _, _ in found] == list("abcd") * len(batches)
    return shown[::2]  # each part is also mirrored


def work_in_processes(processes: Processes) -> dict:
    """Every run, the percentiles and sizes of batches, in processes that are started once."""
    trained = {title: train(*run, processes) for title, run in RUNS.items()}
    at_once = {
        "scarce": predicted_at_once(processes, 2, (2, 2)),
        "alone": predicted_at_once(processes, 4, (1, 0)),
    }
    return trained | percentiles_of_shards(processes) | {"at once": at_once}


@pytest.fixture(scope="module")
def by_two(tmp_path_factory) -> list[dict]:
    """What the runs leave in each of two processes."""
    return run_processes(2, tmp_path_factory.mktemp("two"), work_in_processes)


def assert_same(found, expected) -> None:
    """Equal to 1e-9, entry by entry."""
    for mine, alone in zip(found["losses"], expected["losses"], strict=True):
        assert mine == pytest.approx(alone, rel=1e-9, abs=1e-12)
    assert found["networks"].keys() == expected["networks"].keys()
    for key, value in expected["networks"].items():
        torch.testing.assert_close(found["networks"][key], value, rtol=1e-8, atol=1e-10, msg=key)


@pytest.mark.parametrize("title", RUNS)
def test_two_processes_train_as_one_does(title, by_two, float64, one_thread):
    expected = train(*RUNS[title], SINGLE_PROCESS)
    assert all(expected["losses"][0].get(name, 1) for name in ("seg2", "fd", "share"))
    for found in by_two:
        assert_same(found[title], expected)


def test_two_processes_train_as_one_does_with_any_of_the_target_losses(tmp_path):
    assert run_processes(2, tmp_path, compare_combinations) == [COMBINATIONS] * 2


def test_percentile_over_two_processes_is_numpys(by_two):
    for dtype, precision in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        expected = np.percentile(spread_values().to(dtype), PERCENTILES)
        for found in by_two:
            assert found[dtype] == pytest.approx(expected, rel=precision)


def test_processes_predict_as_many_images_at_once_as_fit_on_the_smallest_device(by_two):
    first, second = (found["at once"] for found in by_two)
    assert first == {"scarce": [4, 2, 2], "alone": [4]}
    assert second == {"scarce": [2, 2, 2, 2], "alone": []}


def update_average(folder: Path, processes: Processes) -> dict:
    """What an update of the average and of the sampler leaves."""
    torch.manual_seed(0)
    flags = "--swa --adaboost --swa-batch 5 --arch mini --sync_bn --crop-size 56,40 --num-workers 0"
    args = stage1_args(
        [
            *flags.split(),
            "--input-size-target",
            "72,48",
            "--snapshot-dir",
            str(folder / str(processes.world_size)),
        ]
    )
    data = build_dataset("cityscapes", folder, labelled_stream=False, input_size=args.input_size_target)
    trainer = Stage1Trainer(args)
    for classifier in (trainer.G.layer5, trainer.G.layer6):
        torch.nn.init.normal_(classifier.head[1].weight, std=0.3)
    pair = adapt(find_domain("gta5"), find_domain("cityscapes"))
    averaging = Averaging(trainer, data, pair, args, stage2=False)
    trainer.distribute(processes)
    args.snapshot_dir.mkdir(exist_ok=True)
    assert averaging.due(0) and averaging.update(0, StopRequest())
    return {"weights": averaging.weights, "average": averaging.network().state_dict()}


def test_two_processes_average_and_sample_as_one_does(tmp_path, float64, one_thread):
    data = write_cityscapes(tmp_path / "data", ("train",), count=7)  # 14 images: three batches, one smaller
    (tmp_path / "work").mkdir()
    expected = update_average(data, SINGLE_PROCESS)
    assert expected["weights"].max() > 1.001 / 14
    for found in run_processes(2, tmp_path / "work", partial(update_average, data)):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def balance_labels(folder: Path, processes: Processes) -> list[dict]:
    """Class-balanced labels of this process's share of seven images, hard ones and soft ones of the best."""

    def maps(index: int):
        draw = dict(generator=torch.Generator().manual_seed(index), dtype=torch.float32)
        p = [torch.randn(6, *size, **draw).mul(4).softmax(0) for size in ((6, 9), (7, 11))]
        return f"{index}.png", (24 + index, 40), [2 * m for m in p] + [torch.zeros(1, 6, 9)]

    made = []
    for alpha, best in ((0, 0), (0.25, 5)):
        args = Namespace(num_classes=6, portion=0.3, ds_rate=4, mine_port=1e-3, lr_weight_ent=alpha)
        args.best_images = best
        mine = map(maps, processes.shard(7))
        labels = ClassBalancedLabels(mine, args, folder / "labels", torch.device("cpu"), processes)
        of_image = {name: (prediction.label, soft) for name, prediction, soft in labels}
        made.append({"summary": labels.summary, "labels": of_image})
    return made


def test_two_processes_make_the_class_balanced_labels_of_one(tmp_path):
    expected = balance_labels(tmp_path, SINGLE_PROCESS)
    assert [len(made["labels"]) for made in expected] == [7, 5]
    found = run_processes(2, tmp_path, partial(balance_labels, tmp_path))
    for *parts, alone in zip(*found, expected, strict=True):
        assert [part["summary"] for part in parts] == [alone["summary"]] * 2
        together = parts[0]["labels"] | parts[1]["labels"]
        assert sum(len(part["labels"]) for part in parts) == len(together)
        torch.testing.assert_close(together, alone["labels"], rtol=0, atol=0)


def test_a_step_sends_few_messages(one_thread):
    class Counting(Processes):
        messages = 0

        def all_reduce_sum(self, tensor: torch.Tensor) -> torch.Tensor:
            Counting.messages += 1
            return tensor

    trainer = build(1, f"{WEIGHTING} {REGULARISED}")
    trainer.processes = Counting(world_size=2)
    one_step(trainer, 0)
    assert Counting.messages == 18  # docs/performance.md


# The scripts, as torchrun starts them


ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def torchrun_command(count: int, name: str, *flags: str) -> list[str]:
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}")
    return [*launcher, str(ROOT / f"{name}.py"), *map(str, flags)]


def torchrun(count: int, name: str, *flags: str, cwd: Path) -> subprocess.CompletedProcess:
    """A script in `count` processes."""
    command = torchrun_command(count, name, *flags)
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, env=ENVIRONMENT)


FROZEN = "--is-training False"  # batch statistics would be those of each process's images
AVERAGED = ("--swa", "--swa_every", "2", "--swa-batch", "3", "--adaboost")
TRAIN = (*TRAINING, *f"--batch-size 3 --drop 0 --norm-style gn --use-se {FROZEN}".split())


def losses_of(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "iteration"} for line in lines]


def test_scripts_under_torchrun_do_what_one_process_does(tmp_path):
    write_world(tmp_path)
    runs = {
        "one": lambda *command: run_in(tmp_path, *command),
        "two": lambda *command: torchrun(2, *command, cwd=tmp_path),
    }
    for name, run in runs.items():
        trained = run("train_ms", "--snapshot-dir", f"snapshots/{name}", *TRAIN, *AVERAGED)
        assert trained.returncode == 0, trained.stderr
        assert trained.stdout.count("Saved snapshots") == 2 + 3
        flags = ("--restore-from", "snapshots/one/GTA5_4.pth", *PREDICTION)
        made = run("generate_plabel_cityscapes", *flags, "--save", f"pseudo/{name}")
        assert made.returncode == 0 and "of 4 images" in made.stdout, made.stderr
        scored = run("evaluate_cityscapes", *flags, "--report", "--save", f"result/{name}")
        assert scored.returncode == 0 and scored.stdout.count("mIoU") == 1, scored.stderr
    for one, two in zip(*(losses_of(tmp_path / "snapshots" / name) for name in ("one", "two")), strict=True):
        assert two == pytest.approx(one, rel=2e-4)
    one, two = (
        torch.load(tmp_path / "snapshots" / name / "GTA5_4_average.pth", weights_only=True)
        for name in ("one", "two")
    )
    torch.testing.assert_close(two, one, rtol=1e-3, atol=1e-4)
    one, two = (tmp_path / "pseudo" / name for name in ("one", "two"))
    assert [path.relative_to(one) for path in files_of(one)] == [p.relative_to(two) for p in files_of(two)]
    assert np.mean(labels_of(one) != labels_of(two)) < 1e-3  # a pixel may be a tie but for rounding
    one, two = (json.loads((tmp_path / "result" / n / "metrics.json").read_text()) for n in ("one", "two"))
    assert one.pop("uncertainty_gap") == pytest.approx(two.pop("uncertainty_gap"), abs=1e-6)
    confusion, other = (np.array(result["confusion"]) for result in (one, two))
    assert confusion.sum() == other.sum() and np.abs(confusion - other).sum() < 1e-3 * confusion.sum()
    assert one["names"] == two["names"] and one.keys() == two.keys()
    one, two = (read_result(tmp_path / "result" / name) for name in ("one", "two"))
    assert list(one.images) == list(two.images) and len(one.images) == 4
    for name, scores in one.images.items():
        found = two.images[name]
        assert found.pixels == scores.pixels > 0
        assert (found.accuracy, found.miou) == pytest.approx((scores.accuracy, scores.miou), abs=1e-2)
        assert found[3:] == pytest.approx(scores[3:], rel=1e-2, abs=1e-6)
    assert (tmp_path / "result/two/report.html").read_text(encoding="utf-8").count("<img") == 4 * 6


def labels_of(folder: Path) -> np.ndarray:
    """All predicted labels, in the order of their names."""
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.rglob("*_leftImg8bit.png"))])


def test_a_process_that_fails_ends_all_with_its_message_and_everything_saved(tmp_path):
    write_world(tmp_path)
    # Cut in its middle: the header is fine, so only the process that decodes it finds out.
    image = tmp_path / "data/GTA5/images/00001.png"
    content = image.read_bytes()
    image.write_bytes(content[:200] + bytes(len(content) - 400) + content[-200:])
    failed = torchrun(2, "train_ms", "--snapshot-dir", "snapshots/x", *TRAIN, cwd=tmp_path)
    assert failed.returncode != 0
    lines = [line for line in failed.stderr.splitlines() if "train_ms.py: error:" in line]
    reached = torch.load(tmp_path / "snapshots/x/training_state.pt", weights_only=True)["iteration"]
    said = f"{image.relative_to(tmp_path)}: not a readable image"
    assert lines and all(said in line and f"saved before iteration {reached}" in line for line in lines)
    assert not list((tmp_path / "snapshots").rglob("*.pth"))


VANISHING = f"""
import datetime, os, sys, time
sys.path.insert(0, {str(ROOT)!r})
from utils import distributed
from utils.script import run_script
distributed.TIMEOUT = datetime.timedelta(seconds=2)

def main():
    processes = distributed.init_distributed(cpu=True)
    if processes.is_main:
        time.sleep(4)  # the check of the data may take longer than a step
    assert processes.broadcast(7, patient=True) == 7
    if processes.rank == 1:
        time.sleep(60 if sys.argv[1] == "hangs" else 0)
        os._exit(0)
    started = time.monotonic()
    try:
        processes.all_reduce_max(1)
    finally:
        print(f"noticed after {{time.monotonic() - started:.0f}} s")

run_script(main)
"""


@pytest.mark.parametrize(("way", "limit"), [("hangs", 10), ("dies", 2)])
def test_a_process_that_vanishes_is_noticed_by_the_others(way, limit, tmp_path):
    assert datetime.timedelta(minutes=15) >= distributed.TIMEOUT
    script = tmp_path / "vanishing.py"
    script.write_text(VANISHING)
    command = torchrun_command(2, "")[:-1]
    ended = subprocess.run(
        [*command, script, way], capture_output=True, text=True, env=ENVIRONMENT, timeout=120
    )
    assert "vanishing.py: error: torchrun: another process ended or no longer answers" in ended.stderr
    assert "terminate called" not in ended.stderr and 'vanishing.py", line' not in ended.stderr
    assert float(ended.stdout.split()[2]) <= limit  # "noticed after _ s"


def test_what_all_processes_refuse_is_said_once(tmp_path):
    write_world(tmp_path)
    refused = torchrun(2, "train_ms", *TRAIN, "--batch-size", "1", cwd=tmp_path)
    lines = [line for line in refused.stderr.splitlines() if "train_ms.py: error:" in line]
    assert refused.returncode != 0 and len(lines) == 1 and "--batch-size 1: each of 2 processes" in lines[0]


WATCHED = ("--num-steps", "20", "--save-pred-every", "20", "--eval-every", "10", "--log-every", "2")


def test_a_preempted_run_of_two_processes_resumes_and_ends_as_one_of_a_single_process(tmp_path):
    write_world(tmp_path)
    flags = (*TRAIN, *WATCHED, "--batch-size", "2")
    whole = run_in(tmp_path, "train_ms", *flags, "--snapshot-dir", "snapshots/whole")
    assert whole.returncode == 0, whole.stderr
    command = torchrun_command(2, "train_ms", *flags, "--snapshot-dir", "snapshots/run")
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    log = tmp_path / "snapshots/run/log.jsonl"
    deadline = time.monotonic() + 120
    while not log.exists() or log.read_bytes().count(b"\n") < 3:
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)  # torchrun passes it on to its processes
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "SIGTERM: saved before iteration" in errors
    reached = torch.load(tmp_path / "snapshots/run/training_state.pt", weights_only=True)["iteration"]
    assert 5 <= reached < 20
    again = torchrun(2, "train_ms", "--snapshot-dir", "snapshots/run", "--cpu", "--resume", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert f"Resuming at iteration {reached} of 20." in again.stdout
    one, two = (losses_of(tmp_path / "snapshots" / name) for name in ("whole", "run"))
    assert len(one) == len(two) == 11
    assert [pytest.approx(losses, rel=1e-5) for losses in one] == two
    validations = [
        [
            json.loads(line)
            for line in (tmp_path / "snapshots" / n / "validation.jsonl").read_text().splitlines()
        ]
        for n in ("whole", "run")
    ]
    assert [line["iteration"] for line in validations[1]] == [10, 20]
    for found, expected in zip(*validations, strict=True):
        assert found["means"] == pytest.approx(expected["means"], abs=1e-3)
    # One of the two processes prints, and without carriage returns, because this is not a terminal.
    assert again.stdout.count("Iteration 20: validation mIoU") == 1
    logged = len([i for i in (*range(0, 20, 2), 19) if i >= reached])
    assert again.stdout.count(" left\n") == logged and "\r" not in again.stdout
