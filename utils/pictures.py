"""Predictions as files one can look at."""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from dataset.png import compress, png_file
from utils.atomic import atomic_write
from utils.errors import UserError
from utils.inference import NOT_FINITE, Prediction
from utils.parts import one_thread

WRITERS = 4  # compressing leaves Python's lock, so threads suffice
PENDING = 16  # images kept in memory while they wait for a writer
HEAT_GAIN = 10  # of the logarithm's argument
# Dark blue over green to yellow: reads in grey too, and to colour-blind eyes.
HEAT_STOPS = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
HEAT_SHARE = 0.6  # opacity of the heat map over an image
DARKENED = 0.75  # brightness that the grey image under a heat map keeps
MIDDLE_GREY = 128  # the image that a colour bar is blended with
MIN_BAR_END = 0.01  # nats; a shorter colour bar would show rounding errors as doubt
BAR_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)  # nats; the ones that fit are drawn


def heat_table() -> np.ndarray:
    """Colours from low to high, (256, 3) uint8."""
    position = np.linspace(0, len(HEAT_STOPS) - 1, 256)
    stops = np.array(HEAT_STOPS)
    channels = [np.interp(position, range(len(stops)), stops[:, c]) for c in range(3)]
    return np.stack(channels, 1).round().astype(np.uint8)


HEAT_TABLE = heat_table()


def heat_levels(uncertainty: torch.Tensor) -> torch.Tensor:
    """log(1 + 10 * KL) over its maximum as places in `HEAT_TABLE`: (H, W) -> (H, W) uint8."""
    heat = uncertainty.clamp_min(0).mul_(HEAT_GAIN).log1p_()
    highest = heat.max().clamp_min(torch.finfo(heat.dtype).tiny)
    return heat.mul_(255).div_(highest).to(torch.uint8)


def nats_of_levels(levels: np.ndarray, maximum: float) -> np.ndarray:
    """What `heat_levels` shows, in its 256 steps: (H, W) uint8 -> (H, W) float32 nats.

    Args:
        maximum: of the uncertainty, nats, which the levels do not tell.
    """
    steps = np.expm1(np.linspace(0, np.log1p(HEAT_GAIN * max(maximum, 0.0)), 256)) / HEAT_GAIN
    return steps.astype(np.float32)[levels]


def heat_position(uncertainty: np.ndarray | float, end: float) -> np.ndarray | float:
    """Position (0 to 1) of an uncertainty in nats on a colour bar from 0 to `end` nats."""
    return np.log1p(HEAT_GAIN * np.clip(uncertainty, 0, end)) / np.log1p(HEAT_GAIN * end)


def heat_overlay(image: Image.Image, position: np.ndarray) -> Image.Image:
    """Heat colours of positions on the colour bar, (H, W) in 0 to 1, over the darkened grey image."""
    grey = np.asarray(image.convert("L"))[..., None]
    return Image.fromarray(_heat_over(grey, position))


def bar_colors(count: int) -> np.ndarray:
    """`count` evenly spaced colours of the colour bar of `heat_overlay`, (count, 3) uint8."""
    return _heat_over(np.uint8(MIDDLE_GREY), np.linspace(0, 1, count))


def _heat_over(grey: np.ndarray, position: np.ndarray) -> np.ndarray:
    return blend(DARKENED * grey, HEAT_TABLE[(255 * position).round().astype(np.uint8)], HEAT_SHARE)


def blend(below: np.ndarray, above: np.ndarray, opacity: float) -> np.ndarray:
    """`above` over `below` at an opacity of 0 to 1, uint8."""
    return (np.float32(1 - opacity) * below + np.float32(opacity) * above).round().astype(np.uint8)


class PredictionWriter:
    """Writes predictions in threads while the network runs; use it in a `with` block.

    For each name: `<name>.png` (train ids), `<name>_color.png`, `<name>_heatmap.png` and, with `scores`,
    `<name>_score.png` (score * 255). Colours and heat map are palette images, one byte a pixel.
    """

    def __init__(self, folder: Path, palette: np.ndarray, scores: bool):
        self.folder, self.palette, self.scores = folder, palette, scores
        self.pool = ThreadPoolExecutor(WRITERS)
        self.pending: list[Future] = []

    def __enter__(self) -> "PredictionWriter":
        return self

    def __exit__(self, kind, *_) -> None:
        self.pool.shutdown(cancel_futures=kind is not None)
        if kind is None:
            self._collect(0)

    def write(self, name: str, prediction: Prediction) -> None:
        """Queue one image; waits while too many are queued, and raises what an earlier one failed with.

        Raises:
            UserError: an image's scores or uncertainties are not finite, or its files cannot be written.
        """
        self._collect(PENDING)
        with one_thread(prediction.label.device):
            # A sum is finite where all values are, and says so without making the host wait for the device.
            total = prediction.score.sum() + prediction.uncertainty.sum()
            maps = [total, prediction.label, heat_levels(prediction.uncertainty)]
            if self.scores:
                maps.append((255 * prediction.score).round_().to(torch.uint8))
        # The device goes on meanwhile; a writer waits for the copies.
        on_gpu = prediction.label.is_cuda
        copies = [pixels.to("cpu", non_blocking=on_gpu).numpy() for pixels in maps]
        copied = torch.cuda.current_stream(prediction.label.device).record_event() if on_gpu else None
        self.pending.append(self.pool.submit(self._write, Path(name).with_suffix(""), copied, *copies))

    def _collect(self, allowed: int) -> None:
        while len(self.pending) > allowed:
            self.pending.pop(0).result()

    def _write(
        self,
        stem: Path,
        copied: torch.cuda.Event | None,
        total: np.ndarray,
        label: np.ndarray,
        heat: np.ndarray,
        score: np.ndarray | None = None,
    ) -> None:
        if copied is not None:
            with torch.cuda.device(copied.device):  # a thread begins with the first GPU
                copied.synchronize()
        if not np.isfinite(total):
            raise UserError(f"{stem}: {NOT_FINITE}")
        labels = compress(label)
        files = {
            "": png_file(label.shape, labels),
            "_color": png_file(label.shape, labels, self.palette),
            "_heatmap": png_file(heat.shape, compress(heat), HEAT_TABLE),
        }
        if score is not None:
            files["_score"] = png_file(score.shape, compress(score))
        for suffix, file in files.items():
            path = self.folder / stem.with_name(f"{stem.name}{suffix}.png")
            atomic_write(path, lambda aside, file=file: aside.write_bytes(file), durable=False)


def save_overview(path: Path, titles: list[str], rows: list[list[Image.Image]], width: int = 256) -> None:
    """`overview` as a PNG."""
    sheet = overview(titles, rows, width)
    atomic_write(path, lambda aside: sheet.save(aside, "PNG"))


def overview(titles: list[str], rows: list[list[Image.Image]], width: int = 256) -> Image.Image:
    """Pictures in rows of equal length under column titles, each `width` pixels wide."""
    height = width * rows[0][0].height // rows[0][0].width
    gap, head = 4, 24
    sheet = Image.new(
        "RGB", (len(titles) * (width + gap) - gap, head + len(rows) * (height + gap) - gap), "white"
    )
    pen = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        left = column * (width + gap)
        pen.text(
            (left + width // 2, head // 2), title, fill="black", anchor="mm", font=ImageFont.load_default(14)
        )
        for row, pictures in enumerate(rows):
            picture = pictures[column].convert("RGB").resize((width, height), Image.Resampling.BOX)
            sheet.paste(picture, (left, head + row * (height + gap)))
    return sheet
