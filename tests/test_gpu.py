"""What only a GPU does, tested without one: fake tensors have a device and no values.

torch refuses to mix devices and to read values of such tensors, so a test that passes shows that nothing in a
step or a prediction leaves the GPU or synchronises with it. Autograd asks the driver of a CUDA device, so
backward passes run on torch's `meta` device, which it takes for another GPU.
"""

import contextlib
import threading
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from engine.evaluation import PixelCounts
from engine.loop import load_batch
from engine.restore import rebatch
from engine.setup import prepare_device
from evaluate_cityscapes import evaluate_args
from generate_plabel_cityscapes import generate_args
from model.deeplab_multi import DeeplabMulti
from tests.test_trainers import ONLINE, STAGES, batch, build, new_trainer, raw_batch, step
from utils import preprocess
from utils.argmax import max_of_sum
from utils.device import InPrecision, choose_device, set_precision, to_device
from utils.distributed import SINGLE_PROCESS, Processes
from utils.inference import Prediction, predict_all
from utils.options import stage1_args
from utils.pictures import PredictionWriter, heat_levels
from utils.uncertainty import UNCERTAINTIES, UncertaintyGap

CLASSES, SIZE = 7, (48, 64)
SNAPSHOT = ["--restore-from", "GTA5_1.pth"]
RELEASE = tuple(map(int, torch.__version__.split(".")[:2]))
PRETENDS = (2, 11)  # the oldest release that was seen to do so without a driver


class Watch(TorchDispatchMode):
    """Records the dtypes of tensors copied from the CPU; fails on any other tensor there."""

    def __init__(self, device: torch.device):
        super().__init__()
        self.device, self.arrived = device, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func.namespace != "aten":  # a query of the device
            return result
        elsewhere = [
            leaf
            for leaf in tree_leaves((args, kwargs, result))
            if isinstance(leaf, torch.Tensor) and leaf.device != self.device
        ]
        copies = func.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_)
        if not copies:  # scalars are passed as kernel arguments
            elsewhere = [leaf for leaf in elsewhere if leaf.ndim and leaf.numel()]
        if func is torch.ops.aten._to_copy.default and result.device == self.device:
            self.arrived += [leaf.dtype for leaf in elsewhere]
        else:
            assert not elsewhere, f"{func}: {elsewhere}"
        return result


@pytest.fixture
def gpu(monkeypatch):
    """A fake GPU, which computes nothing."""
    try:
        with FakeTensorMode():
            torch.rand(2, device="cuda")[:1]
    except RuntimeError:
        assert RELEASE < PRETENDS, "torch pretends no longer"
        pytest.skip("this torch needs a driver even to pretend")
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda *_, **__: True)
    preprocess.mean_row.cache_clear()
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield torch.device("cuda", 0)
    preprocess.mean_row.cache_clear()


@pytest.fixture
def online(monkeypatch) -> None:
    """What online self-training needs on a fake GPU."""
    # torch 2.14 corrupts its memory when it copies fake buffers.
    teacher = lambda _: DeeplabMulti(CLASSES, use_se=True, norm_style="gn", arch="mini")  # noqa: E731
    monkeypatch.setattr("trainer_st.copy", Namespace(deepcopy=teacher))

    def numbers(trainer, purpose: str, i_iter: int, image: int, shape: tuple) -> torch.Tensor:
        return torch.rand(shape, device=trainer.often_weight.device)  # pinned memory needs a real one

    monkeypatch.setattr("trainer_st.AD_Trainer.random_numbers", numbers)


def gradients_instead(monkeypatch, trainer) -> None:
    """Replace backward passes by ones that leave gradients without values."""

    def backward(loss):
        used = [D for D in (trainer.D1, trainer.D2) if D]
        discriminators = [p for D in used for p in D.parameters() if p.requires_grad]
        for p in discriminators or trainer.G.parameters():
            if p.requires_grad:
                p.grad = torch.empty_like(p)

    monkeypatch.setattr(torch.Tensor, "backward", backward)
    monkeypatch.setattr(torch.autograd, "grad", lambda _, to, **__: (torch.empty_like(to),))


