"""What only a GPU does, tested without one: fake tensors have a device and no values.

torch refuses to mix devices and to read values of such tensors, so a test that passes shows that nothing in a
step or a prediction leaves the GPU or synchronises with it. Backward passes need a real GPU and are left out.
"""

import contextlib
import threading
from argparse import Namespace

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from engine.evaluation import PixelCounts
from engine.loop import load_batch
from model.deeplab_multi import DeeplabMulti
from tests.test_trainers import STAGES, batch, build, new_trainer, raw_batch
from utils import preprocess
from utils.device import choose_device, to_device
from utils.distributed import Processes
from utils.inference import predict_all
from utils.pictures import heat_levels
from utils.uncertainty import UNCERTAINTIES, UncertaintyGap

CLASSES, SIZE = 7, (48, 64)
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


def gradients_instead(monkeypatch, trainer) -> None:
    """Replace backward passes by ones that leave gradients without values."""

    def backward(loss):
        discriminators = [p for D in (trainer.D1, trainer.D2) for p in D.parameters() if p.requires_grad]
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
        for stage in STAGES
        for precision in (PRECISIONS if stage.id == "stage1" else PRECISIONS[:1])
    ],
)
def test_nothing_in_a_step_leaves_the_gpu_and_only_uint8_is_copied_to_it(
    stage, flags, precision, more, computed, gpu, monkeypatch
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


def test_each_replica_computes_in_the_chosen_precision(monkeypatch, one_thread):
    """DataParallel calls replicas in threads; torch passes on whether autocast is on, but not its dtype."""

    def in_threads(module, images, device_ids):
        results = [None] * len(device_ids)
        autocast = torch.is_autocast_enabled("cpu")

        def work(index, part):
            with torch.autocast("cpu", enabled=autocast):
                results[index] = module(part)

        parts = enumerate(images.chunk(len(device_ids)))
        threads = [threading.Thread(target=work, args=arguments) for arguments in parts]
        for thread in threads:
            thread.start()
            thread.join()
        return tuple(map(torch.cat, zip(*results, strict=True)))

    monkeypatch.setattr(torch.nn.parallel, "data_parallel", in_threads)
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
