"""Export to ONNX, and a comparison of the file with the network."""

import json
import logging
import warnings
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from dataset.labels import Colors
from utils.errors import UserError
from utils.inference import SingleScaleModel
from utils.upsampling import upsample

INPUT, OUTPUTS, LOGITS = "images", ("label", "score", "uncertainty"), "logits"
OPSET = 18  # the first in which Resize supports align_corners exactly
BATCH = 2  # with an example batch of 1 the exporter would take the batch size for a constant
TOLERANCE = 1e-3  # absolute and relative; a different order of summation changes far less


def write_onnx(path: Path, model: SingleScaleModel, size: tuple[int, int], colors: Colors) -> None:
    """Write the network with its pre- and postprocessing for batches of (height, width) `size`.

    The batch size is free. The metadata holds classes and colours as JSON under `classes`.
    """
    load_onnxruntime()
    example = torch.zeros(BATCH, *size, 3, dtype=torch.uint8)
    logging.disable(logging.WARNING)  # the exporter's internals warn
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

    Labels are compared by the network's scores for them, because two classes may tie.

    Raises:
        UserError: onnxruntime cannot run the file, or a difference exceeds `TOLERANCE`.
    """
    onnxruntime = load_onnxruntime()
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (BATCH + 1, *size, 3), dtype=torch.uint8, generator=generator)
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        runs = [session.run(None, {INPUT: batch.numpy()}) for batch in images.split(BATCH)]
    except Exception as error:  # onnxruntime's exceptions have no common class
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: onnxruntime cannot run the exported network ({reason})") from error
    found = {name: np.concatenate(parts) for name, *parts in zip(names, *runs, strict=True)}
    _, score, uncertainty, logits = SingleScaleModel(model.network, logits=True)(images)
    class_scores = upsample(logits.softmax(1), size)
    label = torch.from_numpy(found["label"]).long()
    found["label"] = class_scores.gather(1, label[:, None])[:, 0].numpy()
    expected = {"label": score, "score": score, "uncertainty": uncertainty, LOGITS: logits}
    differences = {}
    for name, values in found.items():
        wanted = expected[name].numpy()
        differences[name] = float(np.abs(values - wanted).max())
        if not np.allclose(values, wanted, rtol=TOLERANCE, atol=TOLERANCE):
            excess = f"{name} by up to {differences[name]:.1e} (tolerance {TOLERANCE:g})"
            raise UserError(f"the exported network differs from the original: {excess}; no file is kept")
    return differences


def load_onnxruntime() -> ModuleType:
    """onnxruntime, after checking that everything the export needs is installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        command = "pip install -r requirements-export.txt"
        raise UserError(f"the export needs {error.name}, which is not installed: {command}") from error
    return onnxruntime
