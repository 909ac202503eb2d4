"""What is written about tables is what their results say, and no result is above what is possible."""

import csv
import json
import re
import runpy
from pathlib import Path

import pytest

from npexp.cli import main
from npexp.config import expand, flatten, read_config, words
from npexp.experiments import plan as plans
from npexp.experiments.page import MISSING, chapter, chapters, finished, numbers, table
from npexp.experiments.plan import Plan, Row, cells, contradictions, names, read
from npexp.experiments.run import locked
from npexp.report.summary import blocks
from npexp.run_files import RESULTS
from tests.report.folders import make

ROOT = Path(__file__).parents[2]
RESULTS_DIR = ROOT / "results"
WRITE = runpy.run_path(str(RESULTS_DIR / "write.py"))
PLANS = {name: read(name) for name in names()}
TRAINED = [name for name, plan in PLANS.items() if plan.rows]
DONE = [(plan, cell) for plan in TRAINED for cell in cells(PLANS[plan], plan)]
DONE = [(plan, cell) for plan, cell in DONE if (RESULTS_DIR / cell.place / RESULTS).is_file()]
# Not knowing the hyperparameters costs 0.042 to 0.057 nats per target on samples of a few thousand RBF tasks, by Bayes'
# rule on a grid (results/moment/bayes.py): what is far below that has seen its targets.
LEAST_GAP = {"gp_1d": 0.03}


def plan(**more):
    return Plan(1, "Title", "Q?", "P.", {"a": Row(["base"]), "b": Row(["base"])}, seeds=[0, 1], **more)


@pytest.fixture
def results(tmp_path):
    """Row a with two seeds, row b with one of two."""
    for row, seed, shift in (("a", 0, 0.0), ("a", 1, 0.2), ("b", 0, 0.5)):
        make(tmp_path / "t" / row / str(seed), row, seed, shift, config={"seed_everything": seed})
    return tmp_path


def test_numbers_in_texts(results):
    found = [json.loads((results / "t/a" / seed / RESULTS).read_text()) for seed in "01"]
    values = [one["test/loglik_marginal"] for one in found]
    mean, error = sum(values) / 2, abs(values[0] - values[1]) / 2  # of two values the standard error is half the range
    families = finished(plan(), "t", results)
    known = numbers([block for rows in families.values() for block in blocks(rows)])
    assert known["a", "loglik", ""] == f"{mean:.3f} ± {error:.3f}" == known["a", "loglik", "test"]
    assert known["b", "steps", ""] == "100"
    text = chapter(plan(shows="{a.loglik} of {exact.loglik}, {b.crps@other}, {c.loglik}, {x}"), "t", results, "..")
    assert f"**What it shows.** {mean:.3f} ± {error:.3f} of {known['exact', 'loglik', '']}, " in text
    assert f"{MISSING}, {MISSING}, {{x}}" in text and "What failed" not in text


def test_ceilings_of_joint_and_factorised_models_are_two(results):
    make(results / "j/a/0", "a", 0)
    make(results / "j/b/0", "b", 0, 0.5, likelihood="joint")
    known = numbers([block for rows in finished(plan(), "j", results).values() for block in blocks(rows)])
    for kind, law, row in (("exact", "marginal", "a"), ("exact_joint", "joint", "b")):
        found = json.loads((results / "j" / row / "0" / RESULTS).read_text())
        value = found[f"test/loglik_{law}"] + found[f"test/oracle_gap_{law}"]
        assert known[kind, "loglik", ""].startswith(f"{value:.3f}") and known[kind, "loglik", "test"]


def test_a_table_says_how_it_marks_the_best(results):
    assert "same test tasks" in table(plan(), "t", results)
    for file in results.rglob("test_tasks.npz"):  # which is not kept with results
        file.unlink()
    assert "as if errors were independent" in table(plan(), "t", results)


def test_a_table_says_what_is_missing(results):
    text = table(plan(), "t", results)
    assert "By `npexp table t`: 3 of 4 cells. Missing: seeds 1 of b." in text
    assert text.index("| b | 1 | 1,234 | 100 | 16.0 s | ") < text.index(
        "| a | 2 | 1,234 | 100 | 16.0 s | "
    )  # best first


