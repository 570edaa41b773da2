"""Stage II: fine-tune on the target with the pseudo labels that generate_plabel_cityscapes.py wrote.

    python train_ft.py --restore-from ./snapshots/stage1/GTA5_25000.pth --snapshot-dir ./snapshots/stage2 ...

The loss is rectified by the uncertainty of each pixel; --conventional trains on the pseudo labels as if they
were true. Several GPUs and --resume as in train_ms.py; the README shows the published command.
"""

from utils.script import run_script

from engine.setup import run_training
from trainer_ms_variance import AD_Trainer
from utils.options import stage2_args


def main() -> None:
    """Train on the pseudo-labelled target."""
    run_training(AD_Trainer, stage2_args(), pseudo_labels=True)


if __name__ == "__main__":
    run_script(main)
