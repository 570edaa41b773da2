"""Export to ONNX, and a comparison of the file with the network."""

import json
import logging
import warnings
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F

from dataset.labels import Colors
from utils.errors import UserError
from utils.inference import NOT_FINITE, SingleScaleModel

INPUT, OUTPUTS, LOGITS = "images", ("label", "score", "uncertainty"), "logits"
OPSET = 18  # the first in which Resize supports align_corners exactly
BATCH = 2  # with an example batch of 1 the exporter would take the batch size for a constant
TOLERANCE = 1e-3  # absolute and relative; rounding in another order of summation is far below


def write_onnx(path: Path, model: SingleScaleModel, size: tuple[int, int], colors: Colors) -> None:
    """Write the network with its pre- and postprocessing for batches of (height, width) `size`.

    The batch size is free. The metadata holds classes and colours as JSON under `classes`.
    """
    load_onnxruntime()
    example = torch.zeros(BATCH, *size, 3, dtype=torch.uint8)
    logging.disable(logging.WARNING)  # of the exporter's internals
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                model,
                (example,),
                input_names=[INPUT],
                output_names=[*OUTPUTS, LOGITS] if model.logits else OUTPUTS,
                dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
    finally:
        logging.disable(logging.NOTSET)
    program.model.metadata_props["classes"] = json.dumps(colors)
    program.save(str(path), external_data=False)


@torch.inference_mode()
def check_onnx(path: Path, model: SingleScaleModel, size: tuple[int, int]) -> dict[str, float]:
    """Run the file on the CPU in batches of 2 and 1: output name -> largest difference from the network.

    A label counts by the score that the network gives to that class, because two classes may tie.

    Raises:
        UserError: onnxruntime cannot run the file, or a difference exceeds `TOLERANCE`.
    """
    onnxruntime = load_onnxruntime()
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (BATCH, *size, 3), dtype=torch.uint8, generator=generator)
    _, score, uncertainty, logits = SingleScaleModel(model.network, logits=True)(images)
    if not (score.isfinite().all() and uncertainty.isfinite().all()):
        raise UserError(NOT_FINITE)
    class_scores = F.interpolate(logits.softmax(1), size, mode="bilinear", align_corners=True)
    expected = {"label": score, "score": score, "uncertainty": uncertainty, LOGITS: logits}
    differences = dict.fromkeys(OUTPUTS, 0.0)
    for count in (BATCH, 1):
        found = _run(onnxruntime, path, images[:count])
        label = torch.from_numpy(found["label"]).long()
        found["label"] = class_scores[:count].gather(1, label[:, None])[:, 0].numpy()
        for name, values in found.items():
            wanted = expected[name][:count].numpy()
            difference = float(np.abs(values - wanted).max())
            differences[name] = max(difference, differences.get(name, 0.0))
            if not np.allclose(values, wanted, rtol=TOLERANCE, atol=TOLERANCE):
                raise UserError(
                    f"the exported network differs from the original: {name} by up to {difference:.1e} "
                    f"(tolerance {TOLERANCE:g}); no file is kept"
                )
    return differences


def _run(onnxruntime: ModuleType, path: Path, images: torch.Tensor) -> dict[str, np.ndarray]:
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(None, {INPUT: images.numpy()}), strict=True))
    except Exception as error:  # onnxruntime's exceptions have no common class
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: onnxruntime cannot run the exported network ({reason})") from error


def load_onnxruntime() -> ModuleType:
    """onnxruntime, after checking that everything the export needs is installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"the export needs {error.name}, which is not installed: pip install -r requirements-export.txt"
        ) from error
    return onnxruntime
