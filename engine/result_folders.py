"""Folders of predictions: which may be written to, who is filling one, and whether it is finished.

`unfinished.yaml` stands in a folder from the first file of a run to its last. Each label map notes the
settings it was made with and the image it is of, so that a start of the same settings passes over it, and
labels of two networks in one folder are noticed.
"""

import hashlib
import json
import logging
import os
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from dataset import DataError, SegmentationDataset
from dataset.base import CHECKING_THREADS, prediction_name
from dataset.own import SPLIT_FOLDERS
from dataset.png import read_note
from engine.snapshots import RECORD_FILE, read_entries, record_result, used_flags, write_entries
from utils.atomic import lock_folder, resolve_path
from utils.distributed import Processes
from utils.errors import UserError

UNFINISHED_FILE = "unfinished.yaml"
# Flags that say where and how fast, but not what is predicted for an image.
NOT_SETTINGS = (
    *("save", "data_dir", "data_list", "set", "source", "target", "restore_from", "predictions"),
    *("batchsize", "num_workers", "gpu_ids", "cpu", "report", "report_images"),
)
log = logging.getLogger(__name__)


def check_apart(flag: str, folder: Path, data: SegmentationDataset, labels: bool = True) -> None:
    """Refuse an output folder among the images of `data`, where scans would find its pictures, or labels.

    Those of other splits count too. Folders are compared as files, however they are spelled or linked.

    Raises:
        UserError: it is one of them or inside one.
    """
    inside = getattr(data, "folders", None) or {".": _label_folder(data)}
    places = [("images", data.image_folder / name) for name in inside]
    places += [("labels", place) for place in inside.values() if place and labels]
    path = resolve_path(folder)
    above = [up for up in (path, *path.parents) if up.is_dir()]
    for kind, place in places:
        others = [place.with_name(split) for split in SPLIT_FOLDERS] if place.name == data.split else []
        for taken in filter(os.path.isdir, [place, *others]):
            if any(up.samefile(taken) for up in above):
                raise UserError(f"{flag} {folder}: lies where the {kind} are ({taken}); choose another")


def _label_folder(data: SegmentationDataset) -> Path | None:
    """The folder that the names of the labels are relative to; None without labels."""
    name = str(data.names[0])
    label = data.own_label_path(name)
    return label.parents[len(Path(name).parts) - 1] if label else None


def check_replaceable(folder: Path, outputs: Sequence[str]) -> None:
    """Refuse to replace files in a folder without a record, which this program did not write.

    Raises:
        UserError: one of the `outputs`, relative to the folder, is there.
    """
    if not folder.is_dir() or any((folder / name).is_file() for name in (RECORD_FILE, UNFINISHED_FILE)):
        return
    if there := next((name for name in outputs if os.path.lexists(folder / name)), None):
        why = f"is there already, and no {RECORD_FILE} shows that it is a prediction"
        raise UserError(f"--save: {folder / there} {why}; choose another folder, or move it away")


def is_unfinished(folder: Path) -> bool:
    """Whether a folder of predictions is being filled, or was not filled to its end."""
    return (folder / UNFINISHED_FILE).is_file()


def refuse_unfinished(folder: Path, maps: bool = False) -> None:
    """Refuse a folder that was not filled to its end; with `maps` only if its maps are those of a network.

    Raises:
        UserError: it was not.
    """
    if not is_unfinished(folder):
        return
    entries = read_entries(folder / UNFINISHED_FILE)
    flags = entries[-1].get("flags") if entries else None
    snapshot = flags.get("restore_from") if isinstance(flags, dict) else None
    if snapshot or not maps:
        maker = f", half made with {snapshot}" if snapshot else ""
        raise UserError(f"{folder}: is unfinished{maker}; let the command in {UNFINISHED_FILE} end")


