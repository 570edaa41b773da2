"""Initial weights and snapshots: finding them, recognising them and loading them completely.

The keys distinguish three kinds of file: a network of this project or of the published code, a Caffe-style
backbone (every key has a prefix such as `Scale.`), and torchvision's ResNet. With --not-restore-last any file
will do whose backbone fits, such as AdaptSegNet's and CLAN's.
"""

import hashlib
import logging
import pickle
import re
import sys
import warnings
from pathlib import Path
from urllib.parse import urlsplit

import torch
from torch import Tensor

from model.deeplab_multi import ARCHS, CLASSIFIERS, TwoClassifiers
from model.timm_backbone import TimmNetwork, make_plan

PIXEL_MAX = 255
FIRST_KEY = "conv1.weight"  # of the first convolution
CLASSES_KEY = "layer6.head.1.weight"  # one row per class
IMAGENET_STD_RGB = (0.229, 0.224, 0.225)  # torchvision divides its inputs by it
# torchvision's V1 recipe; V2 was trained much longer, with other augmentations.
IMAGENET_URL = "https://download.pytorch.org/models/resnet101-63fe2227.pth"
TORCHVISION = "torchvision's ResNet backbone"
WRAPPERS = {"module", "_orig_mod"}  # what DataParallel and torch.compile put before every key
# As in torch.hub's file names; a date does not count.
HASH_IN_NAME = re.compile(r"-(?![0-9]+\.)([0-9a-f]{8,})\.")
LONGEST_REASON = 120  # characters of a library's message

StateDict = dict[str, Tensor]
log = logging.getLogger(__name__)


class WeightsError(Exception):
    """Weights that cannot be used; one line that names the file and says what to do."""


def has_imagenet_weights(arch: str) -> bool:
    """Whether there are pretrained weights to start a network from."""
    return arch == "resnet101" or arch not in ARCHS and make_plan(arch).url is not None


def holds_backbone(source: str) -> bool:
    """Whether a file or URL, as in `load_weights`, has no classifiers, as ImageNet's weights."""
    return not any(key.startswith(CLASSIFIERS) for key in without_prefixes(fetch(source))[0])


def load_weights(network: TwoClassifiers, source: str, restore_classifiers: bool = True) -> None:
    """Load initial weights into `network`, all of them or none.

    Args:
        source: a file, a URL, `imagenet` (torchvision's ResNet-101, converted; a timm backbone's own) or
            `none`.
        restore_classifiers: False leaves the classifiers as they were initialised.

    Raises:
        WeightsError: the source cannot be read, or a key is missing, unexpected or of another shape.
    """
    if source == "none":
        log.info("Starting from random weights.")
        return
    if isinstance(network, TimmNetwork) and source == "imagenet":
        return load_timm(network, source, None)
    (state, prefixes), expected = without_prefixes(fetch(source)), network.state_dict()
    has_primary = any(key.startswith("layer6.") for key in state)  # which a Caffe-style backbone lacks
    if isinstance(network, TimmNetwork) and not has_primary:
        return load_timm(network, source, state)
    if prefixes - WRAPPERS and not has_primary:
        what = "a Caffe-style backbone"
    elif "fc.weight" in state:
        what = TORCHVISION
    else:
        what = "network" if restore_classifiers else "backbone of a network"
    if what != "network":
        expected = {key: value for key, value in expected.items() if not key.startswith(CLASSIFIERS)}
        state = {key: value for key, value in state.items() if key.startswith(backbone_modules(expected))}
    check_weights(state, expected, source)
    if what == TORCHVISION:
        state[FIRST_KEY] = to_bgr_in_0_to_255(state[FIRST_KEY])
    network.load_state_dict(state, strict=False)  # `check_weights` made sure that nothing is missing
    log.info("Starting from %s (%s).", source, what)


def load_timm(network: TimmNetwork, source: str, state: StateDict | None) -> None:
    """Load timm's own weights: those of a file, or None: those that timm downloads or has in its cache."""
    plan = network.plan
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # a line for each of a dozen retries
    try:
        network.load_pretrained(state)
    except Exception as error:  # timm and its downloads fail in many ways
        reason = " ".join(str(error).split())[:LONGEST_REASON]
        advice = f"name a file with the weights of timm's {plan.name}"
        if state is None:
            advice = f"download {plan.url} elsewhere and pass the file"
        raise WeightsError(f"--restore-from {source}: cannot be loaded ({reason}); {advice}") from error
    log.info("Starting from %s (%s of timm).", source, plan.name)


def backbone_modules(state: StateDict) -> tuple[str, ...]:
    """Prefixes of the backbone's keys in the state of a network of this project: `conv1.`, `layer1.` ..."""
    return tuple({key.partition(".")[0] + "." for key in state if not key.startswith(CLASSIFIERS)})


