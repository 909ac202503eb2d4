"""Tables: numbers from hand-made runs, and every format says the same."""

import csv
import math
import re

import numpy as np
import pytest
from scipy import stats

from npexp.report.estimates import over_batches
from npexp.report.finished import Finished, Row
from npexp.report.formats import escape, to_latex, to_markdown, write_csv
from npexp.report.published import published, values
from npexp.report.summary import EXACT, blocks, other_tasks
from tests.report.folders import LEVELS, make, tasks


def rows(folder, *settings):
    """A row for each list of settings of runs."""
    found = []
    for i, replicates in enumerate(settings):
        runs = [Finished(make(folder / str(i) / str(j), **one)) for j, one in enumerate(replicates)]
        found.append(Row(runs[0].facts["model"], runs))
    return found


@pytest.fixture
def family(tmp_path):
    """Three seeds of one factorised model, one of another, and a joint one."""
    seeds = [{"model": "tnp", "seed": s, "shift": 0.5} for s in range(3)]
    return rows(tmp_path, [{"model": "cnp"}], seeds, [{"model": "tnpnd", "likelihood": "joint", "seed": 7}])


def test_blocks_are_kinds_of_likelihood_and_lines_are_ranked(family):
    first, second = blocks(family)
    assert (first.test_set, first.kind, second.kind) == ("test", "factorised", "joint")
    assert [line.label for line in first.lines] == [EXACT, "tnp", "cnp"]
    assert [line.label for line in second.lines] == [EXACT, "tnpnd"]
    assert first.best["loglik"] == first.best["oracle_gap"] == {"tnp"} and second.best["loglik"] == set()


def test_means_over_seeds_and_batches(family):
    first, second = blocks(family)
    exact, tnp, cnp = first.lines
    logliks = [tasks(seed, 0.5)["loglik_marginal"].mean() for seed in range(3)]
    assert tnp.cells["loglik"] == (pytest.approx(np.mean(logliks)), pytest.approx(stats.sem(logliks)))
    assert cnp.cells["rmse"] == (pytest.approx(np.sqrt(tasks(0)["mse"].mean())), 0.01)
    table = tasks(0)
    oracle = table["loglik_marginal"] + table["oracle_gap_marginal"]
    assert exact.cells["loglik"] == pytest.approx(over_batches(oracle, table["batch"]))
    assert exact.cells["loglik"].mean == pytest.approx(tnp.cells["loglik"].mean + tnp.cells["oracle_gap"].mean)
    assert second.lines[0].cells["loglik"].mean == pytest.approx(exact.cells["loglik"].mean)
    assert cnp.cells["calibration_error"].mean == pytest.approx(np.abs(table["coverage"].mean(0) - LEVELS).mean())


def test_bold_of_single_seeds_is_a_paired_comparison(tmp_path):
    """Errors of 0.01 each would call 0.008 a tie; task by task it is none."""
    small = rows(tmp_path, [{"model": "cnp"}], [{"model": "tnp", "shift": 0.008}])
    assert blocks(small)[0].best["loglik"] == {"tnp"}
    assert blocks(small)[0].best["crps"] == {"cnp", "tnp"}  # equal
    other = rows(tmp_path / "other", [{"model": "cnp"}], [{"model": "tnp", "shift": 0.008, "data_seed": 1}])
    remark = r"other/1/0 was tested on other test tasks than .*other/0/0: "
    assert [bool(re.search(remark, text)) for text in other_tasks(other)] == [True] and not other_tasks(small)


def test_coverage_is_best_where_it_is_nearest(tmp_path):
    family = rows(tmp_path, [{"model": "cnp"}], [{"model": "tnp", "seed": 1}])
    for row, share in zip(family, (0.97, 0.94), strict=True):
        row.runs[0].metrics["test/coverage_95"] = share
        row.runs[0].tasks["test"]["coverage_95"][:] = share
    assert blocks(family)[0].best["coverage_95"] == {"tnp"}


