"""Spoiled files: functions that take the path of a good one and leave something else there."""

import io
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image

from tests.bad_input.world import SIZE

Spoil = Callable[[Path], object]
PROOF = "executed"  # what code in a file would create in the current folder
HUGE = 10**30
SIGNATURE = b"\x89PNG\r\n\x1a\n"


class Code:
    """Unpickling it runs a command."""

    def __reduce__(self):
        return os.system, (f"touch {PROOF}",)


def at(place: str, spoil: Spoil) -> Spoil:
    """Spoil the file at `place` in the world."""
    return lambda world: spoil(world / place)


def write(content: bytes | str) -> Spoil:
    return lambda path: path.write_bytes(content.encode() if isinstance(content, str) else content)


def cut(share: float) -> Spoil:
    return lambda path: path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def zeros_at(share: float, count: int) -> Spoil:
    def spoil(path: Path) -> None:
        whole = bytearray(path.read_bytes())
        start = round(share * len(whole))
        whole[start : start + count] = bytes(count)
        path.write_bytes(whole)

    return spoil


def link(to: str | None) -> Spoil:
    """A link in place of the file; None: to itself."""
    return lambda path: (path.unlink(), path.symlink_to(to or path.name))


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def closed(path: Path) -> None:
    path.chmod(0)


def saved_image(pixels: np.ndarray, form: str = "PNG", share: float = 1.0) -> Spoil:
    """An array as an image file of any format under the same name, cut to a share of its bytes."""

    def spoil(path: Path) -> None:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, form)
        path.write_bytes(file.getvalue()[: round(share * len(file.getvalue()))])

    return spoil


