"""Weights and flags from files: everything that fits is loaded completely, anything else not at all."""

import functools
import hashlib
import http.server
import os
import pickle
import re
import shutil
import threading
import urllib.error
import zipfile
from pathlib import Path

import pytest
import torch
import torchvision
import yaml

from dataset.cityscapes import CITYSCAPES_COLORS
from engine.snapshots import remove_old_snapshots
from model.deeplab_multi import ARCHS, CLASSIFIERS, DeeplabMulti
from model.weights import WeightsError, load_weights
from tests.conftest import TRAINING, one_line_error
from utils.atomic import atomic_write
from utils.errors import UserError
from utils.options import network_options, read_options, stage1_args, write_options

MEAN_RGB = (122.67891434, 116.66876762, 104.00698793)
STD_RGB = (0.229, 0.224, 0.225)


def mini(seed=0, classes=19, **options):
    """A small network with weights of its own in every tensor."""
    torch.manual_seed(seed)
    network = DeeplabMulti(classes, **{"use_se": True, "norm_style": "gn", "arch": "mini"} | options)
    for value in network.state_dict().values():
        value += torch.rand(value.shape).to(value.dtype)
    return network


def copied(network):
    """The network's state as it is now."""
    return {key: value.clone() for key, value in network.state_dict().items()}


def same(state, other, keys=None):
    """Whether two states agree bit by bit in `keys`, by default in all."""
    keys = state.keys() | other.keys() if keys is None else keys
    return all(torch.equal(state[key], other[key]) for key in keys)


def split(state):
    """Keys of the backbone and of the classifiers."""
    classifiers = {key for key in state if key.startswith(CLASSIFIERS)}
    return state.keys() - classifiers, classifiers


# Files that are to load


@pytest.mark.parametrize(
    "before",
    ["", "module.", "module.module.", "_orig_mod.module.", "module._orig_mod.Scale.", "Scale.module."],
)
def test_a_network_loads_completely_behind_any_wrappers(before, tmp_path):
    saved, network = copied(mini(1)), mini(2)
    torch.save({before + key: value for key, value in saved.items()}, tmp_path / "network.pth")
    assert not same(copied(network), saved)
    load_weights(network, str(tmp_path / "network.pth"))
    assert same(copied(network), saved)


def test_a_network_of_an_old_pytorch_without_bn_counters_loads(tmp_path):
    saved, network = copied(mini(1)), mini(2)
    kept = {key: value for key, value in saved.items() if not key.endswith("num_batches_tracked")}
    assert len(kept) < len(saved)
    torch.save(kept, tmp_path / "network.pth")
    load_weights(network, str(tmp_path / "network.pth"))
    assert same(copied(network), saved, kept)


@pytest.mark.parametrize("before", ["Scale.", "model.", "module.Scale.", "Scale._orig_mod.module."])
def test_a_backbone_behind_one_more_name_loads_and_its_classifier_does_not(before, tmp_path):
    network, other = mini(2), copied(mini(1))
    initial = copied(network)
    backbone, classifiers = split(other)
    state = {key: other[key] for key in backbone if not key.endswith("num_batches_tracked")}
    loaded = set(state)
    state["layer5.conv2d_list.0.weight"], state["fc.weight"] = torch.rand(21, 8, 3, 3), torch.rand(10, 8)
    torch.save({before + key: value for key, value in state.items()}, tmp_path / "backbone.pth")
    load_weights(network, str(tmp_path / "backbone.pth"))
    assert same(copied(network), other, loaded)
    assert same(copied(network), initial, classifiers)


def test_not_restore_last_keeps_fresh_classifiers_whatever_their_classes(tmp_path):
    torch.save(mini(1, classes=16).state_dict(), tmp_path / "network.pth")
    network = mini(2)
    initial = copied(network)
    backbone, classifiers = split(initial)
    load_weights(network, str(tmp_path / "network.pth"), restore_classifiers=False)
    assert same(copied(network), copied(mini(1, classes=16)), backbone)
    assert same(copied(network), initial, classifiers)