PRECISIONS = [
    ("tf32", "", torch.float32),
    ("bf16", "--checkpointing", torch.bfloat16),
    ("fp16", "", torch.float16),
]


@pytest.mark.parametrize(
    ("stage", "flags", "precision", "more", "computed"),
    [
        pytest.param(*stage.values, *precision, id=f"{stage.id}-{precision[0]}")
        for stage in (*STAGES, ONLINE)
        for precision in (PRECISIONS if stage.id == "stage1" else PRECISIONS[:1])
    ],
)
def test_nothing_in_a_step_leaves_the_gpu_and_only_uint8_is_copied_to_it(
    stage, flags, precision, more, computed, gpu, online, monkeypatch
):
    with gpu:
        trainer = new_trainer(stage, f"{flags} --precision {precision} {more}", 0.1)
    assert trainer.scaler.is_enabled() == (precision == "fp16")
    gradients_instead(monkeypatch, trainer)
    seen = set()
    trainer.G.layer1[0].conv1.register_forward_hook(lambda _, __, result: seen.add(result.dtype))
    raw = raw_batch(0), raw_batch(1)
    for i_iter in range(3):
        # Caches and optimiser states are created in the first step.
        with Watch(gpu) if i_iter else contextlib.nullcontext() as watch:
            trainer.adjust_learning_rates(i_iter)
            (images, labels), (images_t, labels_t) = (load_batch(batch, gpu) for batch in raw)
            losses, predictions = trainer.gen_update(images, images_t, labels, labels_t, i_iter)
            losses |= trainer.dis_update(*predictions)
        assert not i_iter or watch.arrived == [torch.uint8] * 4
    assert seen == {computed}
    assert {(loss.device, loss.dtype) for loss in losses.values()} == {(gpu, torch.float32)}
    with pytest.raises(DataDependentOutputException):  # reading a loss would be noticed
        float(losses["seg1"])
    for leaves in (lambda: losses["seg1"].cpu(), lambda: losses["seg1"].copy_(torch.zeros(()))):
        with Watch(gpu), pytest.raises(AssertionError, match="copy"):
            leaves()


@pytest.mark.parametrize("more", ["", "--checkpointing", "--iter-size 2"])
@pytest.mark.parametrize(("stage", "flags"), [*STAGES, ONLINE])
def test_no_backward_pass_leaves_the_gpu_or_waits_for_it(stage, flags, more, online, monkeypatch):
    gpu = torch.device("meta")
    preprocess.mean_row.cache_clear()
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # knows no such device
    with FakeTensorMode(allow_non_fake_inputs=True):
        with gpu:
            trainer = new_trainer(stage, f"{flags} {more}", 0.1)
        for optimizer in trainer.dis_opts.values():
            monkeypatch.setattr(optimizer, "step", lambda: None)  # nor does the fused Adam
        raw = raw_batch(0), raw_batch(1)
        for i_iter in range(3):
            with Watch(gpu) if i_iter else contextlib.nullcontext():
                (images, labels), (images_t, labels_t) = (load_batch(batch, gpu) for batch in raw)
                options = dict(update=i_iter != 1)
                _, predictions = trainer.gen_update(images, images_t, labels, labels_t, i_iter, **options)
                trainer.dis_update(*predictions, **options)
            gradients = [p.grad for p in trainer.G.parameters() if p.grad is not None]
            assert bool(gradients) == (i_iter == 1) and all(g.device == gpu for g in gradients)
    preprocess.mean_row.cache_clear()


