"""Downloading weights into torch's cache, checked against the hash that the URL or the file's name gives.

    https://example.org/GTA5_25000.pth#sha256=<64 hexadecimal digits>    the hash, as pip writes it
    https://example.org/resnet101-63fe2227.pth                           its first digits, as torch.hub has it

Without any hash a line says so, with the one that the file has, so that the next run can be held to it. A
file that does not fit its hash is refused, also one that was in the cache; of a download nothing is left.
"""

import hashlib
import logging
import os
import re
import sys
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import torch

FRAGMENT = re.compile(r"sha256=([0-9a-f]{64})", re.IGNORECASE)
HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.")
UNSAFE = re.compile(r"[^A-Za-z0-9._-]")
MAX_NAME = 100  # characters of a URL's file name that are kept
BLOCK = 2**20  # bytes
log = logging.getLogger(__name__)


class WeightsError(Exception):
    """Weights that cannot be used; one line that names the file and says what to do."""


def download(url: str) -> Path:
    """The file of a URL in torch's cache, downloaded if it is not there.

    Raises:
        WeightsError: it cannot be had, or is not the file that its hash belongs to.
    """
    address, fragment = urldefrag(url)
    given = FRAGMENT.fullmatch(fragment)
    if fragment and not given:
        raise WeightsError(
            f"--restore-from {url}: no hash; write #sha256= and 64 hexadecimal digits behind it"
        )
    path = cached_file(address)
    wanted = given[1].lower() if given else _hash_in(path.name)
    if path.is_file():
        found = sha256(path)
        if not found.startswith(wanted):
            raise WeightsError(
                f"{path}: has the sha256 {found}, not {wanted}; remove it to download it again"
            )
    else:
        found = _fetch(address, path, wanted)
    if not wanted:
        log.warning("Unverified: nobody said what %s must hold. To pin it: #sha256=%s", address, found)
    return path


def _fetch(address: str, path: Path, wanted: str) -> str:
    """Download to `path` if the file's hash begins with `wanted`; its hash."""
    log.info("Downloading %s", address)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(address, str(aside), progress=sys.stderr.isatty())
        found = sha256(aside)
        if found.startswith(wanted):
            aside.replace(path)
            return found
    except Exception as error:  # networks fail in any way
        raise WeightsError(
            f"--restore-from: cannot download {address} ({error}); fetch it where there is a network and "
            f"pass the file as --restore-from, or put it there as {path}"
        ) from error
    finally:
        aside.unlink(missing_ok=True)
    raise WeightsError(
        f"--restore-from {address}: what came has the sha256 {found}, not {wanted}, and was not kept; ask "
        "where you have the hash from (#sha256=… behind the URL overrules one in the name)"
    )


def cached_file(address: str) -> Path:
    """Where a URL's file lies: by its name if there is a hash in it, else with one of the URL before it."""
    name = UNSAFE.sub("_", Path(unquote(urlsplit(address).path)).name)[-MAX_NAME:]
    if not _hash_in(name):
        name = f"{hashlib.sha256(address.encode()).hexdigest()[:16]}_{name}"
    return Path(torch.hub.get_dir()) / "checkpoints" / name


def _hash_in(name: str) -> str:
    """The first digits of the hash that a file's name gives, or nothing; a date is none."""
    found = HASH_IN_NAME.search(name)
    return found[1] if found and not found[1].isdecimal() else ""


def sha256(path: Path) -> str:
    """A file's SHA-256 in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