def fetch(source: str) -> StateDict:
    """The state dictionary that `source` names, on the CPU; nothing in the file is executed.

    A URL is downloaded once, to torch's cache, and checked against the hash in its file name, if any.

    Raises:
        WeightsError: it cannot be read, or is not a dictionary of tensors.
    """
    url = IMAGENET_URL if source == "imagenet" else source
    if not url.startswith(("http://", "https://")):
        if not Path(source).is_file():
            raise WeightsError(
                f"--restore-from {source}: no such file; name a snapshot, a URL, imagenet or none"
            )
        return read_state(Path(source), source)
    name = urlsplit(url).path.rpartition("/")[2]
    digest = HASH_IN_NAME.search(name)
    if not digest:  # two sites may have files of this name
        name = f"{hashlib.sha256(url.encode()).hexdigest()[:16]}_{name}"
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not path.is_file():
        log.info("Downloading %s", url)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(
                url, str(path), hash_prefix=digest and digest[1], progress=sys.stderr.isatty()
            )
        except Exception as error:  # networks and servers fail in many ways
            raise WeightsError(
                f"--restore-from {url}: cannot be downloaded ({_first_line(error)}); download it elsewhere "
                f"and pass the file, or save it as {path}"
            ) from error
    return read_state(path, f"{source} (saved as {path})")


def read_state(path: Path, source: str) -> StateDict:
    """The state dictionary in a file; `source` is the user's name for it."""
    try:
        state = load_tensors(path)
    except ValueError as error:
        raise WeightsError(
            f"--restore-from {source}: not a checkpoint of tensors ({error}); name a snapshot such as "
            "GTA5_25000.pth, or copy it again"
        ) from error
    weights = state.items() if isinstance(state, dict) else ()
    if not weights or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in weights):
        raise WeightsError(
            f"--restore-from {source}: holds no network; name a snapshot such as GTA5_25000.pth"
        )
    return state


def without_prefixes(state: StateDict) -> tuple[StateDict, set[str]]:
    """The state without the names that stand before every key, such as `module.Scale.`, and these names."""
    prefixes = set()
    while len(first := {key.partition(".")[0] for key in state}) == 1 and all("." in key for key in state):
        prefixes |= first
        state = {key.partition(".")[2]: value for key, value in state.items()}
    return state, prefixes


def load_tensors(path: Path) -> object:
    """Load what `torch.save` wrote, on the CPU: tensors, numbers and text in lists and dictionaries.

    Raises:
        ValueError: it is not such a file, with a short reason; no code in it was executed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # whatever makes the file unusable raises an error
            if path.suffix == ".safetensors":
                from safetensors.torch import load_file  # timm brings it

                return load_file(path)
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged and hostile files fail in many ways
        reason = _first_line(error) or "it is empty"
        if isinstance(error, pickle.UnpicklingError) or "TorchScript" in reason:
            reason = "it is another kind of file, or contains code, which is never executed"
        raise ValueError(reason) from error


def _first_line(error: Exception) -> str:
    return str(error).split("\n")[0][:LONGEST_REASON]


def count_classes(snapshot: Path) -> int | None:
    """Number of classes of the network in a file, or None if it is not a network of this kind.

    Raises:
        WeightsError: the file is not a checkpoint.
    """
    state = fetch(str(snapshot))
    head = next((value for key, value in state.items() if f".{key}".endswith(f".{CLASSES_KEY}")), None)
    return len(head) if head is not None and head.ndim else None


def to_bgr_in_0_to_255(weight: Tensor) -> Tensor:
    """torchvision's first convolution (64, 3, 7, 7), for images in BGR and 0 ... 255 minus the mean.

    torchvision's input is RGB in 0 ... 1 minus the mean, divided by each channel's standard deviation; both
    divisions move into the weights.
    """
    scale = torch.tensor(IMAGENET_STD_RGB) * PIXEL_MAX
    return (weight.to(scale.dtype) / scale[:, None, None]).flip(1)


def check_weights(state: StateDict, expected: StateDict, source: str) -> None:
    """Check that a state has the keys and shapes of `expected`, and finite values.

    `num_batches_tracked` may be missing: old PyTorch versions did not save it, and nothing here reads it.

    Raises:
        WeightsError: it does not; the message names a tensor.
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
    advice = "check --arch, --norm-style and --use-se"
    if not any(key.startswith(backbone_modules(expected)) for key in (*missing, *unexpected, *shapes)):
        ours = "check --norm-style and --use-se, or " if found else ""
        advice = f"its backbone fits; {ours}train from that with new classifiers: --not-restore-last"
    for what, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes)):
        if keys:
            raise WeightsError(
                f"--restore-from {source}: belongs to another network: {len(keys)} tensors {what}, such as "
                f"{keys[0]}; {advice}"
            )
    for key, value in state.items():
        if not value.isfinite().all():
            raise WeightsError(
                f"--restore-from {source}: {key} contains NaN or infinity; name an earlier snapshot"
            )