def test_pages_of_scripts_are_included(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s/x.png").touch()
    (tmp_path / "s/s.md").write_text("# Away\n\n| a |\n|---|\n| 1.5 |\n\n![x](x.png) [p](https://a.b)\n")
    made = Plan(2, "T", "Q?", "P.", commands=["python x.py"], pages=["s/s.md"], figures=["s/x.png", "s/y.png"])
    text = chapter(made, "s", tmp_path, "../results")
    assert "| 1.5 |" in text and "](../results/s/x.png)" in text and "https://a.b" in text and "\n### Away\n" in text
    assert "python x.py" in text and MISSING not in text
    assert MISSING in chapter(Plan(2, "T", "Q?", "P.", commands=["x"], pages=["s/t.md"]), "s", tmp_path, "../results")


@pytest.mark.parametrize("name", [name for name, plan in PLANS.items() if plan.commands])
def test_pages_are_what_the_scripts_write(name):
    made = {str(load["TO"].relative_to(RESULTS_DIR)) for load in map(WRITE["load"], WRITE["SCRIPTS"])}
    assert set(PLANS[name].pages) <= made
    assert all((ROOT / word).is_file() for command in PLANS[name].commands for word in command.split()[1:2])


def test_chapters_are_current():
    text = (ROOT / "docs/experiments.md").read_text()
    assert text == chapters(PLANS, RESULTS_DIR, "../results"), "npexp table --chapters docs/experiments.md"
    assert MISSING not in text
    assert [plan.chapter for plan in PLANS.values()] == list(range(1, len(PLANS) + 1))


@pytest.mark.parametrize("name", TRAINED)
def test_tables_are_current(name):
    path = RESULTS_DIR / name / "table.md"
    if any(plan == name for plan, _ in DONE):
        assert path.read_text() == table(PLANS[name], name, RESULTS_DIR), f"npexp table {name} --write"


@pytest.mark.parametrize(("name", "cell"), DONE, ids=str)
def test_results_are_those_of_the_plan_and_possible(name, cell):
    folder = RESULTS_DIR / cell.place
    found, config = json.loads((folder / RESULTS).read_text()), flatten(read_config(folder / "config.yaml"))
    assert contradictions(cell, config) == []
    texts = [value for value in [*found.values(), *config.values()] if isinstance(value, str)]
    assert not [text for text in texts if re.search(r"(^|[\s=])/", text)], "a path of the machine that made them"
    with (folder / "metrics.csv").open(newline="") as file:
        assert all(row["step"] for row in csv.DictReader(file))
    for key in ("revision", "versions", "device", "command", "parameters", "steps"):
        assert found[key], key
    if name in LEAST_GAP:
        assert found["test/oracle_gap_marginal"] > LEAST_GAP[name], "above what any model can know"


def test_rows_of_their_own_settings_are_what_fit_accepts(monkeypatch):
    """The others are made of recipes and models that tests of these go through one by one."""
    from npexp.training_cli import make_cli

    monkeypatch.setattr("sys.argv", ["npexp"])
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    every = [cell for name in TRAINED for cell in cells(PLANS[name], name)]
    special = {cell.row: cell for cell in every if any(key.startswith(("model.", "data.")) for key in cell.fit)}
    assert special
    for cell in special.values():
        layers = [word for path in expand(cell.configs) for word in ("--config", str(path))]
        settings = {**cell.fit, "seed_everything": cell.seed}
        config = make_cli(run=False, args=[*layers, *words(settings)]).config.as_dict()
        assert contradictions(cell, flatten(config)) == []


@pytest.fixture
def tables(results, monkeypatch):
    """In the working directory: t.yaml of row a, s.yaml of a script."""
    monkeypatch.chdir(results)
    text = "{chapter: 1, title: T, question: Q, protocol: P, "
    Path("t.yaml").write_text(text + "rows: {a: {configs: [base]}}}")
    Path("s.yaml").write_text(text + f"commands: [touch {results / 'touched'}], pages: [s/s.md]}}")
    return results


def test_the_command_lists_and_writes(tables, capsys):
    assert main(["table", "t.yaml", "--write", "--results=."]) == 0
    assert (tables / "t/table.md").read_text().endswith("1 of 1 cells.\n")
    assert main(["table", "t.yaml", "--list", "--results=."]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split() == ["a,", "seed", "0", "done"]
    with locked(Path("runs/t/a/0.lock")):
        assert main(["table", "t.yaml", "--list", "--results=."]) == 0
    assert capsys.readouterr().out.split() == ["a,", "seed", "0", "done,", "being", "worked", "on"]
    assert main(["table"]) == 0 and capsys.readouterr().out.startswith("gp_1d ")


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("t.yaml --rows b", "unknown row 'b'; known: a"),
        ("t.yaml --seeds 7", "unknown seed '7'; known: 0"),
        ("t.yaml --minutes 0", "expected --minutes > 0"),
        ("t.yaml --workers 0", "expected --workers to be an integer, at least 1"),
        ("s.yaml --write", "s is made by scripts, of which --write says nothing"),
        ("--write", "--write is about one table"),
        ("t.yaml --chapters c.md", "leave out t.yaml"),
    ],
)
def test_mistakes_run_nothing(words, error, tables, capsys):
    assert main(["table", *words.split()]) == 2
    assert error in capsys.readouterr().err and not Path("runs").exists() and not Path("touched").exists()


def test_pages_of_scripts_are_listed_not_made(tables, capsys):
    assert main(["table", "s.yaml", "--list"]) == 0
    assert capsys.readouterr().out.split() == ["s/s.md", "missing"] and not Path("touched").exists()


def test_outside_a_checkout_there_are_no_tables(tables, capsys, monkeypatch):
    monkeypatch.setattr(plans, "_home", lambda: Path("none"))
    assert main(["table"]) == 2 and "tables come with a checkout" in capsys.readouterr().err
    assert main(["table", "t.yaml", "--list"]) == 0