def test_percentiles_and_class_weights_over_ranks_stay_on_the_gpu(gpu, monkeypatch):
    class Two(Processes):
        def all_reduce_sum(self, tensor: torch.Tensor) -> torch.Tensor:
            assert tensor.device == gpu
            return tensor.clone()

    flags = "--class-balance --often-balance --only-hard-label 80"
    with gpu:
        trainer = new_trainer(1, flags, 0.1)
    trainer.processes = Two(world_size=2)
    gradients_instead(monkeypatch, trainer)
    raw = raw_batch(0), raw_batch(1)
    for i_iter in range(2):
        (images, labels), (images_t, _) = (load_batch(batch, gpu) for batch in raw)
        with Watch(gpu) if i_iter else contextlib.nullcontext():
            losses, predictions = trainer.gen_update(images, images_t, labels, None, i_iter)
            losses |= trainer.dis_update(*predictions)
    assert {(loss.device, loss.dtype) for loss in losses.values()} == {(gpu, torch.float32)}


@pytest.mark.parametrize("uncertainty", UNCERTAINTIES)
def test_a_prediction_never_synchronises_and_its_counts_stay_on_the_gpu(uncertainty, gpu):
    with gpu:
        network = DeeplabMulti(CLASSES, use_se=True, norm_style="gn", arch="mini").eval()
    images = [torch.zeros(2, *size, 3, dtype=torch.uint8) for size in (SIZE, (60, 80))]
    labels = [torch.zeros(SIZE, dtype=torch.uint8)] * 2
    batch = dict(images=images, label=labels, size=[SIZE] * 2, name=["a.png", "b.png"])
    tally, gap = PixelCounts(2, ["1:0.5", "1:0"], CLASSES, gpu), UncertaintyGap(CLASSES)
    weightings = [(0.5, 1.0), (0.0, 1.0)]
    options = dict(weightings=weightings, uncertainty=uncertainty, passes=2, droprate=0.1)
    for index, (_, label, found) in enumerate(predict_all(network, [batch], gpu, **options)):
        with Watch(gpu):
            label = to_device(label, gpu)
            gap.add(label, found[0].label, found[0].uncertainty)
            tally.add(index, label, [prediction.label for prediction in found], found[0].uncertainty)
            heat_levels(found[0].uncertainty)
        assert {values.device for prediction in found for values in prediction} == {gpu}
    assert index == 1
    assert tally.matrices.device == gap.certainty.device == gpu


def replica(module: torch.nn.Module, first: bool) -> torch.nn.Module:
    """What DataParallel makes: parameters are results of an operation, buffers copies but on GPU 0."""
    copies = {part: part._replicate_for_data_parallel() for part in module.modules()}
    for part, copy in copies.items():
        for name, child in part.named_children():
            copy._modules[name] = copies[child]
        for name, parameter in part._parameters.items():
            setattr(copy, name, None if parameter is None else parameter.clone())
        for name, buffer in part.named_buffers(recurse=False):
            copy._buffers[name] = buffer if first else buffer.clone()
    return copies[module]


@pytest.fixture
def data_parallel(monkeypatch):
    """DataParallel on the CPU, with replicas in threads, which torch tells less than one would think."""

    def data_parallel(module, images, device_ids):
        results = [None] * len(device_ids)
        grad, autocast = torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")

        def work(index, part):
            with torch.set_grad_enabled(grad), torch.autocast("cpu", enabled=autocast):
                results[index] = replica(module, index == 0)(part)

        parts = enumerate(images.chunk(len(device_ids)))
        threads = [threading.Thread(target=work, args=arguments) for arguments in parts]
        for thread in threads:
            thread.start()
            thread.join()
        return tuple(map(torch.cat, zip(*results, strict=True)))

    monkeypatch.setattr(torch.nn.parallel, "data_parallel", data_parallel)


@pytest.mark.parametrize("more", ["", "--checkpointing"])
@pytest.mark.parametrize(("stage", "flags"), [*STAGES[::2], ONLINE])
def test_two_gpus_of_one_process_train_as_one_does(stage, flags, more, data_parallel, float64, one_thread):
    alone, shared = (build(stage, f"{flags} {more} --is-training False") for _ in range(2))
    shared.device_ids = [0, 1]
    for index in range(3):
        torch.testing.assert_close(step(shared, index), step(alone, index), rtol=1e-9, atol=0)
    for (key, p), q in zip(alone.named_parameters(), shared.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-12, msg=lambda text, key=key: f"{key}: {text}")


