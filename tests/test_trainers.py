"""One training step: options for speed and memory change no result, and nothing synchronises with a GPU."""

import copy
from argparse import Namespace

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.step import count, stage_args
from engine.loop import LossBuffer, load_batch
from model import deeplab_multi
from tests.conftest import TRAINING, one_line_error
from trainer_ms import AD_Trainer as Stage1Trainer
from trainer_ms_variance import AD_Trainer as Stage2Trainer
from trainer_st import AD_Trainer as OnlineTrainer
from utils.device import choose_device
from utils.optim import RepeatedSGD
from utils.options import stage1_args, stage2_args

CLASSES, HEIGHT, WIDTH = 7, 40, 56
NETWORK = f"--arch mini --norm-style gn --use-se --num-classes {CLASSES} --crop-size 56,40 --batch-size 2"
WEIGHTING = "--class-balance --often-balance --max-value 7 --only-hard-label 80 --lambda-seg 0.5"
REGULARISED = "--lambda-kl-target 0.1 --lambda-me-target 0.05 --reg-start 0"
RATES = "--learning-rate 1e-2 --learning-rate-D 1e-3"
NOT_ADVERSARIAL = "--lambda-adv-target1 0 --lambda-adv-target2 0"
CLAN = "--adversarial clan --lambda-adv-target1 0 --lambda-weight 0.01 --focal 2"
STAGES = [
    pytest.param(1, f"{WEIGHTING} {REGULARISED}", id="stage1"),
    pytest.param(1, CLAN, id="clan"),
    pytest.param(2, NOT_ADVERSARIAL, id="stage2"),
    pytest.param(2, f"{WEIGHTING} {REGULARISED} {NOT_ADVERSARIAL} --conventional", id="regularised-stage2"),
]


ONLINE = pytest.param(
    3,
    f"--self-training --lambda-mask 1 --jitter-chance 1 --blur-chance 1 {REGULARISED} {NOT_ADVERSARIAL}",
    id="online",
)
TRAINERS = (stage1_args, Stage1Trainer), (stage2_args, Stage2Trainer), (stage1_args, OnlineTrainer)


def new_trainer(stage: int, flags: str, droprate: float):
    parse, trainer_class = TRAINERS[stage - 1]
    return trainer_class(parse(f"{NETWORK} {RATES} --droprate {droprate} {flags}".split()))


def build(stage: int, flags: str, droprate: float = 0.0):
    """A trainer of the stage, with the same weights each time."""
    torch.manual_seed(0)
    trainer = new_trainer(stage, flags, droprate)
    trainer.to(memory_format=torch.channels_last)
    for layer in (trainer.G.layer5, trainer.G.layer6):
        torch.nn.init.normal_(layer.head[1].weight, std=0.5)  # predictions that differ
    return trainer


