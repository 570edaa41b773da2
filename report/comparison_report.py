"""The page that compares evaluations of the same images: tables, and predictions side by side.

The pictures are arranged as in Rectifying's figure 4: image and label, then of each network its prediction
and uncertainty.
"""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from dataset import SegmentationDataset
from report.example_pictures import (
    CHANGE_COLORS,
    NO_CLASS,
    Example,
    change_map,
    common_end,
    error_figure,
    label_figures,
    prediction_figure,
    prediction_of,
    read_example,
    uncertainty_figure,
)
from report.page import figure, legend, note, percent, points_gained, write_page
from report.result_folder import Result
from report.result_tables import headline, iou_table
from utils.errors import UserError

Results = Mapping[str, Result]  # title -> evaluation; the first is what the others are compared with


def check_comparable(results: Results) -> None:
    """Raise UserError unless all are of the same classes and images."""
    first, *others = results.values()
    for other in others:
        for what, mine, its in (
            ("classes", list(first.colors), list(other.colors)),
            ("images", set(first.images), set(other.images)),
            ("labelled pixels", _labelled(first), _labelled(other)),
        ):
            if mine != its:
                raise UserError(
                    f"{first.folder} and {other.folder} are of different {what}; evaluate both on the "
                    "same data"
                )


def _labelled(result: Result) -> dict[str, int]:
    return {name: scores.pixels for name, scores in result.images.items()}


def gains_and_losses(results: Results, count: int) -> tuple[list[str], list[str]]:
    """The images where the last one's pixel accuracy gains and loses most over the first one's, at most
    `count` each; none that does not change.
    """
    first, *_, last = (result.images for result in results.values())
    change = {}
    for name, scores in first.items():
        before, after = scores.scores[0].accuracy, last[name].scores[0].accuracy
        if before is not None and after is not None:
            change[name] = after - before
    ordered = sorted(change, key=change.get)
    return (
        [name for name in reversed(ordered) if change[name] > 0][:count],
        [name for name in ordered if change[name] < 0][:count],
    )


def write_comparison(
    path: Path, results: Results, data: SegmentationDataset, count: int, names: Sequence[str] = ()
) -> None:
    """Write the page.

    Args:
        count: of images with the largest gain and as many with the largest loss.
        names: show these images instead.

    Raises:
        UserError: the evaluations do not compare, a name is none of their images, a file that the page
            shows is damaged, or the page cannot be written.
    """
    check_comparable(results)
    first, *_, last = results
    columns = {title: result.column for title, result in results.items()}
    confusion = results[last].metrics["confusion"]
    sections = {
        "Result": miou_bars(results),
        "IoU of each class": iou_table(columns, results[last].colors, confusion, gain=True),
    }
    if names:
        unknown = [name for name in names if name not in results[first].images]
        if unknown:
            raise UserError(
                f"--names {unknown[0]}: is none of the images in {results[first].folder}/images.csv"
            )
        chosen = {"Images": list(names)}
    else:
        gains, losses = gains_and_losses(results, count)
        chosen = {f"Where “{last}” gains most": gains, f"Where “{last}” loses most": losses}
    end = common_end(results.values(), [name for group in chosen.values() for name in group])
    words = note(examples_words(results)) + example_legends(results[last])
    for title, group in chosen.items():
        if group:
            sections[title] = words + "".join(
                side_by_side(read_example(data, name), results, end) for name in group
            )
            words = ""
    intro = (
        f"{len(results)} evaluations of the same {len(data):,} images. Gains are of “{last}” over “{first}”."
    )
    write_page(path, "Comparison: " + ", ".join(results), intro, sections)


def miou_bars(results: Results) -> str:
    """mIoU of each evaluation, and its gain over the first."""
    first = next(iter(results.values()))
    values = {title: result.metrics["miou"] for title, result in results.items()}
    words = (
        f"Mean intersection over union (mIoU) in percent on {len(first.images):,} labelled images. A full "
        "track is 100 %; the line across the bars is at the first one."
    )
    return headline(values, words, gains=True)


def examples_words(results: Results) -> str:
    """What the pictures of `side_by_side` show."""
    first, *_, last = results
    uncertainty = ""
    if any(result.metrics["uncertainty"] for result in results.values()):
        uncertainty = (
            "its uncertainty in nats over the darkened image (one scale for all images here, what is "
            "doubtful bright), and "
        )
    return (
        f"Below each prediction: {uncertainty}its errors. Below the label: where “{last}” (the last) and "
        f"“{first}” (the first) differ. Percentages are of the labelled pixels."
    )


def example_legends(result: Result) -> str:
    """What the colours of `side_by_side` mean."""
    return legend(result.colors | NO_CLASS) + legend(CHANGE_COLORS)


def side_by_side(example: Example, results: Results, end: float) -> str:
    """An image, its label and what changed; then of each evaluation prediction, uncertainty and errors."""
    name = example.name
    first, *_, last = results.values()
    before, after = (prediction_of(result, example) for result in (first, last))
    change = None
    if before is not None and after is not None:
        change = change_map(example.label, before, after, len(last.colors))
    gain = points_gained(*(r.images[name].scores[0].accuracy for r in (last, first)))
    columns = [
        [
            *label_figures(example, last.colors),
            figure(change, f"Change: {gain} points", f"change of the prediction of {name}"),
        ]
    ]
    for title, result in results.items():
        uncertain = [uncertainty_figure(result, example, end)] if result.metrics["uncertainty"] else []
        wrong = result.images[name].scores[0].accuracy
        wrong = "Errors" if wrong is None else f"Errors: {percent(1 - wrong)} %"
        columns.append(
            [prediction_figure(result, example, title), *uncertain, error_figure(result, example, wrong)]
        )
    cells = "".join(f"<div>{''.join(column)}</div>" for column in columns)
    return f'<h3 class="file">{escape(name)}</h3><div class="grid columns">{cells}</div>'
