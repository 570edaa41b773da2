"""Draw the embedded data into a folder that is there when all of it is.

python -m synthetic ./drawn --benchmark gta5 --seed 0
"""

import argparse
import shutil
import tempfile
from pathlib import Path

from synthetic import make_embedded_data
from synthetic.layouts import BENCHMARKS
from utils.errors import UserError, run_script


def main() -> None:
    """Draw beside the folder, then put the drawn one in its place."""
    args = parse_args()
    if args.root.is_file() or (args.root.is_dir() and any(args.root.iterdir())):
        raise UserError(f"{args.root}: holds something already; choose another folder")
    aside = None
    try:
        args.root.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{args.root.name}.", dir=args.root.parent))
        make_embedded_data(
            aside / "data",  # a folder of usual permissions, which the temporary one has not
            benchmark=args.benchmark,
            source_images=args.source_images,
            target_images=args.target_images,
            val_images=args.val_images,
            seed=args.seed,
        )
        (aside / "data").replace(args.root)
    except OSError as error:
        raise UserError(f"{args.root}: cannot write ({error}); free space or choose another") from error
    finally:
        if aside:
            shutil.rmtree(aside, ignore_errors=True)


def parse_args() -> argparse.Namespace:
    """Flags: folder, benchmark, seed and how many images."""
    parser = argparse.ArgumentParser(
        prog="python -m synthetic", description="Draw the embedded two-domain data."
    )
    parser.add_argument("root", type=Path, metavar="ROOT", help="folder to fill; must be new or empty")
    parser.add_argument("--benchmark", choices=BENCHMARKS, default="gta5", help="whose file layout")
    parser.add_argument("--seed", type=int, default=0, help="of the scenes")
    parser.add_argument("--source-images", type=int, default=240, help="labelled images of the source")
    parser.add_argument("--target-images", type=int, default=240, help="training images of the target")
    parser.add_argument("--val-images", type=int, default=60, help="labelled test images of the target")
    return parser.parse_args()


if __name__ == "__main__":
    run_script(main)
