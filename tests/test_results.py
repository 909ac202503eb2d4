"""Tables of results say what the raw files beside them say, pages what the tables say, and prose no measured number."""

import re
import runpy
from pathlib import Path

import pytest

from npexp.model_card import listing

ROOT = Path(__file__).parents[1]
WRITE = runpy.run_path(str(ROOT / "results/write.py"))
GENERATED = {"docs/experiments.md", "docs/mixers.md"}  # from other raw files, and held to them by other tests
PAGES = [page for page in WRITE["PAGES"] if str(page.relative_to(ROOT)) not in GENERATED]
CODE = [r"```.*?```", r"`[^`\n]*`", r"\]\([^)]*\)", r"https?://\S+", r"arXiv \d{4}\.\d{5}(?:, \d{4}\.\d{5})*"]
NUMBER = re.compile(r"\d+\.\d+|\d[\d,]* (?:ms|µs|[KMG]i?B)\b")
ALLOWED = {  # what no run can change
    "README.md": {
        "3.11": "version of Python",
        "17 KB": "size of a state, by arithmetic",
    },
    "docs/bench.md": {"1.1": "threshold of --compare", "4 MiB": "threshold of --compare", "256 MiB": "size of a copy"},
    "docs/rmnp.md": {
        "5.5": "period of the features",
        "4.6": "floor of the log-noise",
        "0.01": "floor of the noise",
        "0.27": "initial weight",
        "0.005": "default of min_stddev",
        "0.02": "noise of the data",
        "2.1": "section of a book",
        "1.375": "period over the width of the domain",
        "0.19": "margin of the domain",
    },
    "results/bandits/README.md": {"1.2": "reward of an arm", "0.05": "noise of the rewards"},
    "results/bo/README.md": {"0.02": "noise of the training data"},
    "results/scale/README.md": {"4 GiB": "limit of a prediction"},
}


def measured(text: str) -> list[str]:
    """Decimals and numbers with units outside quotes, code, links and names of papers."""
    text = WRITE["QUOTE"].sub("", text.replace(listing(), ""))
    for code in CODE:
        text = re.sub(code, "", text, flags=re.DOTALL)
    return NUMBER.findall(text)


@pytest.mark.parametrize("script", WRITE["SCRIPTS"], ids=lambda p: p.parent.name)
def test_tables_are_current(script):
    module = WRITE["load"](script)
    assert module["TO"].read_text() == module["text"](), "run python results/write.py"


@pytest.mark.parametrize("page", WRITE["PAGES"], ids=lambda p: str(p.relative_to(ROOT)))
def test_quotes_are_current(page):
    assert page.read_text() == WRITE["filled"](page.read_text()), "run python results/write.py"


def test_stale_quotes_are_found():
    page = "<!-- results/bench/table.py: headline -->\n| TNP-D | 0.4 |\n<!-- end -->\nand so on"
    filled = WRITE["filled"](page)
    assert "| 0.507 | 49 | 821 |" in filled and "0.4 |" not in filled and filled.endswith("<!-- end -->\nand so on")
    assert WRITE["filled"](filled) == filled


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_prose_holds_no_measured_number(page):
    allowed = ALLOWED.get(str(page.relative_to(ROOT)), {})
    found = set(measured(page.read_text()))
    assert not found - allowed.keys(), "quote it from results/*/table.py; settings and published values go to ALLOWED"
    assert not allowed.keys() - found, "no longer there"


@pytest.mark.parametrize(
    "page", sorted((ROOT / "results").glob("**/README.md")), ids=lambda p: str(p.relative_to(ROOT))
)
def test_linked_files_exist(page):
    for name in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / name).exists(), name


def test_measured_numbers_are_found():
    text = "Ends at 0.053 ± 0.001, in 38 MiB (`0.5`, arXiv 2207.04179, [x](1.2.md)).\n```\n3.5\n```\n"
    quote = "<!-- results/bench/table.py: headline -->\n1.5\n<!-- end -->\n"
    assert measured(text + quote) == ["0.053", "0.001", "38 MiB"]
