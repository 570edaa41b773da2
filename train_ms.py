"""Stage I: adapt a segmentation network from labelled source images to unlabelled target images.

One GPU:
    python train_ms.py --snapshot-dir ./snapshots/stage1 --batch-size 2 --crop-size 1024,512 ...
Two GPUs in one process, as published; one process per GPU; eight machines with eight GPUs each:
    python train_ms.py --gpu-ids 0,1 ...
    torchrun --standalone --nproc_per_node 8 train_ms.py --batch-size 16 ...
    torchrun --nnodes 8 --nproc_per_node 8 --rdzv_backend c10d --rdzv_endpoint HOST:29500 train_ms.py ...
Online self-training by a published recipe (docs/methods.md):
    python train_ms.py --config recipes/dacs.yaml --snapshot-dir ./snapshots/dacs
Continue a run that was stopped:
    python train_ms.py --snapshot-dir ./snapshots/stage1 --resume

The README shows the published command. Reads ./data/GTA5 and ./data/Cityscapes/data; writes
GTA5_<iteration>.pth, opts.yaml, log.jsonl, training_state.pt and pictures to --snapshot-dir.
"""

from utils.script import run_script

import trainer_ms
import trainer_st
from engine.setup import run_training
from utils.options import stage1_args


def main() -> None:
    """Train on the labelled source and the unlabelled target."""
    args = stage1_args()
    stage = trainer_st if args.self_training or args.lambda_mask or args.lambda_fd else trainer_ms
    run_training(stage.AD_Trainer, args, pseudo_labels=False)


if __name__ == "__main__":
    run_script(main)
