"""Initial weights and snapshots: finding them, recognising them and loading them completely.

The keys distinguish three kinds of file: a network of this project or of the published code, a Caffe-style
backbone (every key has one more name in front), and torchvision's ResNet.
"""

import hashlib
import logging
import pickle
import re
import sys
import warnings
from pathlib import Path
from urllib.parse import unquote, urlsplit

import torch
from torch import Tensor
from torchvision.models import ResNet101_Weights

from model.deeplab_multi import DeeplabMulti, is_classifier

PIXEL_MAX = 255
FIRST_SHAPE = (64, 3, 7, 7)  # of the first convolution of torchvision's ResNets
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
CLASSES_KEY = "layer6.head.1.weight"  # one row per class
IMAGENET_STD_RGB = (0.229, 0.224, 0.225)  # torchvision divides its inputs by it
# The V1 recipe; V2 was trained much longer, with other augmentations.
IMAGENET_WEIGHTS = ResNet101_Weights.IMAGENET1K_V1
HASH_IN_NAME = re.compile(r"-(?![0-9]+\.)([0-9a-f]{8,})\.")  # as torch.hub names files; a date is none
UNSAFE = re.compile(r"[^A-Za-z0-9._-]")
LONGEST_REASON = 120  # characters of a library's message
MAX_NAME = 100  # characters of a URL's file name that are kept

StateDict = dict[str, Tensor]
log = logging.getLogger(__name__)


class WeightsError(Exception):
    """Weights that cannot be used; one line that names the file and says what to do."""


def load_weights(network: DeeplabMulti, source: str, restore_classifiers: bool = True) -> None:
    """Load initial weights into `network`, all of them or none.

    Args:
        source: a file, a URL, `imagenet` (torchvision's ResNet-101, converted) or `none`.
        restore_classifiers: False leaves the classifiers as they were initialised.

    Raises:
        WeightsError: the source cannot be read, or a key is missing, unexpected or of another shape.
    """
    if source == "none":
        log.info("Starting from random weights.")
        return
    state = strip_data_parallel(fetch(source))
    if "fc.weight" in state and "layer5.head.1.weight" not in state:
        state, what = from_torchvision(state), "torchvision's ResNet backbone"
    elif prefix := _extra_name(state, network):
        state, what = from_caffe(state, prefix), "a Caffe-style backbone"
    elif restore_classifiers:
        what = "network"
    else:
        state, what = {k: v for k, v in state.items() if not is_classifier(k)}, "backbone of a network"
    expected = network.state_dict()
    if what != "network":
        expected = {k: v for k, v in expected.items() if not is_classifier(k)}
    check_weights(state, expected, source)
    network.load_state_dict(state, strict=False)  # `check_weights` made sure that nothing is missing
    log.info("Starting from %s (%s).", source, what)


def fetch(source: str) -> StateDict:
    """The state dictionary that `source` names, on the CPU; nothing in the file is executed.

    Raises:
        WeightsError: it cannot be read, or is no dictionary of tensors.
    """
    url = IMAGENET_WEIGHTS.url if source == "imagenet" else source
    if not url.startswith(("http://", "https://")):
        if not Path(source).is_file():
            raise WeightsError(
                f"--restore-from {source}: no such file; name a snapshot, a URL, imagenet or none"
            )
        return read_state(Path(source), source)
    path = Path(torch.hub.get_dir()) / "checkpoints" / cache_name(url)
    was_cached = path.is_file()
    if not was_cached:
        download(url, path)
    try:
        return read_state(path, source)
    except WeightsError:
        if not was_cached:  # so that the next run downloads it again
            path.unlink(missing_ok=True)
        raise


def download(url: str, path: Path) -> None:
    """Download a file to `path`, checked against the hash in its name (`resnet101-63fe2227.pth`), if any.

    Raises:
        WeightsError: it cannot be downloaded or does not match its hash; nothing of it is kept.
    """
    digest = HASH_IN_NAME.search(path.name)
    log.info("Downloading %s", url)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(
            url, str(path), hash_prefix=digest and digest[1], progress=sys.stderr.isatty()
        )
    except Exception as error:  # networks and servers fail in any way
        raise WeightsError(
            f"--restore-from {url}: cannot be downloaded ({_first_line(error)}); fetch it elsewhere and pass "
            f"the file, or put it there as {path}"
        ) from error


def cache_name(url: str) -> str:
    """File name in torch's cache: the URL's own if it holds a hash, else one that differs for each URL."""
    name = UNSAFE.sub("_", unquote(urlsplit(url).path).rpartition("/")[2])[-MAX_NAME:]
    return name if HASH_IN_NAME.search(name) else f"{hashlib.sha256(url.encode()).hexdigest()[:16]}_{name}"