def test_each_replica_computes_in_the_chosen_precision(data_parallel, one_thread):
    """torch tells the threads whether autocast is on, but not its dtype."""
    for precision, expected in (("fp16", torch.float16), ("bf16", torch.bfloat16), ("fp32", torch.float32)):
        trainer, seen = build(1, "").eval(), []
        trainer.args.precision = precision
        alone = trainer.segment(batch(0)[0])
        trainer.G.conv1.register_forward_hook(lambda _, __, result, seen=seen: seen.append(result.dtype))
        trainer.device_ids = [0, 1]
        shared = trainer.segment(batch(0)[0])
        assert seen == [expected] * 2
        for a, b in zip(alone, shared, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_only_the_named_gpus_are_opened(monkeypatch):
    opened = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", opened.append)
    assert choose_device(Namespace(cpu=False, gpu_ids=[2, 3])) == (torch.device("cuda", 2), [2, 3])
    assert opened == [2]


@pytest.mark.parametrize(("device", "asynchronous"), [("cuda", True), ("mps", False), ("cpu", False)])
def test_only_copies_to_cuda_are_asynchronous(device, asynchronous):
    class Bytes:
        def to(self, device, non_blocking):
            return device.type, non_blocking

    assert to_device(Bytes(), torch.device(device)) == (device, asynchronous)


# Prediction


@pytest.mark.parametrize("uncertainty", UNCERTAINTIES)
@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_a_prediction_in_half_precision_sums_its_probabilities_in_full(precision, dtype, uncertainty, gpu):
    class Softmaxes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if "softmax" in str(func):
                summed.add(args[0].dtype)
            return func(*args, **(kwargs or {}))

    with gpu:
        network = DeeplabMulti(CLASSES, use_se=True, norm_style="gn", arch="mini").eval()
    computed, summed = set(), set()
    network.layer1[0].conv1.register_forward_hook(lambda _, __, result: computed.add(result.dtype))
    images = [torch.zeros(2, *size, 3, dtype=torch.uint8) for size in (SIZE, (60, 80))]
    batch = dict(images=images, label=[torch.zeros(SIZE)] * 2, size=[SIZE] * 2, name=["a.png", "b.png"])
    options = dict(weightings=[(0.5, 1.0)], uncertainty=uncertainty, passes=2, droprate=0.1)
    with Softmaxes():
        found = list(predict_all(InPrecision(network, precision), [batch], gpu, **options))
    assert computed == {dtype} and summed == {torch.float32}
    for _, label, (prediction,) in found:
        assert label.device == gpu
        assert [values.dtype for values in prediction] == [torch.uint8, torch.float32, torch.float32]


def test_full_size_maps_are_summed_in_place(gpu):
    class Additions(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func.overloadpacket in (torch.ops.aten.add, torch.ops.aten.add_):
                added.append((func.overloadpacket, *args[0].shape))
            return func(*args, **(kwargs or {}))

    added = []
    with gpu:
        maps = [torch.rand(1, CLASSES, *size) for size in ((6, 8), (7, 10), (5, 7))]
        with Additions():
            max_of_sum(maps, SIZE)
    assert added == [(torch.ops.aten.add_, 1, CLASSES, *SIZE)] * 2


def test_labels_of_a_prediction_are_copied_from_pinned_memory(monkeypatch):
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor)
    item = {"images": [torch.zeros(1, 4, 4, 3, dtype=torch.uint8)], "size": [(4, 4)], "name": ["a"]}
    items = [item | {"label": [torch.full((4, 4), n)]} for n in range(2)]
    (batch,) = rebatch(items, 2, pinned=True)
    assert [int(label[0, 0]) for label in pinned[:2]] == [0, 1] and pinned[2].shape == (2, 4, 4, 3)
    assert [int(label[0, 0]) for label in batch["label"]] == [0, 1]


def test_a_writer_sleeps_until_its_image_has_been_copied(gpu, tmp_path, monkeypatch):
    """An event that is not blocking spins, and holds a core."""
    events = []

    class Event:
        device = gpu

        def __init__(self, blocking=False):
            self.blocking = blocking

        def record(self, stream):
            events.append((self.blocking, stream))

        def synchronize(self):
            events.append("waited for")

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: device)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.Tensor, "numpy", lambda values: np.zeros(tuple(values.shape), np.uint8))
    with gpu:
        prediction = Prediction(torch.zeros(SIZE, dtype=torch.uint8), torch.rand(SIZE), torch.rand(SIZE))
    with PredictionWriter(tmp_path, np.zeros((256, 3), np.uint8), scores=True) as writer:
        writer.write("a.png", prediction)
    assert events == [(True, gpu), "waited for"]
    assert len(list(tmp_path.iterdir())) == 4


