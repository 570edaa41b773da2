"""Videos frame by frame with PyAV, an optional dependency (requirements-video.txt)."""

from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image
from tqdm import tqdm

from utils.atomic import atomic_write
from utils.errors import UserError

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm")
CODEC = "libx264"  # with yuv420p every player shows it
QUALITY = {"crf": "20", "preset": "medium"}
DEFAULT_DURATION = Fraction(1, 25)  # seconds per frame if the file gives none


def check_video(path: Path) -> None:
    """Decode the first frame.

    Raises:
        UserError: the file is not a video, has no frames, or PyAV is missing.
    """
    if next(_read(path), None) is None:
        raise UserError(f"{path}: this video has no frames")


def convert_video(source: Path, target: Path, convert: Callable[[Image.Image], Image.Image]) -> None:
    """Apply `convert` to every frame and write an MP4 without sound; frames keep their timestamps.

    Args:
        convert: must return images of one size with even sides.

    Raises:
        UserError: the source is damaged or the target cannot be written; the target is then as before.
    """
    atomic_write(target, lambda tmp: _encode(tmp, _read(source, progress=True), convert))


def _encode(path: Path, frames: Iterable[tuple], convert: Callable[[Image.Image], Image.Image]) -> None:
    av = _load_av()
    try:
        with av.open(str(path), "w", format="mp4") as container:
            stream = container.add_stream(CODEC, options=QUALITY)
            stream.pix_fmt = "yuv420p"
            for count, (image, frame) in enumerate(frames, start=1):
                result = av.VideoFrame.from_ndarray(np.asarray(convert(image)), format="rgb24")
                if count == 1:
                    tick = stream.codec_context.time_base = frame.time_base
                    duration = frame.duration or round(DEFAULT_DURATION / tick)
                    stream.codec_context.framerate = 1 / (duration * tick)
                    stream.width, stream.height = result.width, result.height
                result.time_base = tick
                result.pts = (count - 1) * duration if frame.pts is None else frame.pts
                container.mux(stream.encode(result))
            container.mux(stream.encode())
    except av.error.FFmpegError as error:  # while writing: `_read` reports errors of the source
        raise OSError(error.strerror or str(error)) from error


def _read(path: Path, progress: bool = False) -> Iterator[tuple]:
    """Each frame as an image, rotated as the file asks, and as PyAV's frame."""
    av = _load_av()
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise UserError(f"{path}: this file has no video stream")
            video = container.streams.video[0]
            video.thread_type = "AUTO"
            size = {"width": video.width, "height": video.height}  # frames of a file may differ in size
            frames = container.decode(video)
            if progress:
                frames = tqdm(frames, total=video.frames or None, unit="frame", disable=None)
            for frame in frames:
                pixels = np.rot90(frame.to_ndarray(format="rgb24", **size), frame.rotation // 90)
                yield Image.fromarray(np.ascontiguousarray(pixels)), frame
    except av.error.FFmpegError as error:
        raise UserError(f"{path}: not a readable video ({error.strerror or error})") from error


def _load_av() -> ModuleType:
    try:
        import av
    except ImportError as error:
        raise UserError("videos need PyAV: pip install -r requirements-video.txt") from error
    return av
