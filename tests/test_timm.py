"""Backbones of timm: one small model of each family through every part of the method, and names refused."""

import copy
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from deploy.segmenter import load_segmenter
from model import build_network
from model.timm_backbone import MEAN_RGB, make_plan
from model.weights import load_weights
from tests.conftest import TRAINING, files_of, one_line_error, run_in, write_world
from trainer_ms import AD_Trainer
from trainer_st import AD_Trainer as OnlineTrainer
from utils.averaging import estimate_statistics, new_average
from utils.contrast import View
from utils.options import stage1_args
from utils.preprocess import MEAN_BGR

timm = pytest.importorskip("timm")

PROJECT = Path(__file__).resolve().parent.parent

FAMILIES = {  # -> strides of the maps, whether there is batch normalisation
    "test_resnet": ((8, 8), True),
    "test_convnext": ((8, 8), False),
    "drawn_swin": ((16, 32), False),
    "test_vit": ((16, 16), False),
    "test_dinov3": ((16, 16), False),
    "drawn_pvt": ((16, 32), False),
}
SMALL = ("--norm-style", "gn", "--use-se", "--lambda-seg", "0.5", "--crop-size", "61,37", "--num-steps-stop")
NOT_ADVERSARIAL = ("--lambda-adv-target1", "0", "--lambda-adv-target2", "0")


def register_small() -> None:
    """Make models small that timm has only large ones of."""
    from timm.models import eva, pvt_v2, register_model, swin_transformer

    @register_model
    def drawn_swin(pretrained=False, **options):
        sizes = dict(embed_dim=16, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2))
        return swin_transformer._create_swin_transformer(
            "swin_tiny_patch4_window7_224", pretrained=pretrained, **(sizes | options)
        )

    @register_model
    def drawn_pvt(pretrained=False, **options):
        sizes = dict(depths=(1, 1, 1, 1), embed_dims=(16, 32, 64, 128), num_heads=(1, 1, 2, 4))
        return pvt_v2._create_pvt2("pvt_v2_b0", pretrained=pretrained, **(sizes | options))

    @register_model
    def test_dinov3(pretrained=False, **options):
        sizes = dict(patch_size=16, embed_dim=64, depth=4, num_heads=2, init_values=1e-5)
        sizes |= dict(rope_type="dinov3", use_rot_pos_emb=True, use_abs_pos_emb=False, num_reg_tokens=4)
        return eva._create_eva("vit_small_patch16_dinov3", pretrained=pretrained, **(sizes | options))


register_small()


def network(name: str, **options):
    """A network in evaluation mode, with the same weights each time."""
    torch.manual_seed(0)
    flags = dict(num_classes=7, use_se=True, train_bn=False, norm_style="gn", droprate=0.1)
    return build_network(arch=f"timm/{name}", **flags | options).eval()


def trainer(name: str, flags: str = "") -> AD_Trainer:
    """A trainer of Stage I, with the same weights each time."""
    torch.manual_seed(0)
    start = f"--arch timm/{name} --num-classes 7 --norm-style gn --crop-size 56,40 --batch-size 2"
    return AD_Trainer(
        stage1_args(f"{start} --reg-start 0 --lambda-kl-target 0.1 --droprate 0 {flags}".split())
    )


def batch(seed: int) -> tuple:
    generator = torch.Generator().manual_seed(seed)
    images = 50 * torch.randn(2, 2, 3, 40, 56, generator=generator)
    return *images, torch.randint(0, 7, (2, 40, 56), generator=generator), None


def step(trained: AD_Trainer, index: int) -> dict:
    trained.adjust_learning_rates(index)
    losses, predictions = trained.gen_update(*batch(index), index)
    return losses | trained.dis_update(*predictions)


# Each family


