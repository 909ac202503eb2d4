"""Tables of text, for the terminal and for Markdown."""

import math
from collections.abc import Collection, Iterable, Sequence
from typing import Any


def plus_minus(value: float, error: float = math.nan, digits: int = 3) -> str:
    """A value with its standard error, where that is known."""
    return f"{value:.{digits}f}" + ("" if math.isnan(error) else f" ± {error:.{digits}f}")


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ([cell.replace("|", r"\|") for cell in cells] for cells in (heads, ["---"] * len(heads), *rows))
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def terminal(
    title: str,
    heads: Sequence[str],
    rows: Iterable[Sequence[Any]],
    words: Collection[str],
    wrapped: str = "",
    notes: str = "",
) -> None:
    """Prints a table.

    Args:
        title: stands above it.
        heads: of the columns.
        rows: their cells.
        words: heads of the columns that stand on the left; numbers stand on the right.
        wrapped: head of the column whose lines may be broken.
        notes: stand below it.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    shown = Table(box=box.SIMPLE_HEAD, header_style="bold")
    shown.pad_edge, shown.collapse_padding = False, True
    for head in heads:
        shown.add_column(head, justify="left" if head in words else "right", no_wrap=head != wrapped)
    for row in rows:
        shown.add_row(*row)
    console = Console(highlight=False, markup=False)
    console.width = max(console.width, 130)  # lines that a terminal breaks are better than words cut off
    console.print(title)
    console.print(shown)
    if notes:
        console.print(notes)
        console.print()