def png(width: int, height: int, rows: bytes, bits: int = 8, text: bytes | None = None) -> Spoil:
    """A PNG file with any header."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0))
    header += b"" if text is None else chunk(b"zTXt", b"k\0\0" + zlib.compress(text))
    return write(SIGNATURE + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def grey(value: int, height: int = SIZE[0], width: int = SIZE[1], kind: type = np.uint8) -> np.ndarray:
    return np.full((height, width), value, kind)


RGB = np.zeros((*SIZE, 3), np.uint8)
NO_FILES: dict[str, Spoil] = {
    "empty": write(b""),
    "text": write(b"<html>404 Not Found</html>" * 20),
    "zeros": write(bytes(5000)),
    "binary": write(bytes(range(256)) * 10),
    "a folder": folder,
    "a link to itself": link(None),
    "without rights": closed,
}
IMAGES: dict[str, Spoil] = {
    **NO_FILES,
    "one byte": write(b"\x89"),
    "a ZIP archive": write(b"PK\x03\x04" + bytes(500)),
    "a PNG signature alone": write(SIGNATURE),
    **{f"cut to {100 * share:g} %": cut(share) for share in (0.005, 0.1, 0.5, 0.9, 0.99)},
    "a damaged header": zeros_at(0, 30),
    "a damaged middle": zeros_at(0.5, 300),
    "no pixels": png(SIZE[1], SIZE[0], b""),
    "too few pixels": png(SIZE[1], SIZE[0], bytes(300)),
    "no width": png(0, SIZE[0], bytes(1000)),
    "sides of 60000": png(60000, 60000, bytes(1000)),
    "sides of 4 thousand million": png(2**32 - 1, 2**32 - 1, bytes(1000)),
    "an impossible depth": png(SIZE[1], SIZE[0], bytes(5000), bits=7),
    "a text that unpacks to gigabytes": png(SIZE[1], SIZE[0], bytes(1000), text=bytes(2**27)),
    "a float TIFF": saved_image(np.zeros(SIZE, np.float32), "TIFF"),
    **{f"a {form} cut short": saved_image(RGB, form, 0.5) for form in ("JPEG", "WEBP", "TIFF")},
    "a PostScript program": write("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 96 48\n(executed) (w) file\n"),
    "a named pipe": pipe,
    "a link to nothing": link("nowhere.png"),
    "a link to an endless device": link("/dev/zero"),
}
UNUSUAL_IMAGES: dict[str, Spoil] = {
    "grey": saved_image(grey(7)),
    "one bit": saved_image(grey(1).astype(bool)),
    "with alpha": saved_image(np.zeros((*SIZE, 4), np.uint8)),
    "a JPEG under another name": saved_image(RGB, "JPEG"),
}
LABELS: dict[str, Spoil] = {
    "one row more": saved_image(grey(7, height=SIZE[0] + 1)),
    "one column less": saved_image(grey(7, width=SIZE[1] - 1)),
    "half as large": saved_image(grey(7, SIZE[0] // 2, SIZE[1] // 2)),
    "in colours": saved_image(RGB),
    "in colours with alpha": saved_image(np.zeros((*SIZE, 4), np.uint8)),
    "a colour JPEG": saved_image(RGB, "JPEG"),
    "an id of no class": saved_image(grey(77)),
    "a 16-bit id of no class": saved_image(grey(700, kind=np.uint16)),
    "a negative id": saved_image(grey(-1, kind=np.int32), "TIFF"),
    "an id beyond 16 bits": saved_image(grey(70000, kind=np.int32), "TIFF"),
    "missing": Path.unlink,
}

# YAML

YAML_CODE = {
    "apply": f"!!python/object/apply:os.system ['touch {PROOF}']",
    "new": f"!!python/object/new:os.system ['touch {PROOF}']",
    "name": "!!python/name:os.system",
    "module": "!!python/module:os",
}


def laughs(depth: int = 30) -> str:
    """Lists of lists by reference: small as YAML, 10^30 words when written out."""
    lines = ["a0: &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha, ha]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, depth)]
    return "\n".join(lines) + "\n"


def merges(depth: int = 30) -> str:
    """Mappings that merge one another: 10^30 keys while they are read."""
    lines = ["m0: &m0 {k: v}"]
    lines += [f"m{n}: &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 10)}]}}" for n in range(1, depth)]
    return "\n".join(lines) + "\n"


def append(text: str) -> Spoil:
    return lambda path: path.write_text(path.read_text() + text)


def edited(change: Callable[[dict], object], load: Callable, dump: Callable) -> Spoil:
    """A file of a mapping with a change made to it."""

    def spoil(path: Path) -> None:
        content = load(path)
        change(content)
        dump(content, path)

    return spoil


def yaml_edited(change: Callable[[dict], object]) -> Spoil:
    return edited(
        *(change, lambda path: yaml.safe_load(path.read_text())),
        lambda content, path: path.write_text(yaml.safe_dump(content)),
    )


def yaml_value(key: str, text: str, before: str = "") -> Spoil:
    """One key with a value as YAML text."""

    def spoil(path: Path) -> None:
        content = yaml.safe_load(path.read_text())
        content.pop(key, None)
        path.write_text(f"{before}{yaml.safe_dump(content)}{key}: {text}\n")

    return spoil


YAML: dict[str, Spoil] = {
    **NO_FILES,
    "a list": write("- num_classes\n- 19\n"),
    "a number": write("19"),
    "UTF-16": write("num_classes: 19\n".encode("utf-16")),
    "JSON cut short": write('{"num_classes": 19, "use_se"'),
    "an unclosed bracket": append("extra: [1, 2\n"),
    "an unknown tag": append("extra: !nobody {a: 1}\n"),
    "an unknown reference": append("extra: *nobody\n"),
    "two documents": append("---\nnum_classes: 19\n"),
    "lists within lists": write("[" * 20000 + "]" * 20000),
    "a key that is a list": append("? [a, b]\n: 1\n"),
    "a date that is none": append("extra: 2020-13-45\n"),
    "a number of many digits": append(f"extra: {'9' * 100_000}\n"),
    "a tag whose value does not fit": append("extra: !!timestamp nonsense\n"),
    "an endless file": link("/dev/zero"),
    "lists that refer to lists": append(laughs()),
    "mappings that merge without end": write(merges()),
    **{f"code: {what}": append(f"extra: {tag}\n") for what, tag in YAML_CODE.items()},
}

# Checkpoints


def saved(content: object, **options) -> bytes:
    """What torch.save writes."""
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


def code_in_archive(path: Path) -> None:
    """The archive that torch.save wrote, with a pickle that runs code."""
    with zipfile.ZipFile(path) as archive:
        files = {entry: archive.read(entry) for entry in archive.namelist()}
    (name,) = [entry for entry in files if entry.endswith("data.pkl")]
    path.write_bytes(zipped(files | {name: pickle.dumps(Code(), 2)}))


def tensors_edited(change: Callable[[dict], object], **options) -> Spoil:
    return edited(
        *(change, lambda path: torch.load(path, weights_only=True)),
        lambda content, path: path.write_bytes(saved(content, **options)),
    )


NO_CHECKPOINTS: dict[str, Spoil] = {
    **NO_FILES,
    **{f"cut to {100 * share:g} %": cut(share) for share in (0.0001, 0.5, 0.99999)},
    "a pickle": write(pickle.dumps({"a": [1, 2]})),
    **{f"code in a pickle of protocol {n}": write(pickle.dumps(Code(), n)) for n in (0, 2, 5)},
    "code as the archive's pickle": code_in_archive,
    "an archive of something else": write(zipped({"a.txt": b"b"})),
    "an archive with a name that climbs out": write(zipped({f"../../{PROOF}": b"b"})),
    "a list of tensors": write(saved([torch.zeros(2)])),
    "a tensor": write(saved(torch.zeros(2))),
    "no tensors": write(saved({})),
    "numbers": write(saved({"epoch": 3})),
}
BACKBONE, HEAD = "layer3.1.conv1.weight", "layer6.head.1.weight"


def one_tensor(key: str, make: Callable[[torch.Tensor], object]) -> Spoil:
    return tensors_edited(lambda state: state.update({key: make(state[key])}))


CHECKPOINTS: dict[str, Spoil] = {
    **NO_CHECKPOINTS,
    "code beside the tensors": tensors_edited(lambda state: state.update(code=Code())),
    "code in place of a tensor": one_tensor(HEAD, lambda _: Code()),
    "text in place of a tensor": one_tensor(BACKBONE, lambda _: "weights"),
    "a key that is a number": tensors_edited(lambda state: state.update({7: torch.zeros(1)})),
    "a key with control codes": tensors_edited(lambda state: state.update({"a\x1b[2J\nb": torch.zeros(1)})),
    "a tensor less": tensors_edited(lambda state: state.pop(BACKBONE)),
    "a tensor more": tensors_edited(lambda state: state.update({"layer9.weight": torch.zeros(1)})),
    "another shape": one_tensor(BACKBONE, lambda tensor: tensor[:1]),
    "a tensor that claims a terabyte": one_tensor(BACKBONE, lambda _: torch.zeros(1).expand(2**40)),
    "other classes": one_tensor(HEAD, lambda tensor: tensor[:16]),
    "no classes": one_tensor(HEAD, lambda tensor: tensor[:0]),
    "a discriminator": write(saved({"cnns.0.0.conv.weight": torch.zeros(3)})),
    "nan": one_tensor(BACKBONE, lambda tensor: tensor.fill_(float("nan"))),
    "infinite": one_tensor(HEAD, lambda tensor: tensor.fill_(float("inf"))),
}
UNUSUAL_CHECKPOINTS: dict[str, Spoil] = {
    "the format of old versions": tensors_edited(lambda _: None, _use_new_zipfile_serialization=False),
    "a checkpoint of DataParallel": tensors_edited(
        lambda state: [state.update({f"module.{key}": state.pop(key)}) for key in list(state)]
    ),
    "half precision": tensors_edited(
        lambda state: state.update({k: v.half() for k, v in state.items() if v.is_floating_point()})
    ),
}
