"""What a user wants segmented: pictures, folders of them and videos, and where each result goes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dataset.images import PICTURE_SUFFIXES, DataError, check_picture_mode, read_header, scan
from deploy.video import VIDEO_SUFFIXES, check_video
from utils.atomic import resolve_path
from utils.errors import UserError

PICTURE_OUTPUTS = (".png", "_overlay.png", "_uncertainty.png")
VIDEO_OUTPUTS = ("_overlay.mp4",)


@dataclass(frozen=True)
class Input:
    """A picture or video, and `stem`: what the names of its results begin with."""

    path: Path
    stem: Path

    @property
    def is_video(self) -> bool:
        """By its name."""
        return self.path.name.lower().endswith(VIDEO_SUFFIXES)

    def output(self, suffix: str) -> Path:
        """The file of one result."""
        return self.stem.with_name(self.stem.name + suffix)

    @property
    def outputs(self) -> list[Path]:
        """All files that will be written."""
        return [self.output(suffix) for suffix in (VIDEO_OUTPUTS if self.is_video else PICTURE_OUTPUTS)]


def find_inputs(named: Sequence[Path], folder: Path) -> list[Input]:
    """The pictures and videos that were named, with results in `folder`, whose layout is theirs.

    Every file's header is opened, so that a bad one is found before the first result is written.

    Raises:
        UserError: a file is missing or unreadable, two would have results of one name, or a result would
            take the place of an input.
    """
    inputs = [one for path in named for one in _inputs_of(path, folder)]
    _check_outputs(inputs, folder)
    for one in inputs:
        if one.is_video:
            check_video(one.path)
        else:
            check_picture_mode(one.path, read_header(one.path)[1])
    return inputs


def _inputs_of(path: Path, folder: Path) -> list[Input]:
    try:
        if path.is_file():
            return [Input(path, folder / path.stem)]
        if not path.is_dir():
            raise UserError(f"{path}: no such file; name a picture, a folder of pictures or a video")
        path, results = resolve_path(path), resolve_path(folder)
        # Results of an earlier run, in a folder below, are no inputs.
        names = scan(path, (*PICTURE_SUFFIXES, *VIDEO_SUFFIXES), excluded_folders=[results])
    except DataError:
        raise UserError(f"{path}: no picture or video in this folder; name another one") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    return [Input(path / name, folder / Path(name).with_suffix("")) for name in names]


def _check_outputs(inputs: Sequence[Input], folder: Path) -> None:
    """No two inputs with a result of one name, no result in the place of an input."""
    sources = {resolve_path(one.path) for one in inputs}
    owner: dict[Path, Input] = {}
    for one in inputs:
        for output in one.outputs:
            if output in owner:
                raise UserError(
                    f"{owner[output].path} and {one.path}: both would be written as {output}; rename one, or "
                    "segment them one after the other with another --save"
                )
            if resolve_path(output) in sources:
                raise UserError(f"--save {folder}: {output} would overwrite an input; name another folder")
            owner[output] = one
