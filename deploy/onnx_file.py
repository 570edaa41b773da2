"""Writing a network as an ONNX file, and comparing what the file computes with what the network does."""

import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F

from dataset.labels import Colors
from utils.errors import UserError
from utils.inference import NOT_FINITE, SingleScaleModel

INPUT, OUTPUTS, LOGITS = "images", ("label", "score", "uncertainty"), "logits"
OPSET = 18  # the first with which Resize is exact; read by every runtime since 2023
BATCH = 2  # of the example: with 1 the exporter would take the batch for a constant
# Float32 on another runtime adds up in another order. Between a network and its copy that is far below this.
TOLERANCE = 1e-3  # of every output, beside 1 + its size


def write_onnx(path: Path, model: SingleScaleModel, size: tuple[int, int], colors: Colors) -> None:
    """Write a network with its pre- and postprocessing; the batch is free, `size` (height, width) fixed.

    Classes and colours lie in the file's metadata as JSON, under `classes`.
    """
    libraries()
    names = [*OUTPUTS, LOGITS] if model.logits else list(OUTPUTS)
    example = torch.zeros(BATCH, *size, 3, dtype=torch.uint8)
    with _quiet():
        program = torch.onnx.export(
            model,
            (example,),
            input_names=[INPUT],
            output_names=names,
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    program.model.metadata_props["classes"] = json.dumps(colors)
    program.save(str(path), external_data=False)


@torch.inference_mode()
def compare(path: Path, model: SingleScaleModel, size: tuple[int, int]) -> dict[str, float]:
    """The largest difference between file and network, on the CPU, for batches of two lengths.

    Of each output by its name; of `label` it is the score that a pixel loses by another label than the
    network's, since of two classes that score alike either may be the label.

    Raises:
        UserError: the runtime refuses the file, or it computes something else.
    """
    onnxruntime = libraries()
    pictures = patchwork(BATCH, size)
    expected = SingleScaleModel(model.network, logits=True)(pictures)
    if not all(values.isfinite().all() for values in expected[1:]):
        raise UserError(NOT_FINITE)
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        results = [session.run(None, {INPUT: pictures[:count].numpy()}) for count in (BATCH, 1)]
    except Exception as error:  # onnxruntime's exceptions have no common class
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: onnxruntime cannot run the exported network ({reason})") from error
    differences = [_difference(dict(zip(names, result, strict=True)), expected) for result in results]
    largest = {name: float(np.max([d[name] for d in differences])) for name in differences[0]}  # keeps nan
    if not all(value <= TOLERANCE for value in largest.values()):
        raise UserError(
            f"the exported network differs from the original ({format_differences(largest)}; allowed "
            f"{TOLERANCE:g}); no file is kept"
        )
    return largest


def format_differences(differences: dict[str, float]) -> str:
    """For people."""
    return ", ".join(f"{name} {value:.1e}" for name, value in differences.items())


@contextmanager
def _quiet() -> Iterator[None]:
    """Within it nobody tells of the exporter's insides."""
    loggers = [logging.getLogger(name) for name in ("onnx_ir", "onnxscript", "torch.onnx")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def patchwork(count: int, size: tuple[int, int]) -> torch.Tensor:
    """(count, height, width, 3) uint8 of patches and noise: pictures that a network is not sure of."""
    generator = torch.Generator().manual_seed(0)
    patches = 255 * torch.rand(count, 3, 8, 8, generator=generator)
    noise = 32 * torch.randn(count, 3, *size, generator=generator)
    pictures = F.interpolate(patches, size, mode="bicubic", align_corners=False) + noise
    return pictures.clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous()


def _difference(found: dict[str, np.ndarray], expected: Sequence[torch.Tensor]) -> dict[str, float]:
    """Of one batch; `expected` may be of a longer one."""
    found = {name: torch.from_numpy(values) for name, values in found.items()}
    label = found["label"].long()
    wanted = dict(zip((*OUTPUTS, LOGITS), (values[: len(label)] for values in expected), strict=True))
    scores = wanted[LOGITS].softmax(1)
    scores = F.interpolate(scores, label.shape[1:], mode="bilinear", align_corners=True)
    lost = wanted["score"] - scores.gather(1, label[:, None])[:, 0]
    others = {name: found[name] - wanted[name] for name in found if name != "label"}
    relative = {name: d.abs() / (1 + wanted[name].abs()) for name, d in others.items()}
    return {name: d.max().item() for name, d in ({"label": lost} | relative).items()}


def libraries() -> ModuleType:
    """onnxruntime, if it and what the exporter needs are here."""
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"exporting needs {error.name}, which is not installed: pip install -r requirements-export.txt"
        ) from error
    return onnxruntime
