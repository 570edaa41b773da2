"""What `torch.hub` finds here: a trained network as a function from pictures to classes.

segmenter = torch.hub.load("path/to/this/folder", "segmenter", snapshot="GTA5_25000.pth", source="local")
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

dependencies = ["torch", "torchvision", "numpy", "PIL", "yaml"]

# Common names: a program that calls the hub may have packages of its own called so.
PACKAGES = ("dataset", "deploy", "engine", "model", "utils")


def segmenter(snapshot, device=None, input_size=None):
    """A trained network: `segmenter(image)` -> label, score and uncertainty, each (H, W).

    Args:
        snapshot: a file such as GTA5_25000.pth, with the training's opts.yaml beside it.
        device: to compute on; None: a GPU where there is one.
        input_size: (height, width) that pictures are resized to; None: the training's.

    Returns:
        A `deploy.segmenter.Segmenter`; its argument is a PIL image or RGB (H, W, 3) uint8.
    """
    with _own_packages():
        from deploy.segmenter import load_segmenter

        return load_segmenter(snapshot, device, input_size)


@contextmanager
def _own_packages() -> Iterator[None]:
    """Within it this folder's packages are found; afterwards the caller's are, whatever their names."""

    def ours_or_theirs() -> dict:
        return {name: m for name, m in sys.modules.items() if name.partition(".")[0] in PACKAGES}

    theirs, folder = ours_or_theirs(), str(Path(__file__).resolve().parent)
    for name in theirs:
        del sys.modules[name]
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
        for name in ours_or_theirs():
            del sys.modules[name]
        sys.modules.update(theirs)