# Heads of AdaptSegNet and CLAN, of a fully convolutional network, and no head at all.
OTHER_HEADS = {
    "AdaptSegNet": [
        "layer5.conv2d_list.0.weight",
        "layer6.conv2d_list.0.weight",
        "layer6.conv2d_list.3.bias",
    ],
    "FCN": ["classifier.0.weight", "fc8.bias"],
    "none": [],
}


@pytest.mark.parametrize("before", ["", "module.", "Scale."])
@pytest.mark.parametrize("heads", OTHER_HEADS)
def test_the_backbone_of_another_method_loads_with_the_flag_that_its_refusal_names(heads, before, tmp_path):
    network, theirs = mini(2), copied(mini(1))
    initial = copied(network)
    backbone, classifiers = split(theirs)
    state = {key: theirs[key] for key in backbone} | {key: torch.rand(19) for key in OTHER_HEADS[heads]}
    torch.save({before + key: value for key, value in state.items()}, tmp_path / "theirs.pth")
    if before != "Scale." or heads == "AdaptSegNet":  # else a Caffe-style backbone
        message = refused(tmp_path / "theirs.pth", network)
        assert "backbone fits" in message and "--not-restore-last" in message and "--arch" not in message
    load_weights(network, str(tmp_path / "theirs.pth"), restore_classifiers=False)
    assert same(copied(network), theirs, backbone)
    assert same(copied(network), initial, classifiers)


def test_none_leaves_the_network_as_it_is():
    network = mini(1)
    initial = copied(network)
    load_weights(network, "none")
    assert same(copied(network), initial)


def test_torchvision_weights_compute_what_torchvision_does(tmp_path, float64, monkeypatch):
    torch.manual_seed(0)
    theirs = torchvision.models.resnet101(weights=None).eval()
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for value in (module.weight, module.bias, module.running_mean, module.running_var):
                torch.nn.init.uniform_(value)
    state = theirs.state_dict()
    torch.save(state, tmp_path / "resnet101.pth")
    # The full backbone; small classifiers, which do not matter here, save time.
    monkeypatch.setitem(ARCHS, "small heads", ARCHS["resnet101"]._replace(branch=32, bottleneck=64))
    ours = DeeplabMulti(19, use_se=True, norm_style="gn", arch="small heads").eval()
    initial = copied(ours)
    load_weights(ours, str(tmp_path / "resnet101.pth"))

    loaded = copied(ours)
    backbone, classifiers = split(loaded)
    assert same(loaded, initial, classifiers)
    assert backbone == {key for key in state if not key.startswith("fc.")}
    assert same(loaded, state, backbone - {"conv1.weight"})
    rgb = torch.randint(256, (1, 3, 65, 97)).double()  # the pooling rounds up and down alike at this size
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN_RGB, STD_RGB))
    with torch.no_grad():
        x, y = (rgb - mean) / 255 / std, (rgb - mean).flip(1)
        for part in ("conv1", "bn1", "relu", "maxpool", "layer1"):
            x, y = getattr(theirs, part)(x), getattr(ours, part)(y)
            assert x.shape == y.shape and x.std() > 0.1
            assert (x - y).abs().max() < 1e-9 * x.abs().max()


# Files that are to be refused


def refused(source, network=None, **options):
    """The message of the refusal; the network must be as it was."""
    network = network or mini(2)
    initial = copied(network)
    with pytest.raises(WeightsError) as caught:
        load_weights(network, str(source), **options)
    assert same(copied(network), initial), "a refused file must load nothing"
    assert "--restore-from" in str(caught.value) and str(source) in str(caught.value)
    return str(caught.value)


def without_a_key(state):
    del state["layer3.1.bn2.weight"]


def with_another_key(state):
    state["layer4.9.conv1.weight"] = torch.zeros(3)