@pytest.fixture(scope="module", params=[name for name in FAMILIES if name != "test_dinov3"])
def trained(request, tmp_path_factory) -> tuple[str, Path]:
    """A name and a folder with two steps of both stages, the first resumed after one step."""
    name, folder = request.param, write_world(tmp_path_factory.mktemp(request.param))
    common = (*TRAINING, "--arch", f"timm/{name}", *SMALL)
    stage1 = (*common, "1", "--lambda-kl-target", "0.1", "--reg-start", "0", "--snapshot-dir", "stage1")
    stage1 += ("--save-pred-every", "1")
    snapshot = ("--restore-from", "stage1/GTA5_2.pth")
    for script, flags in (
        ("train_ms", stage1),
        ("train_ms", ("--resume", "--snapshot-dir", "stage1", "--num-steps-stop", "2")),
        ("train_ms", (*stage1, "--num-steps-stop", "2", "--snapshot-dir", "whole")),
        ("generate_plabel_cityscapes", (*snapshot, "--cpu", "--num-workers", "0")),
        ("train_ft", (*common, "2", *snapshot, *NOT_ADVERSARIAL, "--snapshot-dir", "stage2")),
        ("evaluate_cityscapes", ("--restore-from", "stage2/GTA5_2.pth", "--cpu", "--num-workers", "0")),
    ):
        result = run_in(folder, script, *flags)
        assert result.returncode == 0, f"{script}: {result.stderr}"
    return name, folder


def test_both_stages_train_resume_exactly_predict_and_evaluate(trained):
    name, folder = trained
    for file in ("GTA5_2.pth", "GTA5_2_D1.pth"):
        assert (folder / "stage1" / file).read_bytes() == (folder / "whole" / file).read_bytes()
    first, second = (torch.load(folder / f"stage{k}" / "GTA5_2.pth") for k in (1, 2))
    assert first.keys() == second.keys() == network(name, num_classes=19).state_dict().keys()
    moved = [key for key in first if not first[key].equal(second[key])]
    assert {key.split(".")[0] for key in moved} == {"backbone", "layer5", "layer6"}
    assert any("metrics.json" in str(path) for path in files_of(folder / "result"))


def test_the_segmenter_takes_any_size_and_onnx_computes_the_same(trained, run_main, monkeypatch):
    _, folder = trained
    segmenter = load_segmenter(folder / "stage2" / "GTA5_2.pth", "cpu")
    image = Image.effect_noise((83, 45), 90).convert("RGB")
    assert segmenter(image).label.shape == (45, 83)
    monkeypatch.chdir(folder)
    pytest.importorskip("onnxscript")
    export = run_main("export_onnx", "--restore-from", "stage2/GTA5_2.pth", "--input-size", "61,37")
    assert export.returncode == 0, export.stderr  # it compares the file with the network


