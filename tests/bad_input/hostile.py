"""Attacks that files carry: each would leave a file named `executed` in the current folder."""

import io
import os
import pickle
import warnings
import zipfile
from pathlib import Path

import torch

PROOF = "executed"
COMMAND = f"touch {PROOF}"
# Tags that an unsafe YAML loader executes.
YAML_CODE = {
    "apply": f"!!python/object/apply:os.system ['{COMMAND}']",
    "new": f"!!python/object/new:os.system ['{COMMAND}']",
    "subprocess": f"!!python/object/apply:subprocess.call [[touch, {PROOF}]]",
    "name": "!!python/name:os.system",
    "module": "!!python/module:os",
    "object": "!!python/object:os.system {}",
    "constructor": f"!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [{PROOF}]]",
}


class Code:
    """Unpickling it runs a command."""

    def __reduce__(self):
        return os.system, (COMMAND,)


def yaml_laughs(depth: int = 30) -> str:
    """Lists of lists by reference: small as YAML, 10^30 words when written out."""
    lines = ["a0: &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha, ha]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, depth)]
    return "\n".join(lines) + "\n"


def yaml_merges(depth: int = 30) -> str:
    """Mappings that merge one another: 10^30 keys while they are read."""
    lines = ["m0: &m0 {k: v}"]
    lines += [f"m{n}: &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 10)}]}}" for n in range(1, depth)]
    return "\n".join(lines) + "\n"


def pickled(content: object, protocol: int = 2) -> bytes:
    """A bare pickle."""
    return pickle.dumps(content, protocol)


def saved(content: object, **options) -> bytes:
    """What torch.save writes."""
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    """A ZIP archive."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


def rewritten(snapshot: Path, name: str, content: bytes) -> bytes:
    """A snapshot whose archive holds something else under one name."""
    with zipfile.ZipFile(snapshot) as archive:
        files = {entry: archive.read(entry) for entry in archive.namelist()}
    (found,) = [entry for entry in files if entry.endswith(name)]
    return zipped(files | {found: content})


def scripted() -> bytes:
    """A TorchScript archive."""
    file = io.BytesIO()
    with warnings.catch_warnings():  # it is on its way out of torch, but files of it exist
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), file)
    return file.getvalue()
