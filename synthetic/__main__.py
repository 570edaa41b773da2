"""Draw synthetic data into a new folder, which appears once it is complete.

python -m synthetic ./drawn --benchmark gta5 --seed 0
"""

import argparse
import tempfile
from pathlib import Path

from synthetic import BENCHMARKS, make_synthetic_data


class Parser(argparse.ArgumentParser):
    """Reports an error as one line, without the usage."""

    def error(self, message: str) -> None:
        self.exit(2, f"{self.prog}: error: {message}\n")


def main() -> None:
    """Draw into a temporary folder next to the requested one, then rename it."""
    parser = Parser("python -m synthetic", description="Draw synthetic street scenes of two domains.")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to create; may exist if it is empty")
    parser.add_argument("--benchmark", choices=BENCHMARKS, default="gta5", help="file layout (default: gta5)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the scenes")
    parser.add_argument("--source-images", type=int, default=240, help="labelled images of the source")
    parser.add_argument("--target-images", type=int, default=240, help="training images of the target")
    parser.add_argument("--val-images", type=int, default=60, help="labelled test images of the target")
    settings = vars(parser.parse_args())
    out = settings.pop("out")
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        parser.error(f"{out} is not empty; choose another folder")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as tmp:
            data = Path(tmp) / "data"  # the temporary folder itself is readable by its owner only
            make_synthetic_data(data, **settings)
            data.replace(out)
    except (OSError, ValueError) as error:
        parser.error(f"cannot draw {out}: {error}")
    except KeyboardInterrupt:
        parser.exit(130, f"{parser.prog}: interrupted\n")


if __name__ == "__main__":
    main()
