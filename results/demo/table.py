"""Writes demo.md from table.json, which `make demo` leaves in runs/demo.

python results/demo/table.py
"""

import json
import runpy
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

from rich.console import Console

HERE = Path(__file__).parent
TO = HERE / "demo.md"
WIDTH = 100


def text() -> str:
    """The table as the demo prints it."""
    demo = runpy.run_path(str(HERE.parents[1] / "examples/digits.py"))
    with redirect_stdout(StringIO()) as printed:
        demo["print_table"](json.loads((HERE / "table.json").read_text()), Console(width=WIDTH))
    lines = "\n".join(line.rstrip() for line in printed.getvalue().strip().splitlines())
    return f"```\n{lines}\n```\n"


PARTS = {"table": text}

if __name__ == "__main__":
    TO.write_text(text())
