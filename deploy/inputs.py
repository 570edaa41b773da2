"""The images and videos to segment, and where their results go."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dataset.images import PICTURE_SUFFIXES, check_image, scan
from dataset.png import read_note
from deploy.video import VIDEO_SUFFIXES, check_video
from utils.atomic import resolve_path
from utils.errors import UserError

IMAGE_OUTPUTS = (".png", "_overlay.png", "_uncertainty.png")
VIDEO_OUTPUTS = ("_overlay.mp4",)


class Input(NamedTuple):
    """An image or video, and the files to write for it."""

    path: Path
    is_video: bool
    outputs: list[Path]


def find_inputs(paths: Sequence[Path], folder: Path, only_labels: bool = False) -> list[Input]:
    """The images and videos among `paths`, with results in `folder`; folders are searched recursively.

    Opens every header, so that an unreadable file is reported before the first result is written.
    With `only_labels` an image has only one output, its label, and a video is refused.

    Raises:
        UserError, DataError: a file is missing or unreadable, two inputs would have the same output, or an
            output would overwrite an input or another's file.
    """
    inputs = [item for path in paths for item in _expand(path, folder)]
    if only_labels:
        inputs = [item._replace(outputs=item.outputs[:1]) for item in inputs]
        if video := next((item.path for item in inputs if item.is_video), None):
            raise UserError(f"{video}: --label-ids writes labels of images; leave videos out")
    _check_outputs(inputs, folder)
    for item in inputs:
        if item.is_video:
            check_video(item.path)
        else:
            check_image(item.path)
    return inputs


def _expand(path: Path, folder: Path) -> list[Input]:
    if path.is_file():
        return [_input(path, folder / path.stem)]
    if not path.is_dir():
        raise UserError(f"{path}: no such file; name an image, a folder of images or a video")
    path = resolve_path(path)
    # Skip the results if their folder is inside this one.
    names = scan(path, (*PICTURE_SUFFIXES, *VIDEO_SUFFIXES), excluded_folders=[resolve_path(folder)])
    return [_input(path / name, folder / Path(name).with_suffix("")) for name in names]


def _input(path: Path, stem: Path) -> Input:
    """An input whose outputs are `stem` and their endings."""
    is_video = path.name.lower().endswith(VIDEO_SUFFIXES)
    endings = VIDEO_OUTPUTS if is_video else IMAGE_OUTPUTS
    return Input(path, is_video, [stem.with_name(stem.name + ending) for ending in endings])


def _check_outputs(inputs: Sequence[Input], folder: Path) -> None:
    sources = {resolve_path(item.path) for item in inputs}
    writers: dict[Path, Path] = {}
    for item in inputs:
        for output in item.outputs:
            if output in writers:
                both = f"{writers[output]} and {item.path}"
                raise UserError(f"{both} would both be {output}; rename one, or give each its own --save")
            if resolve_path(output) in sources:
                raise UserError(f"--save {folder}: {output} would overwrite an input; choose another folder")
            writers[output] = item.path
        label = item.outputs[0]
        if not item.is_video and os.path.lexists(label) and read_note(label) is None:
            raise UserError(f"--save {folder}: {label} is no prediction; choose another folder")
