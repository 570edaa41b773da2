"""Predictions as pictures: colours, heat maps, the files of a prediction, overview sheets."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from dataset.png import compress, png_file
from utils.atomic import atomic_write
from utils.device import single_thread
from utils.errors import UserError
from utils.inference import NOT_FINITE, Prediction
from utils.losses import fuse
from utils.preprocess import to_pixels
from utils.uncertainty import classifier_divergence

WRITERS = 4  # threads suffice: compression releases the GIL
PENDING = 16  # images in memory that wait for a writer
OTHER_PICTURES = ("_color", "_overlay")  # endings of files that predictions in train ids come with
HEAT_GAIN = 10  # heat maps show log(1 + 10 * KL)
# Dark blue over green to yellow: also readable in grey and with colour-blind eyes.
HEAT_STOPS = np.array([(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)])
HEAT_SHARE = 0.6  # opacity of the heat map over an image
DARKENED = 0.75  # brightness that the grey image under a heat map keeps
MIDDLE_GREY = 128  # the image that a colour bar is blended with
MIN_BAR_END = 0.01  # nats; a shorter colour bar would show rounding errors as doubt
BAR_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)  # nats; the ones that fit are drawn
TRAINING_TITLES = ["labelled image", "its label", "prediction"]
TRAINING_TITLES += ["target image", "auxiliary", "primary", "uncertainty"]
TRAINING_WIDTH = 320  # pixels of each picture


def _heat_table() -> np.ndarray:
    position = np.linspace(0, len(HEAT_STOPS) - 1, 256)
    channels = [np.interp(position, range(len(HEAT_STOPS)), channel) for channel in HEAT_STOPS.T]
    return np.stack(channels, 1).round().astype(np.uint8)


HEAT_TABLE = _heat_table()  # colours from low to high, (256, 3) uint8


def heat_levels(uncertainty: Tensor) -> Tensor:
    """log(1 + 10 * KL) relative to its maximum, as indices of `HEAT_TABLE`: (H, W) -> (H, W) uint8."""
    heat = uncertainty.clamp_min(0).mul_(HEAT_GAIN).log1p_()
    highest = heat.max().clamp_min(torch.finfo(heat.dtype).tiny)
    return heat.mul_(255).div_(highest).to(torch.uint8)


def nats_of_levels(levels: np.ndarray, maximum: float) -> np.ndarray:
    """Inverse of `heat_levels`, up to its 256 steps: (H, W) uint8 -> (H, W) float32 nats.

    Args:
        maximum: of the uncertainty in nats, which the levels do not contain.
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
    """Writes the files of predictions in threads while the network runs; use it in a `with` block.

    For each name: `<name>.png` (train ids), `<name>_color.png`, `<name>_heatmap.png` and, with `scores`,
    `<name>_score.png` (score * 255). Colours and heat map are palette images, one byte per pixel. Soft labels
    become `<name>_soft.png`: the planes of all classes, value * 255, one below the other.

    Args:
        label_ids: the label id of each train id, (256,): write only `<name>.png`, and these instead.
        note: the text to keep in the `<name>.png` of an image, which is written last.

    Raises:
        UserError: the folder holds predictions of the other kind.
    """

    def __init__(
        self,
        folder: Path,
        palette: np.ndarray,
        scores: bool,
        label_ids: np.ndarray | None = None,
        note: Callable[[str], str | None] = lambda name: None,
    ):
        self.folder, self.palette, self.scores, self.label_ids = folder, palette, scores, label_ids
        self.note = note
        if label_ids is not None:
            check_only_label_ids(folder)
        self.pool = ThreadPoolExecutor(WRITERS)
        self.pending: list[Future] = []

    def __enter__(self) -> "PredictionWriter":
        return self

    def __exit__(self, kind, *_) -> None:
        self.pool.shutdown()  # after an error too: what was predicted need not be predicted again
        if kind is None:
            self._collect(0)

    @single_thread()
    def write(self, name: str, prediction: Prediction, soft: Tensor | None = None) -> None:
        """Queue one image, with soft labels (C, H, W) if it has any; block while too many are queued.

        Raises:
            UserError: scores or uncertainties of this or an earlier image are not finite, or its files
                cannot be written.
        """
        self._collect(PENDING)
        label, score, uncertainty = prediction
        # The sum is finite if all values are; unlike `all()` it is checked later, without a synchronisation.
        maps = {"total": score.sum() + uncertainty.sum(), "label": label, "heat": heat_levels(uncertainty)}
        if self.scores:
            maps["score"] = (255 * score).round_().to(torch.uint8)
        if soft is not None:
            maps["soft"] = (255 * soft).round_().to(torch.uint8).flatten(0, 1)
        copies = {key: pixels.to("cpu", non_blocking=label.is_cuda).numpy() for key, pixels in maps.items()}
        copied = None
        if label.is_cuda:
            copied = torch.cuda.Event(blocking=True)  # a writer that spun would hold a core that decodes
            copied.record(torch.cuda.current_stream(label.device))
        stem, note = Path(name).with_suffix(""), self.note(name)
        self.pending.append(self.pool.submit(self._write, stem, note, copied, **copies))

    def _collect(self, allowed: int) -> None:
        while len(self.pending) > allowed:
            self.pending.pop(0).result()

    def _write(
        self,
        stem: Path,
        note: str | None,
        copied: torch.cuda.Event | None,
        total: np.ndarray,
        label: np.ndarray,
        heat: np.ndarray,
        **others: np.ndarray,
    ) -> None:
        if copied is not None:
            with torch.cuda.device(copied.device):  # new threads start on the first GPU
                copied.synchronize()
        if not np.isfinite(total):
            raise UserError(f"{stem}: {NOT_FINITE}")
        if self.label_ids is not None:
            write_ids(self.folder / stem.with_name(f"{stem.name}.png"), self.label_ids[label])
            return
        labels = compress(label)
        files = {
            "_color": png_file(label.shape, labels, self.palette),
            "_heatmap": png_file(heat.shape, compress(heat), HEAT_TABLE),
        }
        files |= {f"_{kind}": png_file(pixels.shape, compress(pixels)) for kind, pixels in others.items()}
        files[""] = png_file(label.shape, labels, note=note)
        for suffix, file in files.items():
            path = self.folder / stem.with_name(f"{stem.name}{suffix}.png")
            atomic_write(path, lambda tmp, file=file: tmp.write_bytes(file), durable=False)