def test_units_of_published_tables(tmp_path):
    """All outputs of a target together: pooled over batches for marginal scores, a multiple of the joint ones."""
    family = rows(
        tmp_path,
        [{"model": "paper/tnpd", "data": "celeba32", "dy": 3}],
        [{"model": "tnpa", "data": "celeba32", "dy": 3, "likelihood": "joint"}],
        [{"model": "np", "data": "celeba32", "dy": 3, "likelihood": "joint"}],
    )
    factorised, joint = blocks(family)
    lines = {line.label: line for block in (factorised, joint) for line in block.lines[1:]}
    quoted = {label: [(row.score, row.value) for row in line.published] for label, line in lines.items()}
    assert quoted == {
        "paper/tnpd": [("pooled", "3.89")],
        "tnpa": [("joint", "5.82")],
        "np": [("pooled", "2.48"), ("pooled", "2.481")],
    }
    pooled, table = family[0].runs[0].metrics["test/loglik_pooled"], tasks(0)
    for line in lines.values():
        assert line.cells["pooled"].mean == pytest.approx(pooled)
        assert line.cells["joint"].mean == pytest.approx(3 * table["loglik_joint"].mean())
    for block in (factorised, joint):
        exact = block.lines[0].cells
        assert exact["pooled"].mean == pytest.approx(  # the gap of a batch weighs as its targets
            pooled + 3 * np.mean([np.average(g, weights=n) for g, n in _by_batch(table, "oracle_gap_marginal")])
        )
        assert exact["joint"].mean == pytest.approx(3 * (table["loglik_joint"] + table["oracle_gap_joint"]).mean())
    assert "pooled" in factorised.columns and "joint" not in factorised.columns
    assert {"pooled", "joint", "published"} <= set(joint.columns)


@pytest.mark.parametrize(
    "other",
    [
        {"facts": {"mixer": "bigbird"}},
        {"facts": {"decoding": "autoregressive"}},
        {"config": {"data.init_args.noise": 0.1}},
        {"config": {"data.init_args.kernel.init_args.lengthscale": [0.6, 1.0]}},
        {"config": {"data_name": "gp_mixed"}},
        {"config": {"model.net.init_args.likelihood.class_path": "npexp.likelihoods.Cholesky"}},
    ],
    ids=str,
)
def test_published_values_stand_beside_what_was_published(tmp_path, other):
    same = {"config": {"data.init_args.noise": 0.02, "data.init_args.num_test_batches": 5, "data_name": "gp_rbf"}}
    (block,) = blocks(rows(tmp_path, [{"model": "tnp", **same}], [{"model": "tnp", "seed": 1, **other}]))
    assert sorted(len(line.published) for line in block.lines[1:]) == [0, 1]


def test_nothing_is_best_across_different_tasks(tmp_path):
    (block,) = blocks(rows(tmp_path, [{"model": "cnp"}], [{"model": "tnp", "shift": 0.5, "data_seed": 1}]))
    assert block.best == {}


def test_a_model_that_failed_is_last(tmp_path):
    """And what only one replicate has is no mean over seeds."""
    family = rows(tmp_path, [{"model": "bad"}], [{"model": "cnp"}, {"seed": 1, "facts": {"steps": 1000}}])
    family[0].runs[0].metrics["test/loglik_marginal"] = math.nan
    del family[1].runs[1].metrics["test/energy_score"]
    (block,) = blocks(family)
    assert [line.label for line in block.lines[1:]] == ["cnp", "bad"]
    assert block.best["loglik"] == {"cnp"} and block.best["energy_score"] == set()
    assert "energy_score" in block.lines[2].cells and "energy_score" not in block.lines[1].cells
    text = to_markdown([block])
    assert (
        re.search(r"\| bad \| 1 \| 1,234 \| 100 \| 16.0 s \| nan ", text)
        and "| cnp | 2 | 1,234 | 100 to 1,000 |" in text
    )