def with_another_shape(state):
    state["layer3.1.bn2.weight"] = torch.zeros(3)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (without_a_key, "1 tensors missing, such as layer3.1.bn2.weight"),
        (with_another_key, "layer4.9.conv1.weight"),
        (with_another_shape, "1 tensors of another shape, such as layer3.1.bn2.weight"),
    ],
)
def test_a_network_with_other_tensors_is_refused_by_name(damage, named, tmp_path):
    state = copied(mini(1))
    damage(state)
    torch.save(state, tmp_path / "network.pth")
    message = refused(tmp_path / "network.pth")
    assert named in message and "--not-restore-last" not in message  # the backbone does not fit


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (dict(classes=16), ("16 classes", "not 19", "--num-classes", "--not-restore-last")),
        (dict(norm_style="bn"), ("another network", "running_mean", "--norm-style", "--not-restore-last")),
        (dict(use_se=False), ("another network", "--use-se", "--not-restore-last")),
        (dict(arch="deeper"), ("another network", "--arch")),
    ],
)
def test_a_network_built_with_other_flags_is_refused_and_the_flag_named(
    options, named, tmp_path, monkeypatch
):
    monkeypatch.setitem(ARCHS, "deeper", ARCHS["mini"]._replace(blocks=(1, 1, 3, 1)))
    torch.save(mini(1, **options).state_dict(), tmp_path / "network.pth")
    message = refused(tmp_path / "network.pth")
    assert all(text in message for text in named), message


@pytest.mark.parametrize(
    "content", [[1, 2], {"epoch": 3}, {}, {"state_dict": {"conv1.weight": 1}}, torch.zeros(3)]
)
def test_a_file_that_holds_no_network_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "other.pth")
    assert "holds no network" in refused(tmp_path / "other.pth")


def test_a_snapshot_cut_short_is_refused(tmp_path):
    torch.save(mini(1).state_dict(), tmp_path / "network.pth")
    whole = (tmp_path / "network.pth").read_bytes()
    for length in (len(whole) // 2, len(whole) - 10, 5, 0):
        (tmp_path / "network.pth").write_bytes(whole[:length])
        assert "not a checkpoint" in refused(tmp_path / "network.pth")


def test_a_file_that_is_not_there_is_refused(tmp_path):
    assert "no such file" in refused(tmp_path / "absent.pth")
    assert "no such file" in refused(tmp_path)


class Hostile:
    """Unpickling it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.write_text, (self.path, "executed")


@pytest.mark.parametrize("save", [torch.save, lambda state, path: path.write_bytes(pickle.dumps(state, 2))])
def test_code_in_a_checkpoint_is_not_executed(save, tmp_path):
    proof, file = tmp_path / "proof", tmp_path / "network.pth"
    save(copied(mini(1)) | {"layer7": Hostile(proof)}, file)
    assert "not a checkpoint of tensors" in refused(file)
    assert not proof.exists()
    pickle.loads(pickle.dumps(Hostile(proof)))
    assert proof.read_text() == "executed"  # the attack itself works


# Weights from a URL


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """torch's download cache, empty."""
    torch_home = tmp_path / "cache"
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(torch_home))
    return torch_home / "checkpoints"


@pytest.fixture
def site(tmp_path):
    """A folder, and the URL under which a local server offers its files."""
    folder = tmp_path / "site"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_network_is_loaded_from_its_url_and_from_the_cache_after_that(site, cache):
    folder, address = site
    torch.save(mini(1).state_dict(), folder / "GTA5_4.pth")
    for _ in range(2):
        network = mini(2)
        load_weights(network, f"{address}/GTA5_4.pth")
        assert same(copied(network), copied(mini(1)))
        (folder / "GTA5_4.pth").unlink(missing_ok=True)


def test_a_hash_in_the_file_name_is_checked(site, cache):
    folder, address = site
    torch.save(mini(1).state_dict(), folder / "net.pth")
    digest = hashlib.sha256((folder / "net.pth").read_bytes()).hexdigest()
    for name in (f"net-{digest[:8]}.pth", "net-0123456a.pth", "net-20240101.pth"):
        shutil.copy(folder / "net.pth", folder / name)
    load_weights(mini(2), f"{address}/net-{digest[:8]}.pth")
    load_weights(mini(2), f"{address}/net-20240101.pth")  # a date is no hash
    before = sorted(cache.iterdir())
    assert "invalid hash value" in refused(f"{address}/net-0123456a.pth")
    assert sorted(cache.iterdir()) == before


def test_a_download_that_is_no_checkpoint_is_refused_and_its_place_named(site, cache):
    folder, address = site
    (folder / "net.pth").write_bytes(b"<html>404</html>")
    assert str(cache) in refused(f"{address}/net.pth")


