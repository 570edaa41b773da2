"""Which domains a snapshot was trained for, from what lies in its folder.

Training writes source, target and classes into `opts.yaml`. The published folders tell less: the number of
classes, the data folders, and `SYNTHIA` or `SY` in the names of folders and snapshots.
"""

import re
from dataclasses import replace
from pathlib import Path

from dataset import Adaptation, DataError, adapt, find_domain
from dataset.domains import BUILT_IN, Domain
from dataset.labels import Colors
from dataset.robotcar import ROBOTCAR_COLORS
from utils.atomic import resolve_path
from utils.errors import UserError

SYNTHIA_DATA = re.compile("synthia", re.IGNORECASE)  # in the names of data folders, lists and snapshots
SYNTHIA_FOLDER = re.compile("(?<![A-Za-z])SY(?![A-Za-z])|(?i:synthia)")  # of snapshots; sy may be a user
DATA_OPTIONS = ("data_dir", "data_list")


def recognise(
    snapshot: Path, options: dict, source: str | None, target: str | None, images: bool = True
) -> Adaptation:
    """The adaptation that a snapshot belongs to; `source` and `target` overrule what its folder says.

    Args:
        options: all that `opts.yaml` beside the snapshot holds.
        images: the target's images will be asked for; if not, its description may be gone.

    Raises:
        UserError: a description that the training used is gone, or the classes do not fit the network.
    """
    guessed = _published(snapshot, options)
    own = _own_classes(snapshot, options)
    # Published files hold `target: cityscapes` whatever the target was; those with classes are ours.
    written_target = options.get("target") if own else guessed[1]
    source_domain = _domain(source, options.get("source"), guessed[0], own, "--source")
    target_domain = _domain(target, written_target, guessed[1], None if images else own, "--target")
    pair = adapt(source_domain, target_domain)
    if own and source is None:
        pair = replace(pair, colors=own)
    # Only a network whose own training wrote its classes down may have more outputs than classes.
    few, outputs = len(pair.colors), options["num_classes"]
    if few > outputs or (own is None and few != outputs):
        raise UserError(
            f"--source {source_domain.name} --target {target_domain.name}: have {len(pair.colors)} classes, "
            f"{snapshot} has {options['num_classes']}; name the domains it was trained with"
        )
    return pair


def _published(snapshot: Path, options: dict) -> tuple[str, str]:
    """Source and target of a folder that the published code wrote.

    Nine classes are RobotCar's. SYNTHIA shows in the names of the training's data and, in Stage II, whose
    data are the target's, in the name of the folder or of the one that Stage I wrote.
    """
    if options["num_classes"] == len(ROBOTCAR_COLORS):
        return "cityscapes", "robotcar"
    written = {name: Path(v) for name, v in options.items() if isinstance(v, str)}
    data = [written[name].parts[-3:] for name in DATA_OPTIONS if name in written]
    told = any(SYNTHIA_DATA.search(part) for parts in data for part in parts)
    folders = [*written.get("restore_from", Path()).parts[-2:]]
    folders += [written.get("snapshot_dir", Path()).name, *resolve_path(snapshot).parts[-2:]]
    told = told or any(map(SYNTHIA_FOLDER.search, folders))
    return ("synthia" if told else "gta5"), "cityscapes"


def _own_classes(snapshot: Path, options: dict) -> Colors | None:
    """The classes written beside the snapshot, if they were."""
    classes = options.get("classes")
    if classes is None:
        return None
    valid = isinstance(classes, dict) and all(
        isinstance(name, str)
        and isinstance(color, list)
        and len(color) == 3
        and all(type(c) is int and 0 <= c <= 255 for c in color)
        for name, color in classes.items()
    )
    if not valid or not classes:
        raise UserError(
            f"{snapshot.parent / 'opts.yaml'}: classes must be names with [red, green, blue]; copy it again"
        )
    return {name: tuple(color) for name, color in classes.items()}


def _domain(flag: str | None, written: object, guessed: str, own: Colors | None, name: str) -> Domain:
    """The domain of the flag, else the one written down, else the guessed one."""
    if flag:
        return find_domain(flag)
    if not isinstance(written, str):
        return BUILT_IN[guessed]
    if written in BUILT_IN:
        return BUILT_IN[written]
    try:
        return find_domain(written)
    except DataError:
        if own is None:
            raise UserError(
                f"{name}: the snapshot was trained with {written}, which is not here; give {name}"
            ) from None
        return Domain(written, Path(written).stem, Path("."), own, {}, (), _no_images)


def _no_images(**_):
    raise DataError("--source: the description that the snapshot was trained with is gone; give --source")
