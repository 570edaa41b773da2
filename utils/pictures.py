"""Predictions as files one can look at."""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from utils.files import write_whole
from utils.inference import Prediction

WRITERS = 4  # PNG encoding leaves Python's lock, so threads suffice
PENDING = 16  # images kept in memory while they wait for a writer
HEAT_GAIN = 10  # of the logarithm's argument
# Dark blue over green to yellow: reads in grey too, and to colour-blind eyes.
HEAT_STOPS = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))


def heat_table() -> np.ndarray:
    """Colours from low to high, (256, 3) uint8."""
    position = np.linspace(0, len(HEAT_STOPS) - 1, 256)
    stops = np.array(HEAT_STOPS)
    channels = [np.interp(position, range(len(stops)), stops[:, c]) for c in range(3)]
    return np.stack(channels, 1).round().astype(np.uint8)


HEAT_TABLE = heat_table()


def heat_map(uncertainty: np.ndarray) -> np.ndarray:
    """log(1 + 10 * KL) over its maximum, in colours: (H, W) -> (H, W, 3) uint8."""
    heat = np.log1p(HEAT_GAIN * np.maximum(uncertainty, 0))
    return HEAT_TABLE[(255 * heat / max(heat.max(), np.finfo(heat.dtype).tiny)).astype(np.uint8)]


class PredictionWriter:
    """Writes predictions in threads while the network runs; use it in a `with` block.

    For each name: `<name>.png` (train ids), `<name>_color.png`, `<name>_heatmap.png` and, with `scores`,
    `<name>_score.png` (score * 255).
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
        """Queue one image; waits while too many are queued, and raises what an earlier one failed with."""
        self._collect(PENDING)
        arrays = [tensor.cpu().numpy() for tensor in prediction]
        self.pending.append(self.pool.submit(self._write, Path(name).with_suffix(""), *arrays))

    def _collect(self, allowed: int) -> None:
        while len(self.pending) > allowed:
            self.pending.pop(0).result()

    def _write(self, stem: Path, label: np.ndarray, score: np.ndarray, uncertainty: np.ndarray) -> None:
        pictures = {"": label, "_color": self.palette[label], "_heatmap": heat_map(uncertainty)}
        if self.scores:
            pictures["_score"] = (255 * score).round().astype(np.uint8)
        for suffix, pixels in pictures.items():
            path = self.folder / stem.with_name(f"{stem.name}{suffix}.png")
            write_whole(path, lambda aside, p=pixels: Image.fromarray(p).save(aside, "PNG"))


def save_training_pictures(path: Path, rows: list[list[np.ndarray]]) -> None:
    """One PNG of rows of pictures (H, W, 3) uint8 of one size, side by side; a row may be shorter."""
    widest = max(map(len, rows))
    blank = np.zeros_like(rows[0][0])
    sheet = np.concatenate([np.concatenate(row + [blank] * (widest - len(row)), 1) for row in rows])
    write_whole(path, lambda aside: Image.fromarray(sheet).save(aside, "PNG"))


def save_overview(path: Path, titles: list[str], rows: list[list[Image.Image]], width: int = 256) -> None:
    """One PNG of pictures in rows of equal length under column titles, each `width` pixels wide."""
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
    write_whole(path, lambda aside: sheet.save(aside, "PNG"))