def test_a_downloaded_archive_cannot_replace_another_file_of_the_cache(site, cache):
    folder, address = site
    torch.save(mini(1).state_dict(), folder / "hostile.pth")
    with zipfile.ZipFile(folder / "net.pth", "w") as archive:  # torch.hub would unpack it into the cache
        archive.write(folder / "hostile.pth", "resnet101-63fe2227.pth")
    refused(f"{address}/net.pth")
    assert [path.name.rpartition("_")[2] for path in cache.iterdir()] == ["net.pth"]


def test_a_name_with_several_hyphens_is_checked_against_the_hash_at_its_end(site, cache):
    folder, address = site
    torch.save(mini(1).state_dict(), folder / "net.pth")
    digest = hashlib.sha256((folder / "net.pth").read_bytes()).hexdigest()
    (folder / "net.pth").rename(folder / f"net-1.0-{digest[:12]}.pth")
    load_weights(mini(2), f"{address}/net-1.0-{digest[:12]}.pth")
    assert [path.name for path in cache.iterdir()] == [f"net-1.0-{digest[:12]}.pth"]


def test_files_of_one_name_from_two_places_do_not_collide(site, cache):
    folder, address = site
    for seed, place in enumerate("ab"):
        (folder / place).mkdir()
        torch.save(mini(seed).state_dict(), folder / place / "net.pth")
        load_weights(network := mini(2), f"{address}/{place}/net.pth")
        assert same(copied(network), copied(mini(seed)))


@pytest.mark.parametrize("name", ["a/%2e%2e%2f%2e%2e%2fnet.pth", "..%5C..%5Cn-et.pth", ".."])
def test_names_cannot_leave_the_cache(name, cache, monkeypatch):
    saved_as = []
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda url, path, **_: saved_as.append(Path(path)))
    refused(f"http://127.0.0.1:9/{name}")
    assert saved_as[0].resolve().parent == cache


@pytest.mark.parametrize("source", ["imagenet", "http://127.0.0.1:9/network.pth"])
def test_a_failed_download_is_one_line_that_says_what_to_do(source, cache, world, run_main, monkeypatch):
    def unreachable(*_, **__):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr("torch.hub.urlopen", unreachable)
    result = run_main("train_ms", *TRAINING, "--arch", "resnet101", "--restore-from", source)
    address = "https://download.pytorch.org/models/resnet101" if source == "imagenet" else source
    line = one_line_error(result, "--restore-from", "Name or service not known", address)
    assert "pass the file" in line and str(cache) in line
    assert not (world / "snapshots").exists()


# opts.yaml


PUBLISHED_OPTIONS = """\
batch_size: 2
crop_size: 1024,512
droprate: 0.1
gpu_ids: !!python/tuple
- 0
- 1
input_size: !!python/tuple [1280, 720]
norm_style: gn
num_classes: 19
train_bn: false
use_se: true
"""


def test_flags_written_by_the_published_code_are_read(tmp_path):
    (tmp_path / "opts.yaml").write_text(PUBLISHED_OPTIONS)
    options = network_options(read_options(tmp_path / "GTA5_25000.pth"))
    assert options == dict(
        num_classes=19, use_se=True, train_bn=False, norm_style="gn", droprate=0.1, arch="resnet101"
    )


