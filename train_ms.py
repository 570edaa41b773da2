"""Stage I: adapt a segmentation network from labelled source images to unlabelled target images.

One GPU:
    python train_ms.py --snapshot-dir ./snapshots/stage1 --batch-size 2 --crop-size 1024,512 ...
Two GPUs of one machine:
    python train_ms.py --gpu-ids 0,1 ...

The published command stands in the README. It reads ./data/GTA5 and ./data/Cityscapes/data and writes
GTA5_<iteration>.pth, opts.yaml, log.jsonl and pictures to --snapshot-dir.
"""

from trainer_ms import AD_Trainer
from utils.errors import run_script
from utils.options import stage1_args
from utils.stage import train_stage


def main() -> None:
    """Read the flags, train on the labelled source and the target."""
    args = stage1_args()
    train_stage(AD_Trainer, args, pseudo_labels=False)


if __name__ == "__main__":
    run_script(main)
