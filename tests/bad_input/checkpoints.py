"""Bad checkpoints: no checkpoints, damaged, carrying code, of another network, with values that are none."""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from tests.bad_input import hostile
from tests.bad_input.case import Case
from tests.bad_input.images import at
from tests.bad_input.world import GOOD, SNAPSHOT

KIND = "checkpoints"
TRUNK, HEAD = "layer3.1.conv1.weight", "layer6.head.1.weight"
State = dict[str, Tensor]


def _write(make: Callable[[], bytes]) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(make())


def _cut(share: float) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(path.read_bytes()[: round(share * path.stat().st_size)])


def _changed(change: Callable[[State], object], **options) -> Callable[[Path], object]:
    """The snapshot's tensors, changed; `change` may give others back."""

    def spoil(path: Path) -> None:
        state = torch.load(path, weights_only=True)
        path.write_bytes(hostile.saved(change(state) or state, **options))

    return spoil


def _set(key: str, make: Callable[[Tensor], object]) -> Callable[[State], object]:
    def change(state: State) -> None:
        state[key] = make(state[key])

    return change


def _filled(value: float) -> Callable[[Tensor], Tensor]:
    """One number among all is another."""

    def make(tensor: Tensor) -> Tensor:
        tensor.view(-1)[-1] = value
        return tensor

    return make


def _without(state: State) -> None:
    del state[TRUNK]


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _quantized(tensor: Tensor) -> Tensor:
    with warnings.catch_warnings():  # they are on their way out of torch, but files with them exist
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)


