"""The entry point of `torch.hub`: a trained network as a function from images to classes.

segmenter = torch.hub.load("path/to/this/folder", "segmenter", snapshot="GTA5_25000.pth", source="local")
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

dependencies = ["torch", "numpy", "PIL", "matplotlib", "yaml"]

FOLDER = Path(__file__).resolve().parent
# Common names, such as `utils`: the calling program may have packages of its own with these names.
PACKAGES = {path.parent.name for path in FOLDER.glob("*/__init__.py")}


def segmenter(snapshot, device=None, input_size=None, precision=None):
    """A trained network: `segmenter(image)` -> label, score and uncertainty, each (H, W).

    Args:
        snapshot: a file such as GTA5_25000.pth, with the opts.yaml of its training beside it.
        device: None: a GPU if there is one.
        input_size: (height, width) to resize every image to; None: as in training.
        precision: bf16 or fp16 for speed; fp32 or tf32 set torch's TF32 switches, for the whole program;
            None: float32, with the switches as they are.

    Returns:
        A `deploy.segmenter.Segmenter`; its argument is a PIL image or RGB (H, W, 3) uint8.
    """
    with _own_packages():
        from deploy.segmenter import load_segmenter

        return load_segmenter(snapshot, device, input_size, precision)


@contextmanager
def _own_packages() -> Iterator[None]:
    """Import this folder's packages; afterwards the caller's packages of the same names are back."""

    def loaded() -> dict:
        return {name: m for name, m in sys.modules.items() if name.partition(".")[0] in PACKAGES}

    callers = loaded()
    for name in callers:
        del sys.modules[name]
    sys.path.insert(0, str(FOLDER))
    try:
        yield
    finally:
        sys.path.remove(str(FOLDER))
        for name in loaded():
            del sys.modules[name]
        sys.modules.update(callers)