class FilledFolder:
    """A folder that one command at a time fills with predictions of `data`.

    Args:
        folder: of the predictions.
        args: the command's flags.
        data: the images.
        again: what the same command does after an error.
    """

    def __init__(
        self, folder: Path, args: Namespace, data: SegmentationDataset, processes: Processes, again: str
    ):
        self.folder, self.args, self.data, self.processes = folder, args, data, processes
        self.names, self.again = data.names.tolist(), again
        self.snapshot_hash = None
        if args.restore_from:
            self.snapshot_hash = hashlib.sha256(Path(args.restore_from).read_bytes()).hexdigest()
        self.settings = self._settings()

    @contextmanager
    def filling(self) -> Iterator[None]:
        """Lock the folder, and mark it as unfinished until the block ends; then add the run to `run.yaml`.

        Raises:
            UserError: another command is filling it.
            UserError, DataError: of the block, with how many images are done.
        """
        if not self.processes.is_main:
            self.processes.broadcast(None)  # wait for the mark
            yield
            return
        mark = self.folder / UNFINISHED_FILE
        with lock_folder(self.folder, "--save"):
            before = mark.is_file()
            maker = {"settings": self.settings, "snapshot": self.snapshot_hash}
            write_entries(mark, [{"flags": used_flags(self.args)} | maker])
            self.processes.broadcast(None)
            try:
                yield
            except BaseException as error:
                done = len(self.done())
                if not (done or before):  # nothing was written
                    mark.unlink()
                if isinstance(error, UserError | DataError):
                    counts = f"{done} of {len(self.names)} images are done; {self.again}"
                    raise type(error)(f"{error} ({counts})") from error
                raise
            record_result(self.folder, self.args, **maker)
            mark.unlink()

    def note(self, name: str) -> str:
        """What the label map of an image notes: the settings, and which file the image is."""
        image = os.stat(self.data.image_path(name))
        return f"{self.settings} {image.st_size} {image.st_mtime_ns}"

    def done(self) -> list[str]:
        """The images whose label map was made with these settings from the file that the image is now."""

        def is_done(name: str) -> bool:
            note = read_note(self.folder / prediction_name(name))
            return note is not None and note == self.note(name)

        with ThreadPoolExecutor(CHECKING_THREADS) as pool:
            there = pool.map(is_done, self.names)
            return [name for name, done in zip(self.names, there, strict=True) if done]

    def _settings(self) -> str:
        """A hash of all that decides what is predicted for an image."""
        flags = {name: v for name, v in used_flags(self.args).items() if name not in NOT_SETTINGS}
        # Class-balanced thresholds depend on all images.
        names = self.names if flags.get("portion") else []
        content = json.dumps([flags, self.snapshot_hash, names], sort_keys=True)
        return hashlib.sha256(content.encode(errors="surrogateescape")).hexdigest()[:16]


def check_pseudo_labels(data: SegmentationDataset) -> None:
    """Log who made the pseudo labels of `data`.

    Raises:
        UserError: the folder holds labels of several makers.
    """
    folder = data.pseudo_folder
    names, makers = data.names.tolist(), label_makers(data)
    entries = {str(entry.get("settings", "")): entry for entry in read_entries(folder / RECORD_FILE)}
    usual, labels = Counter(makers).most_common(1)[0]
    if labels < len(names) and entries:
        other = next(name for name, maker in zip(names, makers, strict=True) if maker != usual)
        raise UserError(
            f"{folder}: mixed, {len(names) - labels} of {len(names)} labels such as {other} are not "
            f"{_maker(entries.get(usual))}; make all anew, or remove {RECORD_FILE} to take them as they are"
        )
    log.info("Pseudo labels: %s (%s)", _maker(entries.get(usual)), folder)


def label_makers(data: SegmentationDataset) -> list[str]:
    """The settings that each pseudo label of `data` notes; empty for a label by another program."""
    with ThreadPoolExecutor(CHECKING_THREADS) as pool:
        notes = pool.map(lambda name: read_note(data.label_path(name)), data.names)
        return [(note or "").partition(" ")[0] for note in notes]


def _maker(entry: dict | None) -> str:
    """Whose labels an entry of run.yaml records."""
    flags = entry.get("flags") if entry else None
    if not isinstance(flags, dict):
        return "of unknown origin, without a record of this program"
    shown = [f"of {flags.get('restore_from')}"]
    if snapshot := entry.get("snapshot"):
        shown.append(f"SHA-256 {str(snapshot)[:12]}…")
    shown += [f"{name} {flags[name]}" for name in ("threshold", "portion", "weights") if flags.get(name)]
    return ", ".join([*shown, f"made {entry.get('finished')}"])


def hash_of_data(data: SegmentationDataset) -> str:
    """A hash of the names of the images in their order, and of which pseudo labels they have if any."""
    names, labels = data.names.tolist(), []
    if data.pseudo_folder:
        labels = [label_makers(data), [os.path.getsize(data.label_path(name)) for name in names]]
    return hashlib.sha256(json.dumps([names, labels]).encode()).hexdigest()
