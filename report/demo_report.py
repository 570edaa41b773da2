"""The page of the demo: what its evaluations reached, the two domains, and the curves of its trainings."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from dataset import SegmentationDataset
from dataset.labels import Colors
from report.charts import line_chart
from report.comparison_report import Results, example_legends, examples_words, miou_bars, side_by_side
from report.example_pictures import Example, color_map, common_end, read_example
from report.page import figure, finite, note, write_page
from report.result_tables import confusion_table, iou_table


@dataclass(frozen=True)
class Panel:
    """One chart of a training: which values of the log it draws, and the words for them."""

    title: str
    unit: str
    keys: dict[str, str]
    schedule: bool = False  # chosen, not measured: drawn without smoothing, on a linear axis


PANELS = (
    Panel("Segmentation losses", "nats", {"seg1": "auxiliary", "seg2": "primary", "val": "target labels"}),
    Panel(
        "Target terms",
        "adv: least squares; others: nats",
        {"adv1": "auxiliary", "adv2": "primary", "kl": "memory", "me": "entropy"},
    ),
    Panel("Discriminators", "least squares", {"D1": "auxiliary", "D2": "primary"}),
    Panel("Learning rates", "per update", {"lr": "network", "lr_D": "discriminators"}, schedule=True),
)


def read_log(path: Path) -> dict[int, dict]:
    """The records of a `log.jsonl` by iteration, in order; empty where there is no file.

    A resumed training logs some iterations again, the later record counts. A line that is no JSON object (the
    last one of a training that was killed) is passed over.
    """
    records = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        iteration = finite(record.get("iteration")) if isinstance(record, dict) else None
        if iteration is not None:
            records[int(iteration)] = record
    return dict(sorted(records.items()))


def domain(title: str, examples: Iterable[Example], colors: Colors) -> str:
    """One domain's column: images, each beside its label."""
    cells = (
        figure(e.image, Path(e.name).name, f"{title} image {e.name}", photo=True)
        + figure(color_map(e.label, colors), "label", f"{title} label of {e.name}")
        for e in examples
    )
    return f"<div><h3>{title}</h3>{''.join(f'<div class=grid>{cell}</div>' for cell in cells)}</div>"


def panel_chart(panel: Panel, records: dict[int, dict]) -> str:
    """One chart of a training with its key; a term that is zero throughout was off and is not drawn."""
    series = {}
    for key in panel.keys:
        values = ((iteration, finite(record.get(key))) for iteration, record in records.items())
        points = [(float(x), y) for x, y in values if y is not None]
        if any(y for _, y in points):
            series[key] = points
    if not series:
        return f'<div class="chart"><h4>{panel.title}</h4><small>not used in this run</small></div>'
    svg, log = line_chart(series, f"{panel.title} over the iterations", panel.schedule)
    keys = "".join(f'<li class="s{i}">{key} {panel.keys[key]}</li>' for i, key in enumerate(series))
    words = f"<h4>{panel.title}</h4><small>{panel.unit}{', log scale' if log else ''}</small>"
    return f'<div class="chart">{words}<ul class="keys">{keys}</ul>{svg}</div>'


def training(title: str, folder: Path) -> str:
    """The charts of one run."""
    records = read_log(folder / "log.jsonl")
    charts = "".join(panel_chart(panel, records) for panel in PANELS)
    body = f'<div class="grid">{charts}</div>' if records else note("No training log was found.")
    return f"<h3>{escape(title)}</h3>{body}"


def write_demo_report(
    path: Path,
    *,
    title: str,
    intro: str,
    results: Results,
    snapshots: Sequence[Path],
    target: SegmentationDataset,
    names: Sequence[str],
    source: SegmentationDataset,
    source_names: Sequence[str],
) -> None:
    """Write the page of the demo's evaluations to `path`, whole or not at all.

    Args:
        results: the first is what the others are compared with.
        snapshots: the folder of each one's training, with its log.
        names: images of the target to show, as many of which as `source_names` stand beside the source's.
    """
    last = next(reversed(results.values()))
    columns = {name: result.column for name, result in results.items()}
    examples = [read_example(target, name) for name in names]
    end = common_end(results.values(), names)
    pictures = "".join(side_by_side(example, results, end) for example in examples)
    left = domain("Source", (read_example(source, name) for name in source_names), source.colors)
    right = domain("Target", examples[: len(source_names)], target.colors)
    curves = "".join(map(training, results, snapshots))
    sections = {
        "Result": miou_bars(results),
        "IoU of each class": iou_table(columns, last.colors, last.metrics["confusion"], gain=True),
        "Examples": note(examples_words(results)) + example_legends(last) + pictures,
        "The two domains": note(
            "The target's labels take no part in training: they serve to evaluate, and here to compare."
        )
        + f'<div class="domains">{left}{right}</div>',
        "Training": note(
            "Moving averages, logged values pale. Terms that are off are left out; val is not trained on."
        )
        + curves,
        "Confusion": note(
            f"{next(reversed(results))}: how the pixels of each class are predicted, in percent of the row."
        )
        + confusion_table(last.metrics["confusion"], list(last.colors)),
    }
    write_page(path, title, intro, sections)