def test_flags_written_by_training_rebuild_its_network(tmp_path):
    network = ["--arch", "mini", "--norm-style", "in", "--use-se", "--train_bn", "--num-classes", "21"]
    args = stage1_args([*network, "--drop", "0.3", "--crop-size", "64,32", "--autoaug", "False"])
    write_options(tmp_path, args, CITYSCAPES_COLORS)
    assert network_options(read_options(tmp_path / "GTA5_2.pth")) == dict(
        num_classes=21, use_se=True, train_bn=True, norm_style="in", droprate=0.3, arch="mini"
    )
    written = yaml.safe_load((tmp_path / "opts.yaml").read_text())
    assert written.keys() == {*vars(args), "classes"} - {"config", "resume"}
    assert list(written["classes"].items())[0] == ("road", [128, 64, 128]) and len(written["classes"]) == 19
    assert written["crop_size"] == "64,32" and written["autoaug"] is False
    assert written["snapshot_dir"] == "snapshots"


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system", "!!python/object/new:os.system"])
def test_code_in_opts_yaml_is_not_executed(tag, tmp_path):
    proof = tmp_path / "proof"
    (tmp_path / "opts.yaml").write_text(PUBLISHED_OPTIONS + f"droprate: {tag} ['touch {proof}']\n")
    with pytest.raises(UserError, match=re.escape(str(tmp_path / "opts.yaml"))):
        network_options(read_options(tmp_path / "GTA5_25000.pth"))
    assert not proof.exists()
    yaml.unsafe_load((tmp_path / "opts.yaml").read_text())
    assert proof.exists()  # the attack itself works


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (None, "no such file"),
        ("a: [", "cannot be read"),
        ("- 1\n- 2\n", "holds no flags"),
        ("", "holds no flags"),
        (PUBLISHED_OPTIONS.replace("norm_style: gn\n", ""), "lacks norm_style"),
    ],
)
def test_unusable_flags_are_refused_with_the_file_named(content, named, tmp_path):
    if content is not None:
        (tmp_path / "opts.yaml").write_text(content)
    with pytest.raises(UserError) as caught:
        network_options(read_options(tmp_path / "GTA5_25000.pth"))
    assert named in str(caught.value) and str(tmp_path / "opts.yaml") in str(caught.value)


# Writing


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("write failed")])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(error, tmp_path):
    file = tmp_path / "GTA5_2.pth"
    file.write_text("old")

    def write(path):
        path.write_text("half of the ne")
        raise error

    with pytest.raises(UserError, match="GTA5_2.pth"):
        atomic_write(file, write)
    assert file.read_text() == "old" and os.listdir(tmp_path) == ["GTA5_2.pth"]


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path):
    file = tmp_path / "GTA5_2.pth"
    file.write_text("old")

    def write(path):
        path.write_text("half of the ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        atomic_write(file, write)
    assert file.read_text() == "old" and os.listdir(tmp_path) == ["GTA5_2.pth"]


def test_a_write_replaces_the_old_file_and_makes_its_folder(tmp_path):
    file = tmp_path / "new" / "GTA5_2.pth"
    for text in ("first", "second"):
        atomic_write(file, lambda path, text=text: path.write_text(text))
        assert file.read_text() == text and os.listdir(file.parent) == ["GTA5_2.pth"]


def test_old_snapshots_of_a_removal_cut_short_are_removed_by_the_next(tmp_path, monkeypatch):
    def save(number):
        for part in parts:
            (tmp_path / f"GTA5_{number}{part}.pth").write_text("tensors")

    parts, unlink, left = ("", "_D1", "_D2", "_teacher"), Path.unlink, [3]

    def killed(path, **options):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        unlink(path, **options)

    save(2)
    save(4)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "unlink", killed)
        remove_old_snapshots(tmp_path, "GTA5", keep=1, saved=4, spare="none")
    assert len(list(tmp_path.iterdir())) == 5
    remove_old_snapshots(tmp_path, "GTA5", keep=1, saved=4, spare="none")
    assert {path.name for path in tmp_path.iterdir()} == {f"GTA5_4{part}.pth" for part in parts}


# Features on request


def test_the_primary_classifiers_maps_come_with_unchanged_logits():
    torch.manual_seed(0)
    network, images = DeeplabMulti(19, arch="mini").eval(), torch.randn(2, 3, 40, 56)
    with torch.no_grad():
        logits = network(images)
        *beside_input, joined = network(images, features="input")
        *beside_hidden, hidden = network(images, features="hidden")
        aux, main = network.layer5(joined[:, network.layer6.in_channels - 128 :]), network.layer6(joined)
        again = network.layer6.head(hidden)
    for found in (beside_input, beside_hidden, (aux, main), (logits[0], again)):
        for a, b in zip(found, logits, strict=True):
            torch.testing.assert_close(a, b)
    assert joined.shape == (2, network.layer6.in_channels, 6, 8)
    assert hidden.shape == (2, network.layer6.hidden_channels, 6, 8)