def raw_batch(seed: int) -> dict:
    """A batch as the data loader yields it."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, (2, HEIGHT // 8, WIDTH // 8)).repeat(8, 1).repeat(8, 2)
    labels[:, :3] = 255
    images = rng.integers(0, 256, (2, HEIGHT, WIDTH, 3), np.uint8)
    return {"image": torch.from_numpy(images), "label": torch.from_numpy(labels.astype(np.uint8))}


def batch(seed: int, raw: tuple[dict, dict] | None = None) -> tuple:
    """images, images_t, labels, labels_t."""
    raw = raw or (raw_batch(2 * seed), raw_batch(2 * seed + 1))
    (images, labels), (images_t, labels_t) = (load_batch(stream, torch.device("cpu")) for stream in raw)
    return images, images_t, labels, labels_t


def step(trainer, index: int, raw: tuple[dict, dict] | None = None) -> dict:
    found, predictions = trainer.gen_update(*batch(index, raw), index)
    return found | trainer.dis_update(*predictions)


def gradients(trainer) -> dict:
    return {key: p.grad for key, p in trainer.G.named_parameters() if p.requires_grad}


# Memory


@pytest.mark.parametrize(("stage", "flags"), [*STAGES, ONLINE])
@pytest.mark.parametrize("norm", ["gn", "bn"])
def test_checkpointing_changes_neither_losses_nor_weights_nor_statistics(
    stage, flags, norm, float64, one_thread
):
    trainers = [build(stage, f"{flags} --norm-style {norm} {more}", 0.3) for more in ("", "--checkpointing")]
    found = []
    for trainer in trainers:
        torch.manual_seed(1)  # of dropout
        found.append([step(trainer, index) for index in range(2)])
    assert found[0] == found[1]
    kept, again = (trainer.G.state_dict() for trainer in trainers)
    assert kept["bn1.num_batches_tracked"] == kept["layer3.1.bn2.num_batches_tracked"] == 0  # left alone
    for key, value in kept.items():
        assert torch.equal(value, again[key]), key


@pytest.mark.parametrize("iter_size", [1, 2])
@pytest.mark.parametrize(("stage", "flags"), STAGES)
def test_back_propagating_the_batches_one_after_the_other_gives_the_gradients_of_the_sum(
    stage, flags, iter_size, float64, one_thread
):
    trainer = build(stage, f"{flags} --iter-size {iter_size}")
    plain = copy.deepcopy(trainer)
    args = trainer.args
    for index in range(iter_size):
        images, images_t, labels, labels_t = batch(index)
        found, _ = trainer.gen_update(images, images_t, labels, labels_t, 0, update=False)
        (z1, z2), (z1_t, z2_t) = plain.segment(images), plain.segment(images_t)
        plain.class_weight = plain.compute_class_weight(labels)
        terms = dict.fromkeys(("adv1", "adv2", "me", "kl", "weight"), torch.zeros(()))
        of_images = (*plain.segmentation_losses(z1, z2, labels), *plain.target_losses(z1_t, z2_t, 0))
        for group in (*plain.parameter_losses(images), *of_images):
            terms |= group
        total = terms["seg2"] + args.lambda_seg * terms["seg1"]
        total = total + args.lambda_adv_target1 * terms["adv1"] + args.lambda_adv_target2 * terms["adv2"]
        total = total + args.lambda_me_target * terms["me"] + args.lambda_kl_target * terms["kl"]
        total = total + 2 * args.lambda_weight * terms["weight"]
        (total / iter_size).backward()
        for name, term in terms.items():
            assert found.get(name, term).item() == pytest.approx(term.item(), rel=1e-12), name
    expected = gradients(plain)
    for key, gradient in gradients(trainer).items():
        torch.testing.assert_close(gradient, expected[key], rtol=1e-9, atol=1e-12)
    for (key, buffer), other in zip(trainer.G.named_buffers(), plain.G.buffers(), strict=True):
        assert torch.equal(buffer, other), key


def test_the_generators_step_computes_no_gradients_of_the_discriminators(one_thread):
    trainer = build(1, REGULARISED)
    trainer.gen_update(*batch(0), 0)
    assert all(p.grad is None for D in (trainer.D1, trainer.D2) for p in D.parameters())


@pytest.mark.parametrize("flags", ["", "--is-training False"])
def test_is_training_false_freezes_statistics_also_those_of_all_ranks(flags):
    trainer = new_trainer(1, flags, 0.1)
    torch.nn.SyncBatchNorm.convert_sync_batchnorm(trainer.G)  # what --sync_bn does
    trainer.G.eval()  # as validation does
    trainer.train()
    norms = [module for module in trainer.G.modules() if isinstance(module, torch.nn.SyncBatchNorm)]
    assert norms and {module.training for module in norms} == {flags == ""}
    assert trainer.G.layer5.training


# Synchronisation


class NoSynchronisation(TorchDispatchMode):
    """Fails on what synchronises with a GPU: reading values, data-dependent shapes, unpinned copies."""

    FORBIDDEN = {
        *("_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "nonzero_static", "masked_select"),
        *("unique", "_unique2", "unique_dim", "unique_consecutive", "bincount", "repeat_interleave"),
        "lift_fresh",  # torch.tensor(numbers), on a GPU a copy from unpinned memory
    }

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.removeprefix("aten::")
        assert name not in self.FORBIDDEN, name
        if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
            assert all(index is None or index.dtype != torch.bool for index in args[1]), "boolean mask"
        return func(*args, **(kwargs or {}))


class NoReading(TorchFunctionMode):
    """Fails when a value is read from a tensor."""

    FORBIDDEN = {
        "item",
        "tolist",
        "numpy",
        "cpu",
        "__bool__",
        "__float__",
        "__int__",
        "__index__",
        "__array__",
    }

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        assert name not in self.FORBIDDEN, name
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("stage", "flags"), [*STAGES, ONLINE])
def test_nothing_within_a_step_synchronises(stage, flags, one_thread):
    trainer = build(stage, flags, 0.1)
    buffer = LossBuffer()
    raw = raw_batch(0), raw_batch(1)
    step(trainer, 0, raw)  # caches and optimiser states are created here
    with NoSynchronisation(), NoReading():
        for i_iter in (1, 2):
            trainer.adjust_learning_rates(i_iter)
            found = step(trainer, i_iter, raw)
            buffer.add(i_iter, found, trainer.class_weight)
        with pytest.raises(AssertionError, match="tolist"):
            buffer.fetch(str)  # reading losses would be noticed


@pytest.mark.parametrize("nesterov", [True, False])
def test_single_updates_are_those_of_torchs_sgd(nesterov):
    torch.manual_seed(0)
    mine, torchs = (torch.nn.Parameter(torch.randn(5, generator=torch.Generator())) for _ in range(2))
    torchs.data.copy_(mine.data)
    options = dict(momentum=0.9, weight_decay=0.01, nesterov=nesterov)
    optimizers = (
        RepeatedSGD([dict(params=[mine], lr=0.1)], **options),
        torch.optim.SGD([torchs], 0.1, **options),
    )
    for _ in range(4):
        for p, optimizer in zip((mine, torchs), optimizers, strict=True):
            p.grad = p.detach().sin()
            optimizer.step()
    assert torch.allclose(mine, torchs)


def test_steps_with_overflowed_gradients_are_skipped_without_a_synchronisation():
    """And the first without overflow counts as the optimiser's first step."""

    def run(scaled: bool) -> tuple:
        torch.manual_seed(0)
        weights = [torch.nn.Parameter(torch.randn(3, 4)) for _ in range(2)]
        optimizer = RepeatedSGD([dict(params=weights, lr=0.1, repeats=[1, 3])], 0.9, 0.01)
        scaler = torch.amp.GradScaler("cpu", init_scale=64.0, enabled=scaled)
        scaler.scale(torch.ones(()))  # creates its state
        before = [w.detach().clone() for w in weights]
        for index in range(4):
            overflows = index in (0, 2)
            if overflows and not scaled:
                continue
            factor = float("inf") if overflows else 1.0
            scaler.scale(sum((factor * w * w).sum() for w in weights)).backward()
            with NoSynchronisation():
                scaler.step(optimizer)
                scaler.update()
            optimizer.zero_grad()
            if index == 0:
                assert all(torch.equal(w, b) for w, b in zip(weights, before, strict=True))
        return weights, [optimizer.state[w]["momentum_buffer"] for w in weights]

    for found, expected in zip(run(scaled=True), run(scaled=False), strict=True):
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_parameters_whose_steps_all_overflowed_are_new_after_resuming():
    def optimizer() -> RepeatedSGD:
        torch.manual_seed(0)
        return RepeatedSGD(
            [dict(params=[torch.nn.Parameter(torch.randn(5))], lr=0.1, repeats=[3])], 0.9, 0.01
        )

    def step(stepped: RepeatedSGD, overflows: bool = False) -> torch.Tensor:
        (p,) = stepped.param_groups[0]["params"]
        p.grad = torch.ones_like(p)
        stepped.found_inf = torch.ones(()) if overflows else None
        stepped.step()
        return p.detach()

    skipped, resumed = optimizer(), optimizer()
    step(skipped, overflows=True)
    resumed.load_state_dict(skipped.state_dict())
    assert torch.equal(step(resumed), step(optimizer()))