def read_state(path: Path, source: str) -> StateDict:
    """The state dictionary in a file; `source` is what the user called it."""
    try:
        state = load_tensors(path)
    except ValueError as error:
        raise WeightsError(
            f"--restore-from {source}: not a checkpoint of tensors ({error}); name a snapshot such as "
            "GTA5_25000.pth, or copy it again"
        ) from error
    if not isinstance(state, dict) or not state or not all(map(_is_weight, state.keys(), state.values())):
        raise WeightsError(
            f"--restore-from {source}: holds no network; name a snapshot such as GTA5_25000.pth"
        )
    return dict(state)


def load_tensors(path: Path) -> object:
    """What `torch.save` wrote, on the CPU: tensors, numbers and text in lists and dictionaries.

    Raises:
        ValueError: the file is none of that kind, in a few words; no code in it was executed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is odd about a file ends here or does not matter
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile file can fail in any way
        reason = _first_line(error) or "it is empty"
        if isinstance(error, pickle.UnpicklingError) or "TorchScript" in reason:
            reason = "it is another file, or holds more than tensors, which is not executed"
        raise ValueError(reason) from error


def _first_line(error: Exception) -> str:
    return str(error).split("\n")[0][:LONGEST_REASON]


def _is_weight(key: object, value: object) -> bool:
    """Whether both are what a network's state has: a name, and an array of numbers that are there."""
    plain = isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta
    return isinstance(key, str) and plain and not value.is_quantized and not value.is_complex()


def count_classes(snapshot: Path) -> int | None:
    """How many classes the network in a file has; None where it is no network of this kind.

    Raises:
        WeightsError: the file is no checkpoint.
    """
    head = strip_data_parallel(fetch(str(snapshot))).get(CLASSES_KEY)
    return len(head) if head is not None and head.ndim else None


def strip_data_parallel(state: StateDict) -> StateDict:
    """Keys without the `module.` that DataParallel puts before them."""
    return {key.removeprefix("module."): value for key, value in state.items()}


def from_torchvision(state: StateDict) -> StateDict:
    """torchvision's ResNet for this backbone: its input becomes BGR in 0 ... 255, its classifier is left out.

    The division by each channel's standard deviation moves into the first convolution; the mean is
    subtracted from the images as before.
    """
    state = {key: value for key, value in state.items() if not key.startswith("fc.")}
    scale = torch.tensor(IMAGENET_STD_RGB) * PIXEL_MAX
    first = state.get("conv1.weight")
    if first is not None and first.shape == FIRST_SHAPE and first.dtype in FLOATS:  # else it is refused later
        state["conv1.weight"] = (first / scale[:, None, None]).flip(1)
    return state


def from_caffe(state: StateDict, prefix: str) -> StateDict:
    """The original initial weights: the first name of every key dropped, their classifier left out."""
    state = {key.removeprefix(prefix + "."): value for key, value in state.items()}
    return {k: v for k, v in state.items() if not k.startswith(("layer5.", "fc."))}


def _extra_name(state: StateDict, network: DeeplabMulti) -> str | None:
    """The one name that every key has before the network's own names, if so."""
    first, *others = {key.partition(".")[0] for key in state}
    return first if not others and not hasattr(network, first) else None


def check_weights(state: StateDict, expected: StateDict, source: str) -> None:
    """Refuse a state that would not fill `expected` key by key and shape by shape with finite numbers.

    Files of old PyTorch versions lack BN's counter of batches, which nothing here reads.
    """
    found, wanted = (
        weights[CLASSES_KEY].shape[:1] if CLASSES_KEY in weights else () for weights in (state, expected)
    )
    if found and wanted and found != wanted:
        raise WeightsError(
            f"--restore-from {source}: has {found[0]} classes, not {wanted[0]}; "
            "give --num-classes, or --not-restore-last to start the classifiers afresh"
        )
    missing = [k for k in expected if k not in state and not k.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in expected]
    shapes = [k for k in state if k in expected and state[k].shape != expected[k].shape]
    for what, keys in (("lacks", missing), ("has besides", unexpected), ("has of another shape", shapes)):
        if keys:
            raise WeightsError(
                f"--restore-from {source}: is of another network: it {what} {len(keys)} tensors such as "
                f"{keys[0]}; check --arch, --norm-style and --use-se"
            )
    for key, value in state.items():
        if value.is_floating_point() != expected[key].is_floating_point():
            raise WeightsError(f"--restore-from {source}: {key} holds {value.dtype}; name another snapshot")
        if not value.isfinite().all():
            raise WeightsError(
                f"--restore-from {source}: {key} holds numbers that are not finite; name an earlier snapshot"
            )