# Precision


@pytest.fixture
def cards(monkeypatch) -> Iterator[dict[int, tuple[int, int]]]:
    """The compute capability of each GPU, to fill in; torch's switches are restored afterwards."""
    found = {}
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(found))
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", found.__getitem__)
    yield found
    cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark = before


TURING, AMPERE, HOPPER = (7, 5), (8, 6), (9, 0)


@dataclass(frozen=True)
class Rank1(Processes):
    """The second of two processes on one machine."""

    rank: int = 1
    world_size: int = 2
    first_lacks: bool = False  # bf16

    def all_reduce_max(self, value: int) -> int:
        return max(value, self.first_lacks)


@pytest.mark.parametrize(
    ("capabilities", "gpus", "first_lacks", "expected"),
    [
        ([AMPERE, HOPPER], "0,1", None, "bf16"),
        ([TURING, TURING], "0,1", None, "fp16"),
        ([AMPERE, TURING], "0,1", None, "fp16"),
        ([AMPERE, TURING], "0", None, "bf16"),
        ([TURING, AMPERE], "0", False, "bf16"),  # torchrun: of its local rank, whatever --gpu-ids names
        ([TURING, AMPERE], "1", True, "fp16"),
        ([AMPERE, TURING], "0", False, "fp16"),
    ],
)
def test_bf16_becomes_fp16_where_a_gpu_lacks_it(capabilities, gpus, first_lacks, expected, cards, caplog):
    cards.update(enumerate(capabilities))
    processes = SINGLE_PROCESS if first_lacks is None else Rank1(local_rank=1, first_lacks=first_lacks)
    args = stage1_args(["--precision", "bf16", "--gpu-ids", gpus])
    prepare_device(args, processes)
    assert (args.precision, args.fp16) == (expected, expected == "fp16")
    lines = [record.getMessage() for record in caplog.records if "bf16" in record.getMessage()]
    assert len(lines) == (expected == "fp16") and all("RTX 30" in line and "fp16" in line for line in lines)


@pytest.mark.parametrize("precision", ["tf32", "fp32", "fp16", "bf16"])
@pytest.mark.parametrize("capability", [AMPERE, TURING])
def test_a_training_without_bf16_on_a_card_that_has_it_says_what_bf16_saves(
    precision, capability, cards, caplog
):
    cards[0] = capability
    caplog.set_level("INFO")
    prepare_device(stage1_args(["--precision", precision]), SINGLE_PROCESS)
    said = [
        record.getMessage() for record in caplog.records if "bf16 takes about half" in record.getMessage()
    ]
    assert len(said) == (precision in ("tf32", "fp32") and capability == AMPERE)


def test_predictions_are_exact_unless_told_otherwise_and_search_no_algorithms(cards):
    cards[0], gpu = AMPERE, torch.device("cuda", 0)
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    for flags in (generate_args(SNAPSHOT), evaluate_args(SNAPSHOT)):
        cudnn.allow_tf32 = matmul.allow_tf32 = cudnn.benchmark = True
        assert set_precision(flags.precision, gpu, benchmark=False) == "fp32"
        assert not (cudnn.allow_tf32 or matmul.allow_tf32 or cudnn.benchmark)
    set_precision("tf32", gpu)
    assert cudnn.allow_tf32 and matmul.allow_tf32 and cudnn.benchmark
