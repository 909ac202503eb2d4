"""Tables of results say what the CSVs beside them say."""

import runpy
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parents[1] / "results").glob("*/table.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.parent.name)
def test_tables_are_current(script):
    module = runpy.run_path(str(script))
    assert module["TO"].read_text() == module["text"](), f"run python {script.parent.name}/{script.name}"