def write_ids(path: Path, ids: np.ndarray) -> None:
    """Write ids (H, W) uint8 or uint16 as a grey PNG, noted to be a prediction."""
    note = PngInfo()
    note.add_text("Comment", "prediction")  # for `read_note`
    atomic_write(path, lambda tmp: Image.fromarray(ids).save(tmp, "PNG", pnginfo=note), durable=False)


def check_only_label_ids(folder: Path) -> None:
    """Refuse a folder for label ids that already holds other pictures of predictions.

    Raises:
        UserError: the test server would find several files for an image, or train ids would be replaced.
    """
    if other := next((path for end in OTHER_PICTURES for path in folder.rglob(f"*{end}.png")), None):
        raise UserError(f"--label-ids: {other} is of other predictions; choose another folder with --save")


@torch.no_grad()
def training_pictures(
    images: Tensor,
    images_t: Tensor,
    labels: Tensor,
    predictions: tuple[Tensor, Tensor, Tensor, Tensor],
    palette: np.ndarray,
    count: int,
) -> Image.Image:
    """What a training step saw and predicted: a row for each of the first `count` images of its two batches.

    Args:
        images, images_t: (N, 3, H, W), BGR minus mean.
        labels: (N, H, W) train ids, true or pseudo labels.
        predictions: logits (N, C, H, W) of both classifiers on both batches: z1, z2, z1_t, z2_t.
        palette: colours of the train ids, (256, 3) uint8.
    """
    z1, z2, z1_t, z2_t = (z[:count] for z in predictions)

    def colored(ids: Tensor) -> np.ndarray:
        return palette[ids.clamp(0, 255).cpu().numpy()]

    columns = [
        *(to_pixels(images[:count]).cpu().numpy(), colored(labels[:count]), colored(fuse(z1, z2).argmax(1))),
        *(to_pixels(images_t[:count]).cpu().numpy(), colored(z1_t.argmax(1)), colored(z2_t.argmax(1))),
        [HEAT_TABLE[heat_levels(d).cpu().numpy()] for d in classifier_divergence(z1_t, z2_t)],
    ]
    rows = [[Image.fromarray(picture) for picture in row] for row in zip(*columns, strict=True)]
    return overview(TRAINING_TITLES, rows, TRAINING_WIDTH)


def overview(titles: list[str], rows: list[list[Image.Image]], width: int) -> Image.Image:
    """Sheet of pictures in rows of equal length below column titles, each picture `width` pixels wide."""
    height = width * rows[0][0].height // rows[0][0].width
    gap, head = 4, 24
    size = len(titles) * (width + gap) - gap, head + len(rows) * (height + gap) - gap
    sheet = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for column, title in enumerate(titles):
        left = column * (width + gap)
        pen.text((left + width // 2, head // 2), title, fill="black", anchor="mm", font=font)
        for row, pictures in enumerate(rows):
            picture = pictures[column].convert("RGB").resize((width, height), Image.Resampling.BOX)
            sheet.paste(picture, (left, head + row * (height + gap)))
    return sheet