def test_adamw_updates_each_parameter_once_by_its_rate_and_decays_all_of_the_published_network(one_thread):
    trainer = build(1, "--optimizer adamw --learning-rate 1e-3 --weight-decay 0.5 --train_bn")
    before = {key: p.detach().clone() for key, p in trainer.G.named_parameters()}
    trainer.adjust_learning_rates(0)
    trainer.gen_opt.register_step_post_hook(lambda *_: moments.update(trainer.gen_opt.state))
    moments = {}
    step(trainer, 0)
    for key, p in trainer.G.named_parameters():
        rate = 1e-4 if key in trainer.G.backbone_parameters() else 1e-3  # the warm-up starts at a tenth
        gradient = moments[p]["exp_avg"] / 0.1
        expected = before[key] * (1 - 0.5 * rate) - rate * gradient / (gradient.abs() + 1e-8)
        torch.testing.assert_close(p.detach(), expected, rtol=1e-5, atol=rate * 1e-3)


@pytest.mark.parametrize("overflows", [False, True])
def test_adamw_resumes_exactly_and_skips_overflowed_steps(overflows, one_thread):
    flags = f"{WEIGHTING} --optimizer adamw --train_bn"
    whole, resumed = build(1, flags), build(1, flags)
    if overflows:
        whole.scaler = torch.amp.GradScaler("cpu", init_scale=float("inf"))
        before = copy.deepcopy(whole.G.state_dict())
        step(whole, 0)
        assert all(torch.equal(whole.G.get_parameter(k), before[k]) for k, _ in whole.G.named_parameters())
        whole.scaler = torch.amp.GradScaler("cpu", enabled=False)
    else:
        step(whole, 0)
    resumed.load_training_state(copy.deepcopy(whole.training_state()))
    for trainer in (whole, resumed):
        trainer.adjust_learning_rates(1)
        step(trainer, 1)
    for (key, p), q in zip(whole.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(p, q), key


@pytest.mark.filterwarnings("ignore:grad and param do not obey")
@pytest.mark.parametrize("moved", ["gradients", "network", "state"])
def test_steps_do_not_depend_on_the_memory_format(moved, float64, one_thread):
    """Without `keep_layout`, torch's fused optimisers silently do."""
    flags = f"{WEIGHTING} {REGULARISED}"
    plain, other = build(1, flags), build(1, flags)
    step(plain, 0), step(other, 0)
    if moved == "network":
        other.to(memory_format=torch.contiguous_format)
    elif moved == "state":
        state = other.training_state()
        other = new_trainer(1, flags, 0.0)
        other.load_training_state(state)
    else:  # as a gradient hook may leave them
        for key in gradients(other):
            other.G.get_parameter(key).register_post_accumulate_grad_hook(
                lambda p: setattr(p, "grad", p.grad.contiguous())
            )
    step(plain, 1), step(other, 1)
    for (key, p), q in zip(plain.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-12, msg=lambda text, key=key: f"{key}: {text}")


# --compile


@pytest.fixture
def tiny(monkeypatch):
    """A network that compiles in half a minute."""
    monkeypatch.setitem(deeplab_multi.ARCHS, "mini", deeplab_multi.Arch((1, 1, 1, 1), 8, 32, 32))
    yield
    torch.compiler.reset()


def test_a_compiled_step_learns_as_an_eager_one(tiny, one_thread):
    flags = f"{WEIGHTING} {REGULARISED.replace('--reg-start 0', '--reg-start 1')}"
    eager, compiled = build(1, flags), build(1, flags)
    compiled.compile()
    for index in range(3):
        torch.testing.assert_close(step(compiled, index), step(eager, index), rtol=1e-5, atol=1e-6)
    for (key, p), q in zip(eager.G.named_parameters(), compiled.G.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize(("stage", "flags"), STAGES)
def test_network_upsampling_and_losses_are_compiled_and_validation_is_not(stage, flags, tiny, one_thread):
    def backend(graph, inputs):
        graphs.append(str(graph.code))
        return aot_eager(graph, inputs)

    graphs, aot_eager = [], torch._dynamo.lookup_backend("aot_eager")
    eager, compiled = build(stage, flags), build(stage, flags)
    compiled.compile(backend=backend)
    for index in range(2):
        torch.testing.assert_close(step(compiled, index), step(eager, index), rtol=1e-5, atol=1e-6)
    assert any("conv2d" in graph and "interpolate" in graph for graph in graphs)
    losses = [graph for graph in graphs if "log_softmax" in graph and "conv2d" not in graph]
    assert len(losses) == (3 if REGULARISED in flags else 1)  # seg, me, kl; rectified or focal
    made = len(graphs)
    compiled.G.eval()(torch.zeros(1, 3, 56, 72))
    assert len(graphs) == made


def test_a_graph_that_cannot_be_compiled_ends_no_run(tiny, one_thread):
    def backend(graph, inputs):
        raise RuntimeError("no compiler")

    eager, compiled = build(1, REGULARISED), build(1, REGULARISED)
    compiled.compile(backend=backend)
    torch.testing.assert_close(step(compiled, 0), step(eager, 0))


# Flags and devices


def test_fp16_is_a_precision_and_contradictions_are_refused(capsys):
    assert stage1_args([]).precision == "tf32" and stage1_args([]).fp16 is False
    for flags in (["--fp16"], ["--precision", "fp16"], ["--fp16", "--precision", "fp16"]):
        args = stage1_args(flags)
        assert (args.precision, args.fp16) == ("fp16", True)
    for flags, named in ((("--fp16", "--precision", "bf16"), "bf16"), (("--compile", "--checkpointing"), "")):
        with pytest.raises(SystemExit):
            stage1_args(list(flags))
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and flags[0] in said and named in said


@pytest.mark.parametrize("flags", [("--precision", "bf16"), ("--checkpointing",)])
def test_training_on_the_cpu_works_with_the_flags_for_speed_and_memory(flags, world, run_main):
    result = run_main("train_ms", *TRAINING, *flags, "--snapshot-dir", "snapshots/x")
    assert result.returncode == 0, result.stderr
    assert (world / "snapshots" / "x" / "GTA5_4.pth").is_file()


def test_an_unknown_precision_is_one_line(world, run_main):
    one_line_error(run_main("train_ms", *TRAINING, "--precision", "fp8"), "--precision", "bf16")


def test_bf16_is_close_to_fp32_and_its_losses_are_fp32(one_thread):
    full, mixed = (step(build(1, f"{REGULARISED} --precision {p}"), 0) for p in ("fp32", "bf16"))
    for name, loss in mixed.items():
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(full[name].item(), rel=0.05), name
    assert mixed["seg2"] != full["seg2"]


def test_apples_gpu_is_chosen_if_it_is_the_only_one(monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device(Namespace(cpu=False, gpu_ids=[0])) == (torch.device("mps"), [])
    assert "Apple's GPU" in caplog.text
    assert choose_device(Namespace(cpu=True, gpu_ids=[0])) == (torch.device("cpu"), [])


@pytest.mark.parametrize(("checkpointing", "limit"), [(False, 7.0e9), (True, 4.5e9)])
def test_memory_and_flops_of_the_published_step(checkpointing, limit):
    """Stage I of the README with bf16, counted without computing; kernel workspaces are not included."""
    meter = count("stage1", stage_args("stage1", "bf16", checkpointing=checkpointing))
    assert 2e9 < meter.peak < limit
    assert 18.9e12 < meter.flops < 23e12  # checkpointing repeats the backbone's forward pass
    assert 0.07 < meter.compiled_seconds < meter.seconds
    assert checkpointing or meter.compiled_seconds < 0.08  # of an H100, by count
