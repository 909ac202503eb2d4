"""Writes the tables of all results, and what pages quote of them.

    python results/write.py

`results/NAME/table.py` makes a page of tables from the raw files beside it: `text()` goes to the file `TO`. A page of
prose quotes one of its `PARTS` between two comments, and the test fails where either says anything else:

    <!-- results/NAME/table.py: PART -->
    <!-- end -->
"""

import re
import runpy
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "results").glob("*/table.py"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "results").glob("**/README.md"))]
QUOTE = re.compile(r"(<!-- (results/\w+/table\.py): (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


@cache
def load(script: Path) -> dict[str, Any]:
    """The names that a script defines."""
    return runpy.run_path(str(script))


def filled(page: str) -> str:
    """A page with its quotes as they have to be."""
    return QUOTE.sub(lambda m: f"{m[1]}\n{load(ROOT / m[2])['PARTS'][m[3]]()}\n{m[4]}", page)


def main() -> None:
    """Writes tables, then pages."""
    for script in SCRIPTS:
        load(script)["TO"].write_text(load(script)["text"]())
    for page in PAGES:
        page.write_text(filled(page.read_text()))


if __name__ == "__main__":
    main()