@pytest.mark.parametrize("name", FAMILIES)
def test_maps_have_the_strides_of_the_plan_and_any_size(name):
    strides, batch_norm = FAMILIES[name]
    plan, found = make_plan(f"timm/{name}"), network(name)
    assert (tuple(plan.strides), plan.batch_norm) == (strides, batch_norm)
    for height, width in ((37, 61), (64, 128), (5, 33)):
        with torch.no_grad():
            logits = found(torch.zeros(1, 3, height, width))
            *_, joined = found(torch.zeros(1, 3, height, width), features="input")
        cells = tuple(side // min(strides) + 1 for side in (height, width))
        assert all(z.shape == (1, 7, *cells) for z in logits)
        assert joined.shape == (1, sum(plan.channels), *cells)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_trained_parameter_learns_once_at_its_rate(name):
    trained = trainer(name)
    before = copy.deepcopy(trained.G)
    losses = step(trained, 0)
    assert all(value.isfinite() for value in losses.values())
    adamw = trained.args.optimizer == "adamw"
    assert adamw != FAMILIES[name][1]
    expected = (6e-5, 0.01) if adamw else (2.5e-4, 5e-4)
    assert (trained.args.learning_rate, trained.args.weight_decay) == expected
    decays = {id(p): group["weight_decay"] for group in trained.gen_opt.param_groups for p in group["params"]}
    for key, p in trained.G.named_parameters():
        if p.requires_grad:
            assert p in trained.gen_opt.state, f"{key} gets no gradient"  # DDP would wait for it
        if adamw and p.requires_grad:
            assert (decays[id(p)] > 0) == (p.ndim > 1), key
            rate = 6e-6 if key.startswith("backbone") else 6e-5  # the warm-up starts at a tenth
            assert (p - before.get_parameter(key)).abs().max() < 1.1 * rate, key


def test_a_batch_norms_affine_parameters_train_on_request_and_statistics_freeze():
    def normalisations(flags: str) -> tuple[list, list]:
        trained = trainer("test_resnet", flags)
        norms = [m for m in trained.G.backbone.modules() if hasattr(m, "running_mean")]
        before = [m.running_mean.clone() for m in norms]
        step(trained, 0)
        moved = [not m.running_mean.equal(old) for m, old in zip(norms, before, strict=True)]
        return [m.weight.requires_grad for m in norms], moved

    for flags, trains, moves in (("", False, True), ("--train_bn --is-training False", True, False)):
        affine, moved = normalisations(flags)
        assert set(affine) == {trains} and set(moved) == {moves}


def test_images_reach_the_backbone_as_its_weights_expect_them():
    assert MEAN_BGR[::-1] == MEAN_RGB
    found, seen = network("test_vit"), []
    found.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    rgb = torch.randint(0, 256, (1, 3, 32, 32)).float()
    found(rgb.flip(1) - torch.tensor(MEAN_BGR)[:, None, None])
    weights = found.backbone.pretrained_cfg
    mean, std = (torch.tensor(weights[name])[:, None, None] for name in ("mean", "std"))
    torch.testing.assert_close(seen[0][:, :, 8:40, 8:40], (rgb / 255 - mean) / std, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["test_vit", "drawn_swin", "drawn_pvt"])
def test_cells_see_the_pixels_that_their_logits_are_enlarged_to(name):
    """Cell k lies on pixel 16 k, as bilinear enlargement with aligned corners takes it."""
    found, side, k = network(name), 192, 6
    generator = torch.Generator().manual_seed(0)
    image = (40 * torch.randn(1, 3, side, side, generator=generator)).requires_grad_()
    for maps in found.stages(image):
        seen = (maps[0, :, k, k] * torch.randn(maps.shape[1], generator=generator)).sum()
        gradient = torch.autograd.grad(seen, image, retain_graph=True)[0][0].pow(2).sum(0)
        share = gradient / gradient.sum()
        for axis in (0, 1):
            centre = (share.sum(1 - axis) * torch.arange(side)).sum()
            assert abs(centre - 16 * k) < 8


def test_the_blocks_of_a_plain_transformer_are_four_stages():
    assert make_plan("timm/vit_small_patch16_dinov3").options["out_indices"] == (8, 11)
    assert make_plan("timm/pvt_v2_b2").options["out_indices"] == (2, 3)


def test_checkpointing_changes_neither_losses_nor_weights():
    plain, other = (trainer("test_vit", flags) for flags in ("", "--checkpointing"))
    assert other.G.backbone.model.grad_checkpointing and not plain.G.backbone.model.grad_checkpointing
    assert step(plain, 0) == step(other, 0)
    for (key, p), q in zip(plain.G.named_parameters(), other.G.parameters(), strict=True):
        torch.testing.assert_close(p, q, msg=key)


@pytest.mark.parametrize("name", ["test_convnext", "test_vit", "drawn_pvt"])
def test_online_self_training_contrasts_pixels_and_compares_features_at_the_networks_stride(name, tmp_path):
    torch.save(network(name).state_dict(), tmp_path / "initial.pth")
    size, stride = (176, 192), FAMILIES[name][0][0]
    flags = f"--arch timm/{name} --num-classes 7 --norm-style gn --batch-size 2 --crop-size 192,176"
    flags += f" --self-training --lambda-mask 1 --lambda-pixel 0.1 --imnet-from {tmp_path / 'initial.pth'}"
    torch.manual_seed(1)
    trained = OnlineTrainer(stage1_args(f"{flags} --lambda-fd 0.01 --fd-classes 2".split()))
    images, images_t = 50 * torch.randn(2, 2, 3, *size)
    labels = torch.full((2, *size), 2)
    labels[1, :, 40:], labels[0, :41] = 3, 3  # the contrast needs 100 cells of two classes
    student, reference = (x.stages(images)[1] for x in (trained.G, network(name)))
    for i_iter in range(3):
        trained.adjust_learning_rates(i_iter)
        losses, predictions = trained.gen_update(images, images_t, labels, None, i_iter)
        losses |= trained.dis_update(*predictions)
        if i_iter == 0:
            fits = torch.zeros(2, 176 // stride + 1, 192 // stride + 1, dtype=torch.bool)
            fits[0, 48 // stride :], fits[1, :, : -(-40 // stride)] = True, True
            distance = (student - reference).norm(dim=1)[fits].mean()
            assert losses["fd"].item() == pytest.approx(distance.item(), rel=1e-4)
    assert all(loss.isfinite() for loss in losses.values())
    assert min(losses[name] for name in ("pixel", "mix2", "D1")) > 0 and trained.teacher_snapshot()


def test_losses_stay_in_single_precision_with_bf16():
    trained = trainer("test_vit", "--precision bf16")
    assert all(loss.isfinite() and loss.dtype == torch.float32 for loss in step(trained, 0).values())


@pytest.mark.parametrize(
    ("flags", "losses"),
    [
        ("--lambda-pixel 0.1 --lambda-patch 0.1 --patch-start 0 --patch-size 48,32", ["pixel", "patch"]),
        ("--adversarial adaptsegnet --gan LS", ["adv1", "D2"]),
        (
            "--adversarial clan --lambda-adv-target1 0 --lambda-weight 0.01 --focal 2",
            ["weight", "adv2", "D2"],
        ),
    ],
    ids=["pipa", "adaptsegnet", "clan"],
)
def test_the_related_systems_learn_on_a_backbone(flags, losses):
    trained, images = trainer("test_resnet", f"{flags} --crop-size 128,128"), 50 * torch.randn(2, 3, 128, 128)
    labels = torch.arange(128).expand(2, 128, 128) // 64
    overlap = [((0, 0), (32, 48))] * 2
    views = [View(images[..., :32, :48], overlap, [False] * 2)] * 2 if "patch" in losses else ()
    found, predictions = trained.gen_update(images, images.flip(0), labels, None, 0, views=views)
    found |= trained.dis_update(*predictions)
    assert all(found[name] > 0 for name in losses if name != "patch")
    assert found.keys() >= set(losses) and all(value.isfinite() for value in found.values())


def test_the_statistics_of_an_average_are_those_of_the_batches_and_their_mirror_images():
    network, means = trainer("test_resnet").G, []
    average = new_average(network)
    average.update_parameters(network)
    norm = next(m for m in average.module.backbone.modules() if hasattr(m, "running_mean"))
    norm.register_forward_pre_hook(lambda _, inputs: means.append(inputs[0].mean((0, 2, 3))))
    estimate_statistics(average.module, batch(0)[0].split(1))
    assert len(means) == 4
    torch.testing.assert_close(norm.running_mean, torch.stack(means).mean(0))


# Weights


def weights_of(name: str, path: Path, drop: str = "") -> dict:
    """Save a whole model of timm with other weights; the file's tensors."""
    torch.manual_seed(5)
    state = timm.create_model(name).state_dict()
    state = {key: value for key, value in state.items() if not (drop and key.startswith(drop))}
    if path.suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file(state, path)
    else:
        torch.save(state, path)
    return state


@pytest.mark.parametrize("file", ["weights.pth", "model.safetensors"])
@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_a_file_of_timms_starts_the_backbone(name, file, tmp_path):
    state, found = weights_of(name, tmp_path / file), network(name)
    classifiers = copy.deepcopy(found.layer6.state_dict())
    load_weights(found, str(tmp_path / file))
    loaded = found.backbone.state_dict()
    values = {tuple(value.shape): value for value in state.values() if value.ndim > 1}
    assert any(value.equal(values.get(tuple(value.shape), value + 1)) for value in loaded.values())
    assert sum(any(value.equal(v) for v in state.values()) for value in loaded.values()) == len(loaded)
    assert all(value.equal(classifiers[key]) for key, value in found.layer6.state_dict().items())


def refusal(found, source: Path) -> str:
    before = copy.deepcopy(found.state_dict())
    with pytest.raises(Exception) as error:
        load_weights(found, str(source))
    assert type(error.value).__name__ == "WeightsError" and "\n" not in str(error.value)
    assert all(value.equal(before[key]) for key, value in found.state_dict().items())
    return str(error.value)


def test_files_of_another_model_or_incomplete_ones_are_refused(tmp_path):
    found = network("test_vit")
    weights_of("test_resnet", tmp_path / "other.pth")
    weights_of("test_vit", tmp_path / "short.pth", drop="blocks.0")
    for file in ("other.pth", "short.pth"):
        line = refusal(found, tmp_path / file)
        assert file in line and "lack" in line and "timm's test_vit" in line
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    assert "bad.safetensors" in refusal(found, tmp_path / "bad.safetensors")


def test_without_a_network_one_line_names_the_file_to_download(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    line = refusal(network("test_vit"), "imagenet")
    assert "https://huggingface.co/timm/test_vit.r160_in1k/resolve/main/model.safetensors" in line
    assert "pass the file" in line


def test_a_download_that_fails_is_one_line_whatever_was_retried(monkeypatch, caplog):
    def fail(*_) -> None:
        logging.getLogger("huggingface_hub.utils._http").warning("Retrying in 1s [Retry 1/5].")
        raise OSError("no network")

    monkeypatch.setattr("model.timm_backbone.TimmNetwork.load_pretrained", fail)
    assert "(no network)" in refusal(network("test_vit"), "imagenet")
    assert not caplog.records


# Refused names and flags

REFUSED = {
    "timm/resnet51x": "is not a model of timm",
    "timm/": "is not a model of timm",
    "timm/hf-hub:someone/model": "is not a model of timm",
    "timm/convnext_tiny.no_such_weights": "Invalid pretrained tag",
    "timm/cait_xxs24_224": "doesn't match model",  # takes images of one size
    "timm/levit_128s": "images of any size",
    "convnext_tiny": "timm/NAME",
}


@pytest.mark.parametrize("arch", REFUSED)
def test_names_that_cannot_be_used_are_refused_before_data_is_read(arch, tmp_path, monkeypatch, run_main):
    monkeypatch.chdir(tmp_path)  # without any data
    line = one_line_error(run_main("train_ms", "--arch", arch, "--cpu"), "--arch", arch)
    assert REFUSED[arch] in line, line


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--arch", "timm/test_resnet", "--checkpointing"), "--checkpointing"),
        (("--arch", "timm/test_resnet", "--sync_bn"), "--sync_bn"),
        (("--arch", "timm/test_vit", "--lambda-patch", "0.1"), "--lambda-patch"),
        (("--arch", "timm/test_vit", "--lambda-fd", "1", "--crop-size", "64,40"), "cells of 16 pixels"),
    ],
)
def test_flags_that_do_not_fit_are_refused(flags, named, run_main):
    one_line_error(run_main("train_ms", *flags, "--cpu"), named)


def test_models_without_weights_need_none(tmp_path, monkeypatch, run_main):
    write_world(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("model.weights.make_plan", lambda arch: make_plan(arch)._replace(url=None))
    flags = ("--arch", "timm/test_vit", "--restore-from", "imagenet")
    one_line_error(run_main("train_ms", *TRAINING, *flags), "timm/test_vit", "--restore-from none")


def test_without_timm_one_line_says_how_to_install_it(monkeypatch, run_main):
    make_plan.cache_clear()
    monkeypatch.setitem(sys.modules, "timm", None)
    line = one_line_error(run_main("train_ms", "--arch", "timm/test_vit"), "timm")
    assert re.search("pip install -r requirements-timm.txt", line)


def test_timm_is_imported_only_when_named():
    code = "import sys, train_ms; train_ms.stage1_args(['--arch', 'mini']); sys.exit('timm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT).returncode == 0
