"""Stage I: adapt a segmentation network from labelled source images to unlabelled target images.

One GPU:
    python train_ms.py --snapshot-dir ./snapshots/stage1 --batch-size 2 --crop-size 1024,512 ...
Two GPUs in one process, as published; eight with a process each; eight machines:
    python train_ms.py --gpu-ids 0,1 ...
    torchrun --standalone --nproc_per_node 8 train_ms.py --batch-size 16 ...
    torchrun --nnodes 8 --nproc_per_node 8 --rdzv_backend c10d --rdzv_endpoint HOST:29500 train_ms.py ...

The published command stands in the README. It reads ./data/GTA5 and ./data/Cityscapes/data and writes
GTA5_<iteration>.pth, opts.yaml, log.jsonl and pictures to --snapshot-dir.
"""

from engine.setup import train_stage
from trainer_ms import AD_Trainer
from utils.errors import run_script
from utils.options import stage1_args


def main() -> None:
    """Read the flags, train on the labelled source and the target."""
    args = stage1_args()
    train_stage(AD_Trainer, args, pseudo_labels=False)


if __name__ == "__main__":
    run_script(main)
