"""A table of a paper with measured numbers next to the published ones, as text and CSV."""

import csv
import io
import itertools
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, replace

from scipy import stats

from experiments.tables import COST, Cell, Table
from utils.errors import UserError
from utils.metrics import format_table

CONFIDENCE = 0.95
SIDE_BY_SIDE = 4  # columns; in wider tables the published numbers stand below the measured ones
KINDS = ("measured", "published")
NOT_COMPARABLE = "*"  # behind a published number
CSV_COLUMNS = ("row", "column", "measured", "95% low", "95% high", "seeds", "published", "comparable")


@dataclass(frozen=True)
class Number:
    """What was measured for a cell: one value per seed in which its class occurs, in the table's unit."""

    cell: Cell
    row: str
    column: str
    values: tuple[float, ...]
    decimals: int

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.values) if self.values else None

    @property
    def margin(self) -> float | None:
        """Half the width of the 95 % t-interval of the mean over seeds; None for fewer than two values."""
        count = len(self.values)
        if count < 2:
            return None
        return float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1) * stats.sem(self.values))

    @property
    def measured(self) -> str:
        if not self.values:
            return "absent"
        mean = f"{self.mean:.{self.decimals}f}"
        return mean if self.margin is None else f"{mean} ± {self.margin:.{self.decimals}f}"

    @property
    def published(self) -> str:
        published = self.cell.published
        mark = "" if self.cell.comparable else NOT_COMPARABLE
        return "–" if published is None else f"{published:.{self.decimals}f}{mark}"


Numbers = list[list[Number]]  # rows of columns


def read_number(metrics: dict, cell: Cell) -> float | None:
    """A cell's value in metrics.json; None for a class that occurs neither in labels nor in predictions.

    Raises:
        UserError: the value is missing.
    """
    value = metrics
    for key in cell.measure:
        if key not in value:
            raise UserError(f"{metrics.get('restore_from')}: its evaluation lacks {' '.join(cell.measure)}")
        value = value[key]
    return value


def numbers_of(table: Table, results: dict[Cell, list[dict]]) -> Numbers:
    """The table's numbers from the metrics of each seed."""
    rows = []
    for row in table.rows:
        numbers = []
        for column, cell in zip(table.columns, row.cells, strict=True):
            scale, decimals = (100, 1) if table.percent else (1, 3)
            if cell.measure[0] == COST:
                scale, decimals = 1, 2
            values = [read_number(metrics, cell) for metrics in results[cell]]
            present = tuple(scale * value for value in values if value is not None)
            numbers.append(Number(cell, row.title, column, present, decimals))
        rows.append(numbers)
    return rows


def order_line(rows: Numbers) -> str:
    """Whether the measured means rank as the comparable published ones; '' without two to compare.

    Means that print the same do not rank.
    """
    known = [
        number
        for number in itertools.chain(*rows)
        if "means" in number.cell.measure
        and number.cell.published is not None
        and number.cell.comparable
        and number.values
    ]
    pairs, wrong = 0, []
    for pair in itertools.combinations(known, 2):
        low, high = sorted(pair, key=lambda number: number.cell.published)
        if low.cell.measure[-1] != high.cell.measure[-1] or low.cell.published == high.cell.published:
            continue
        pairs += 1
        if round(high.mean, high.decimals) <= round(low.mean, low.decimals):
            above, below = (f"{n.row}, {n.column} ({n.measured})" for n in (high, low))
            wrong.append(f"{above} is not above {below}")
    if not pairs:
        return ""
    return f"Order: {pairs - len(wrong)} of {pairs} pairs as published" + "".join(f"; {w}" for w in wrong)


def gains(rows: Numbers) -> list[str]:
    """Each row's first number over the first row's, seed by seed; empty with fewer than two seeds."""
    base = rows[0][0].values
    texts = [""]
    for number, *_ in rows[1:]:
        paired = zip(number.values, base, strict=False)
        gain = replace(number, values=tuple(value - other for value, other in paired))
        texts.append(gain.measured if len(number.values) == len(base) else "")
    return texts if len(base) > 1 else []


def heading(table: Table, rows: Numbers) -> str:
    """Name, title, unit, and what ± stands for."""
    seeds = max(len(number.values) for number in itertools.chain(*rows))
    units = ["percent"] if table.percent else []
    units += [f"mean ± half-width of the 95 % t-interval over {seeds} seeds"] if seeds > 1 else []
    return f"{table.name}: {table.title}" + (f" ({', '.join(units)})" if units else "")


def as_text(table: Table, rows: Numbers, notes: Iterable[str]) -> str:
    """For a terminal: measured and published, if any are, side by side or in wide tables below; notes.

    A single column over several seeds also gets its gain over the first row.
    """
    titles = [text for column in table.columns for text in (column, "")]
    if all(cell.published is None for cell in table.cells):
        grid = [["", *table.columns]] + [[row[0].row, *(n.measured for n in row)] for row in rows]
        words, rule = 1, 1
    elif len(table.columns) <= SIDE_BY_SIDE:
        grid = [["", *titles], ["", *KINDS * len(table.columns)]]
        grid += [[row[0].row, *(text for n in row for text in (n.measured, n.published))] for row in rows]
        words, rule = 1, 2
    else:
        grid, words, rule = [["", "", *table.columns]], 2, 1
        for row in rows:
            grid.append([row[0].row, KINDS[0], *(n.measured for n in row)])
            grid.append(["", KINDS[1], *(n.published for n in row)])
    if len(table.columns) == 1 and (over_first := gains(rows)):
        texts = ["gain by seed", *[""] * (rule - 1), *over_first]
        grid = [[*line, text] for line, text in zip(grid, texts, strict=True)]
    return "\n".join([heading(table, rows), "", format_table(grid, (rule,), words), "", *notes]) + "\n"


def as_csv(table: Table, rows: Numbers) -> str:
    """One line per number, for programs; unknown values are empty."""
    decimals = 2 if table.percent else 4
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for number in itertools.chain(*rows):
        mean, margin = number.mean, number.margin
        interval = (None, None) if margin is None else (mean - margin, mean + margin)
        figures = (mean, *interval, number.cell.published)
        *measured, published = ("" if f is None else f"{f:.{decimals}f}" for f in figures)
        comparable = ("yes" if number.cell.comparable else "no") if published else ""
        writer.writerow((number.row, number.column, *measured, len(number.values), published, comparable))
    return text.getvalue()
