"""Initial weights and checkpoints: where they come from, whose they are, and loading them completely.

Three kinds of file are told apart by their keys: a network of this project or of the published code, a
Caffe-style backbone (every key behind one more name), and torchvision's ResNet.
"""

import logging
import pickle
import warnings
from pathlib import Path
from urllib.parse import urldefrag

import torch
from torch import Tensor
from torchvision.models import ResNet101_Weights

from model.deeplab_multi import DeeplabMulti, is_classifier
from model.download import WeightsError, cached_file, download

PIXEL_MAX = 255
FIRST = (64, 3, 7, 7)  # shape of the first convolution of torchvision's ResNets
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
HEAD = "layer6.head.1.weight"  # has a row each class
IMAGENET_STD_RGB = (0.229, 0.224, 0.225)  # what torchvision divides its inputs by
# The plain training recipe; the V2 weights come from a much longer one with other augmentations.
IMAGENET_WEIGHTS = ResNet101_Weights.IMAGENET1K_V1

StateDict = dict[str, Tensor]
log = logging.getLogger(__name__)


def load_weights(network: DeeplabMulti, source: str, restore_classifiers: bool = True) -> None:
    """Load initial weights into `network`, all of them or none.

    Args:
        source: a file, a URL, `imagenet` (torchvision's ResNet-101, converted) or `none`.
        restore_classifiers: False leaves the classifiers as they were initialised.

    Raises:
        WeightsError: the source cannot be had, or a key is missing, unexpected or of another shape.
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
    check_state(state, expected, source)
    network.load_state_dict(state, strict=False)  # complete: `check_state` has seen to it
    log.info("Starting from %s (%s).", source, what)


def fetch(source: str) -> StateDict:
    """The state dictionary that `source` names, on the CPU, read without executing anything in it.

    Raises:
        WeightsError: it cannot be had, or is no dictionary of tensors.
    """
    url = IMAGENET_WEIGHTS.url if source == "imagenet" else source
    if url.startswith(("http://", "https://")):
        was_there = cached_file(urldefrag(url)[0]).is_file()
        path = download(url)
        try:
            return read_state(path, source)
        except WeightsError:
            if not was_there:  # another try is to download it again
                path.unlink(missing_ok=True)
            raise
    path = Path(source)
    if not path.is_file():
        raise WeightsError(f"--restore-from {source}: no such file; name a snapshot, a URL, imagenet or none")
    return read_state(path, source)


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
        reason = str(error).split("\n")[0][:120] or "it is empty"
        if isinstance(error, pickle.UnpicklingError) or "TorchScript" in reason:
            reason = "it is another file, or holds more than tensors, which is not executed"
        raise ValueError(reason) from error


def _is_weight(key: object, value: object) -> bool:
    """Whether both are what a network's state has: a name, and an array of numbers that are there."""
    plain = isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta
    return isinstance(key, str) and plain and not value.is_quantized and not value.is_complex()


def count_classes(snapshot: Path) -> int | None:
    """How many classes the network in a file has; None where it is no network of this kind.

    Raises:
        WeightsError: the file is no checkpoint.
    """
    head = strip_data_parallel(fetch(str(snapshot))).get(HEAD)
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
    if first is not None and first.shape == FIRST and first.dtype in FLOATS:  # else it is refused later
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


def check_state(state: StateDict, expected: StateDict, source: str) -> None:
    """Refuse a state that would not fill `expected` key by key and shape by shape with finite numbers.

    Files of old PyTorch versions lack BN's counter of batches, which nothing here reads.
    """
    found, wanted = (weights[HEAD].shape[:1] if HEAD in weights else () for weights in (state, expected))
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
