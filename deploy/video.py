"""Videos frame by frame, by PyAV, which is only needed where there are any (requirements-video.txt)."""

from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from utils.atomic import atomic_write
from utils.errors import UserError

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm")
CODEC = "libx264"  # with yuv420p every player shows it; both need even sides
QUALITY = {"crf": "20", "preset": "medium"}
DEFAULT_RATE = Fraction(25)  # frames a second where a file does not say


class Frame(NamedTuple):
    """RGB, and when it is shown: a number of `time_base`s, None where the file does not say."""

    picture: Image.Image
    pts: int | None
    time_base: Fraction | None


def check_video(path: Path) -> None:
    """Look for pictures in a video without decoding more than the first.

    Raises:
        UserError: there are none, or PyAV is missing.
    """
    with _opened(path) as container:
        if next(_frames(path, container), None) is None:
            raise UserError(f"{path}: a video without pictures")


def convert_video(source: Path, target: Path, convert: Callable[[Image.Image], Image.Image]) -> int:
    """Write `target` (MP4, no sound) with every frame converted, at the times of the source's; their number.

    Args:
        convert: the sides of its results must be even and the same for all frames.

    Raises:
        UserError: the source is damaged, or the target cannot be written; then `target` is as before.
    """
    count = 0

    def write(aside: Path) -> None:
        nonlocal count
        count = _write(aside, source, convert)

    atomic_write(target, write)
    return count


def _write(target: Path, source: Path, convert: Callable[[Image.Image], Image.Image]) -> int:
    av = _library()
    count = 0
    with _opened(source) as container:
        video = container.streams.video[0]
        frames = tqdm(_frames(source, container), total=video.frames or None, unit="frame", disable=None)
        rate = video.average_rate or DEFAULT_RATE
        try:
            with av.open(str(target), "w", format="mp4") as written:
                stream = written.add_stream(CODEC, rate=rate, options=QUALITY)
                stream.pix_fmt = "yuv420p"
                for count, (picture, pts, time_base) in enumerate(frames, start=1):
                    result = convert(picture)
                    if count == 1:
                        stream.width, stream.height = result.size
                        stream.codec_context.time_base = time_base or 1 / rate
                    frame = av.VideoFrame.from_ndarray(np.asarray(result), format="rgb24")
                    if pts is not None and time_base is not None:
                        frame.pts, frame.time_base = pts, time_base
                    written.mux(stream.encode(frame))
                written.mux(stream.encode())
        except av.error.FFmpegError as error:  # of writing: reading has errors of its own
            raise OSError(error.strerror or str(error)) from error
    return count


def _frames(path: Path, container) -> Iterator[Frame]:
    """All of one size, upright where a phone noted how it was held."""
    av = _library()
    video = container.streams.video[0]
    video.thread_type = "AUTO"
    try:
        size = dict(width=video.width, height=video.height)
        for frame in container.decode(video):
            pixels = np.rot90(frame.to_ndarray(format="rgb24", **size), frame.rotation // 90)
            yield Frame(Image.fromarray(np.ascontiguousarray(pixels)), frame.pts, frame.time_base)
    except av.error.FFmpegError as error:
        raise _unreadable(path, error) from error


def _opened(path: Path):
    """PyAV's container, to be closed by a `with` block, with at least one stream of pictures."""
    av = _library()
    try:
        container = av.open(str(path))
    except av.error.FFmpegError as error:
        raise _unreadable(path, error) from error
    if not container.streams.video:
        container.close()
        raise UserError(f"{path}: a file without pictures")
    return container


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: not a readable video ({getattr(error, 'strerror', None) or error})")


def _library() -> ModuleType:
    try:
        import av
    except ImportError as error:
        raise UserError(
            "videos need PyAV: pip install -r requirements-video.txt (pictures do not need it)"
        ) from error
    return av
