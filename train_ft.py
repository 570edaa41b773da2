"""Stage II: fine-tune on the target with the pseudo labels that generate_plabel_cityscapes.py wrote.

    python train_ft.py --restore-from ./snapshots/stage1/GTA5_25000.pth --snapshot-dir ./snapshots/stage2 ...

Rectified by uncertainty; with --conventional the pseudo labels are taken as true labels. The published
command stands in the README.
"""

from engine.setup import train_stage
from trainer_ms_variance import AD_Trainer
from utils.errors import run_script
from utils.options import stage2_args


def main() -> None:
    """Read the flags, train on the pseudo-labelled target."""
    args = stage2_args()
    train_stage(AD_Trainer, args, pseudo_labels=True)


if __name__ == "__main__":
    run_script(main)
