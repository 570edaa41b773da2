"""Stage II: fine-tune on the target with the pseudo labels that generate_plabel_cityscapes.py wrote.

    python train_ft.py --restore-from ./snapshots/stage1/GTA5_25000.pth --snapshot-dir ./snapshots/stage2 ...

Rectified by uncertainty; with --conventional the pseudo labels are taken as true labels. The published
command stands in the README.
"""

from dataset import build_dataset
from trainer_ms_variance import AD_Trainer
from utils.errors import run_script
from utils.options import stage2_args
from utils.stage import train_stage


def main() -> None:
    """Read the flags, build the pseudo-labelled target as labelled stream, train."""
    args = stage2_args()
    labelled = build_dataset(
        f"{args.target}_pseudo",
        args.data_dir,
        split=args.set,
        list_file=args.data_list,
        labelled_stream=True,
        input_size=args.input_size,
        crop_size=args.crop_size,
        autoaugment=args.autoaug,
        threshold=args.threshold,
        pseudo_dir=args.pseudo_dir,
        ignore_label=args.ignore_label,
    )
    train_stage(AD_Trainer, args, labelled)


if __name__ == "__main__":
    run_script(main)