def _by_batch(table, column):
    return [(table[column][table["batch"] == i], table["num_target"][table["batch"] == i]) for i in range(5)]


def test_markdown(family):
    text = to_markdown(blocks(family))
    assert text.count("### test, ") == 2
    row = next(line for line in text.splitlines() if line.startswith("| cnp"))
    assert "| 1 | 1,234 | 100 |" in row and "0.26 ± 0.02 [1]; 0.265 ± 0.015 [2]" in row
    (bold,) = (line for line in text.splitlines() if line.startswith("| tnp |"))
    assert re.search(r"\| \*\*\d\.\d{3} ± \d\.\d{3}\*\* \|", bold) and "1.39 ± 0.00† [1]" in bold
    assert "[1] Nguyen & Grover 2022 (arXiv 2207.04179), Table 1: " in text and "† : " not in text
    assert "†: not yet checked" in text


def test_latex_is_well_formed(family):
    """Braces and environments close, and every row has as many cells as the table has columns."""
    text = to_latex("gp_rbf", blocks(family))
    bare = re.sub(r"\\[\\{}&%$#_]", "", text)
    assert bare.count("{") == bare.count("}") and bare.count("$") % 2 == 0
    depth = np.cumsum([(c == "{") - (c == "}") for c in bare])
    assert depth.min() == 0
    stack = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        assert kind == "begin" or stack.pop() == name
        stack += [name] if kind == "begin" else []
    assert not stack
    likelihoods, others = re.findall(r"\\begin\{tabular\}\{(l?r*)\}(.*?)\\end\{tabular\}", text, re.DOTALL)
    for (columns, table), rows in ((likelihoods, 6), (others, 4)):  # two blocks have a line of the exact posterior
        body = [line for line in table.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
        assert len(body) == rows and {len(re.findall(r"(?<!\\)&", line)) + 1 for line in body} == {len(columns)}
    assert all(ord(c) < 128 for c in text)
    assert r"\textbf{" in text and "gp\\_rbf. Log-lik" in text and r"\toprule" in text and r"\bottomrule" in text


def test_escapes():
    assert escape("a_b & 5 % -1.5 ± 0.1† x-1 ↑") == r"a\_b \& 5 \% $-$1.5 $\pm$ 0.1$^\dagger$ x-1 $\uparrow$"
    assert escape("npexp report --diff") == "npexp report -{}-diff"
    assert escape("|a<b>") == r"\textbar{}a\textless{}b\textgreater{}"
    assert escape("\\{") == r"\textbackslash{}\{"


def test_csv_has_every_digit(family, tmp_path):
    found = blocks(family)
    write_csv(tmp_path / "t.csv", "gp_rbf", found)
    with (tmp_path / "t.csv").open(newline="") as file:
        lines = {(r["likelihood"], r["model"], r["metric"]): r for r in csv.DictReader(file)}
    row = lines["factorised", "tnp", "loglik"]
    assert (float(row["value"]), float(row["error"])) == found[0].lines[1].cells["loglik"]
    assert (row["seeds"], row["error_over"], row["best"]) == ("3", "seeds", "1")
    assert lines["factorised", "cnp", "loglik"]["error_over"] == "batches"
    assert "Gen-NPs" in lines["factorised", "cnp", "published"]["error_over"]


def test_published_names_are_ours():
    from npexp.config import config_names

    assert {f"model/{row.model}" for row in values()} <= set(config_names("model"))
    assert {f"data/{row.data}" for row in values()} <= set(config_names("data"))
    assert {row.score for row in values()} == {"pooled", "joint"} and {row.checked for row in values()} == {"yes", "no"}
    assert all(float(row.value) < 8 and (not row.error or float(row.error) >= 0) for row in values())
    assert [row.value for row in published("gp_rbf", "test_periodic", "paper/tnpa")] == ["-2.26", "-2.320"]
    assert published("gp_rbf", "test", "rmnp") == []
