"""A table of a paper with measured numbers beside the published ones: as text, Markdown and CSV."""

import csv
import io
import itertools
import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from experiments.tables import Cell, Table
from utils.errors import UserError

NOT_ON_FILE = "–"
ABSENT = "absent"  # a class that occurs neither in labels nor in predictions
SIDE_BY_SIDE = 4  # columns; with more, the published numbers stand below the measured ones
GAP_DECIMALS = 3
KINDS = ("measured", "published")
CSV_COLUMNS = ("row", "column", "measured", "standard deviation", "seeds", "published")


@dataclass(frozen=True)
class Number:
    """What was measured for a cell, a value a seed in the table's unit, and what is published.

    A seed in which the class does not occur gives no value.
    """

    cell: Cell
    row: str
    column: str
    values: tuple[float, ...]
    decimals: int

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.values) if self.values else None

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation; None for a single value."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def measured(self) -> str:
        """Mean, and over several seeds ± the sample standard deviation."""
        if not self.values:
            return ABSENT
        mean = f"{self.mean:.{self.decimals}f}"
        return mean if self.deviation is None else f"{mean} ± {self.deviation:.{self.decimals}f}"

    @property
    def published(self) -> str:
        published = self.cell.published
        return NOT_ON_FILE if published is None else f"{published:.{self.decimals}f}"


Numbers = list[list[Number]]  # rows of columns


def read_number(result: dict, cell: Cell) -> float | None:
    """A cell's value in what evaluate_cityscapes.py wrote; None where it is null.

    Raises:
        UserError: it is not there.
    """
    value = result
    for key in cell.measure:
        if key not in value:
            raise UserError(f"{result.get('restore_from')}: its evaluation holds no {' '.join(cell.measure)}")
        value = value[key]
    return value


def numbers_of(table: Table, results: dict[Cell, list[dict]], embedded: bool) -> Numbers:
    """The table's numbers from the results of each seed, in percent where it is a table of shares."""
    scale, decimals = (100, 1) if table.percent else (1, GAP_DECIMALS)
    rows = []
    for row in table.rows_in(embedded):
        numbers = []
        for column, cell in zip(table.columns, row.cells, strict=True):
            values = [read_number(result, cell) for result in results[cell]]
            present = tuple(scale * value for value in values if value is not None)
            numbers.append(Number(cell, row.title, column, present, decimals))
        rows.append(numbers)
    return rows


def order_line(rows: Numbers) -> str:
    """Whether means with a published number come in the published order; '' where there are not two.

    Means that look equal as printed are not in order.
    """
    known = [
        number
        for number in itertools.chain(*rows)
        if "means" in number.cell.measure and number.cell.published is not None and number.values
    ]
    row_tells = len({number.row for number in known}) == len(known)
    pairs, against = 0, []
    for one, other in itertools.combinations(known, 2):
        low, high = sorted((one, other), key=lambda number: number.cell.published)
        same_mean = one.cell.measure[-1] == other.cell.measure[-1]
        if not same_mean or low.cell.published == high.cell.published:
            continue
        pairs += 1
        if not round(high.mean, high.decimals) > round(low.mean, low.decimals):
            above, below = (n.row if row_tells else f"{n.row}, {n.column}" for n in (high, low))
            against.append(f"{above} ({high.measured}) is not above {below} ({low.measured})")
    if not pairs:
        return ""
    if not against:
        return f"Order: as published ({pairs} of {pairs} pairs)."
    return f"Order: {pairs - len(against)} of {pairs} pairs as published; not: {'; '.join(against)}."


def grid_of(table: Table, rows: Numbers) -> tuple[list[list[str]], list[list[str]]]:
    """Head and body as text: measured and published side by side, or in wide tables one below the other."""
    if len(table.columns) <= SIDE_BY_SIDE:
        columns = [text for column in table.columns for text in (column, "")]
        head = [["", *columns], ["", *KINDS * len(table.columns)]]
        return head, [[row[0].row, *(t for n in row for t in (n.measured, n.published))] for row in rows]
    body = []
    for row in rows:
        body.append([row[0].row, KINDS[0], *(n.measured for n in row)])
        body.append(["", KINDS[1], *(n.published for n in row)])
    return [["", "", *table.columns]], body


def as_text(table: Table, rows: Numbers, notes: Iterable[str]) -> str:
    """For a terminal: title, aligned columns, notes."""
    head, body = grid_of(table, rows)
    titles = 2 if len(head) == 1 else 1  # columns of words
    widths = [max(map(len, column)) for column in zip(*head, *body, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if index < titles else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in (*head, *body)
    ]
    lines.insert(len(head), "-" * max(map(len, lines)))
    return "\n".join([heading(table), "", *lines, "", *notes]) + "\n"


def as_markdown(table: Table, rows: Numbers, notes: Iterable[str]) -> str:
    """The same as a Markdown table, whose head is one line."""
    head, body = grid_of(table, rows)
    if len(head) > 1:
        head = [["", *(f"{column}, {kind}" for column in table.columns for kind in KINDS)]]
    lines = ["| " + " | ".join(line) + " |" for line in (*head, ["---"] * len(head[0]), *body)]
    return "\n".join([f"**{heading(table)}**", "", *lines, "", "\n\n".join(notes)]) + "\n"


def as_csv(table: Table, rows: Numbers) -> str:
    """A line a number, for programs: two decimals in percent, empty where there is none."""
    decimals = 2 if table.percent else GAP_DECIMALS + 1
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for number in itertools.chain(*rows):
        figures = (number.mean, number.deviation, number.cell.published)
        mean, deviation, published = ("" if f is None else f"{f:.{decimals}f}" for f in figures)
        writer.writerow((number.row, number.column, mean, deviation, len(number.values), published))
    return text.getvalue()


def heading(table: Table) -> str:
    """Name, title and unit."""
    return f"{table.name}: {table.title}{' (percent)' if table.percent else ''}"