_CODE = hostile.Code
NO_CHECKPOINTS: dict[str, Callable[[Path], object]] = {
    "empty": _write(lambda: b""),
    "text": _write(lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
    "an HTML page": _write(lambda: b"<!DOCTYPE html><title>404</title>"),
    "zeros": _write(lambda: bytes(10000)),
    **{f"cut to {100 * share:g} %": _cut(share) for share in (0.0001, 0.01, 0.5, 0.99, 0.99999)},
    "a folder": _folder,
    "gone": Path.unlink,
    "without rights": lambda path: path.chmod(0),
    "a pickle": _write(lambda: hostile.pickled({"a": [1, 2]})),
    **{
        f"code in a pickle of protocol {n}": _write(lambda n=n: hostile.pickled(_CODE(), n)) for n in range(6)
    },
    "code as the archive's pickle": lambda path: path.write_bytes(
        hostile.rewritten(path, "data.pkl", hostile.pickled(_CODE()))
    ),
    "an archive of something else": _write(lambda: hostile.zipped({"a.txt": b"b"})),
    "an archive with a name that climbs out": _write(lambda: hostile.zipped({"../../executed": b"b"})),
    "an archive whose pickle is text": lambda path: path.write_bytes(
        hostile.rewritten(path, "data.pkl", b"text")
    ),
    "a TorchScript archive": _write(hostile.scripted),
    "a list": _write(lambda: hostile.saved([torch.zeros(2)])),
    "a tensor": _write(lambda: hostile.saved(torch.zeros(2))),
    "nothing": _write(lambda: hostile.saved(None)),
    "no tensors": _write(lambda: hostile.saved({})),
    "numbers": _write(lambda: hostile.saved({"epoch": 3})),
}
SPOILT: dict[str, Callable[[Path], object]] = {
    **NO_CHECKPOINTS,
    "code beside the tensors": _changed(lambda state: state | {"code": _CODE()}),
    "code in place of a tensor": _changed(_set(HEAD, lambda _: _CODE())),
    "code in the format of old versions": _changed(
        lambda state: state | {"code": _CODE()}, _use_new_zipfile_serialization=False
    ),
    "one thing that is no tensor": _changed(_set(TRUNK, lambda _: "weights")),
    "a training's state": _changed(lambda state: {"model": state, "epoch": 3}),
    "keys that are numbers": _changed(lambda state: dict(enumerate(state.values()))),
    "one key that is a number": _changed(lambda state: state | {7: torch.zeros(1)}),
    "an empty key": _changed(lambda state: state | {"": torch.zeros(1)}),
    "a key with control codes": _changed(lambda state: state | {"a\x1b[2J\nb": torch.zeros(1)}),
    "a tensor less": _changed(_without),
    "a tensor more": _changed(lambda state: state | {"layer9.weight": torch.zeros(1)}),
    "another shape": _changed(_set(TRUNK, lambda tensor: tensor[:1])),
    "a number in place of a tensor": _changed(_set(TRUNK, lambda tensor: torch.tensor(1.0))),
    "a tensor that claims a terabyte": _changed(_set(TRUNK, lambda _: torch.zeros(1).expand(2**40))),
    "other classes": _changed(_set(HEAD, lambda tensor: tensor[:16])),
    "no classes": _changed(_set(HEAD, lambda tensor: tensor[:0])),
    "classes without dimensions": _changed(_set(HEAD, lambda _: torch.tensor(1.0))),
    "torchvision's classifier alone": _write(lambda: hostile.saved({"fc.weight": torch.zeros(3, 3)})),
    "a first convolution of another kind": _write(
        lambda: hostile.saved({"fc.weight": torch.zeros(3), "conv1.weight": torch.zeros(3)})
    ),
    "a discriminator": _write(lambda: hostile.saved({"cnns.0.0.conv.weight": torch.zeros(3)})),
    "nan": _changed(_set(TRUNK, _filled(float("nan")))),
    "infinite": _changed(_set(HEAD, _filled(float("inf")))),
    "whole numbers": _changed(_set(TRUNK, Tensor.long)),
    "complex numbers": _changed(_set(TRUNK, lambda tensor: tensor.to(torch.complex64))),
    "truth values": _changed(_set(TRUNK, Tensor.bool)),
    "a sparse tensor": _changed(_set(TRUNK, Tensor.to_sparse)),
    "a quantised tensor": _changed(_set(TRUNK, _quantized)),
    "tensors without values": _changed(_set(TRUNK, lambda tensor: tensor.to("meta"))),
}
PREDICTING = ("generate_plabel_cityscapes", "evaluate_cityscapes", "segment", "export_onnx")
READERS = {
    "train_ms": (*GOOD["train_ms"], "--norm-style", "gn", "--use-se", "--restore-from", SNAPSHOT),
    "train_ft": (*GOOD["train_ft"], "--norm-style", "gn", "--use-se", "--restore-from", SNAPSHOT),
    **{s: GOOD[s] for s in PREDICTING},
}


def cases() -> Iterator[Case]:
    """Every spoilt checkpoint in every script that reads one."""
    for script, flags in READERS.items():
        for what, spoil in SPOILT.items():
            yield Case(KIND, what, script, flags, (SNAPSHOT,), at(SNAPSHOT, spoil))
    overflow = _changed(_set(HEAD, lambda tensor: tensor.fill_(3e38)))
    for script in PREDICTING:
        what = "finite numbers whose sums are not"
        yield Case(KIND, what, script, READERS[script], ("are not finite",), at(SNAPSHOT, overflow))


def accepted() -> Iterator[Case]:
    """Other ways to save the same network."""
    for what, spoil in {
        "a checkpoint in the format of old versions": _changed(
            lambda state: state, _use_new_zipfile_serialization=False
        ),
        "a checkpoint of DataParallel": _changed(
            lambda s: {f"module.{key}": value for key, value in s.items()}
        ),
        "a checkpoint in half precision": _changed(
            lambda s: {k: v.half() if v.is_floating_point() else v for k, v in s.items()}
        ),
        "an unchanged checkpoint": lambda path: None,
    }.items():
        for script in ("train_ms", "evaluate_cityscapes"):
            yield Case("good input is accepted", what, script, READERS[script], (), at(SNAPSHOT, spoil))
