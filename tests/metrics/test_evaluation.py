"""Averages and error bars: any split into batches and processes gives one mean, and batches give honest bars."""

import math
import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from npexp.errors import DataError
from npexp.likelihoods import DiagonalGaussian
from npexp.metrics import Evaluation, evaluation, task_scores
from npexp.metrics.scores import LEVELS

NAMES = {
    *("loglik_joint", "loglik_marginal", "loglik_pooled", "oracle_gap_joint", "oracle_gap_marginal", "rmse", "mae"),
    *("crps", "energy_score", "calibration_error", "coverage_95"),
}
BY_BATCH = {"loglik_pooled", *(f"{name}_sem" for name in NAMES)}


def evaluate(batches, **settings):
    metric = Evaluation(**settings)
    for number, (pred, batch) in enumerate(batches):
        metric.update(pred, batch, number)
    return metric


def split(tasks, sizes, collate):
    starts = np.cumsum([0, *sizes])
    assert starts[-1] == len(tasks)
    return [collate(tasks[a:b]) for a, b in pairwise(starts)]


def assert_same(a, b, but=()):
    assert a.keys() == b.keys() and all(type(v) is float for v in a.values())
    for name in a.keys() - set(but):
        assert a[name] == pytest.approx(b[name], rel=1e-9, abs=1e-12, nan_ok=True), name


def test_names(make_tasks, collate):
    got = evaluate([collate(make_tasks(12))]).compute()
    assert {n for n in got if "/" not in n} == NAMES | {f"{n}_sem" for n in NAMES}


def test_absent_names(make_tasks, collate):
    got = evaluate([collate(make_tasks(12, oracle=False))], energy=False).compute()
    absent = {"oracle_gap_joint", "oracle_gap_marginal", "energy_score"}
    assert {n for n in got if "/" not in n and not n.endswith("_sem")} == NAMES - absent


def ratio_error(values, sizes):
    """Standard error of a mean over tasks whose batches are independent, by its definition."""
    batches = np.split(values, np.cumsum(sizes)[:-1])
    squares = [(batch.sum() - values.mean() * len(batch)) ** 2 for batch in batches]
    return math.sqrt(len(sizes) / (len(sizes) - 1) * sum(squares)) / len(values)


def plain_error(values, _):
    return values.std(ddof=1) / math.sqrt(len(values))


@pytest.mark.parametrize(
    ("sizes", "error"), [([2, 5, 1, 4], ratio_error), ([1] * 12, plain_error)], ids=["batches", "one task each"]
)
def test_means_are_over_tasks_and_errors_over_batches(sizes, error, make_tasks, collate):
    tasks = make_tasks(12)
    got, scores = evaluate(split(tasks, sizes, collate)).compute(), task_scores(*collate(tasks))
    scores = {name: values.numpy() for name, values in scores.items()}
    coverage, mse = scores.pop("pit_coverage"), scores.pop("mse")
    for name, values in scores.items():
        assert got[name] == pytest.approx(values.mean())
        assert got[f"{name}_sem"] == pytest.approx(error(values, sizes)), name
    gap = coverage.mean(0) - LEVELS
    assert got["rmse"] == pytest.approx(math.sqrt(mse.mean()))
    assert got["rmse_sem"] == pytest.approx(error(mse, sizes) / (2 * got["rmse"]))
    assert got["calibration_error"] == pytest.approx(abs(gap).mean())
    assert got["calibration_error_sem"] == pytest.approx(error((coverage * np.sign(gap)).mean(1), sizes))


def test_pooled_is_the_mean_over_batches(make_tasks, collate):
    batches = split(make_tasks(12), [3, 4, 5], collate)
    per_batch = [
        float(pred.marginal_log_prob(batch.yt)[batch.mask_t].sum() / batch.mask_t.sum()) for pred, batch in batches
    ]
    got = evaluate(batches).compute()
    assert got["loglik_pooled"] == pytest.approx(np.mean(per_batch))
    assert got["loglik_pooled_sem"] == pytest.approx(np.std(per_batch, ddof=1) / math.sqrt(3))


@pytest.mark.parametrize("sizes", [[1] * 12, [5, 1, 6], [4, 4, 4]])
def test_any_split_into_batches(sizes, make_tasks, collate):
    tasks = make_tasks(12)
    whole = evaluate([collate(tasks)]).compute()
    assert_same(evaluate(split(tasks, sizes, collate)).compute(), whole, but=BY_BATCH)


def test_unpadded_tasks_without_masks(make_tasks, collate):
    tasks = make_tasks(12)
    assert_same(evaluate(tasks).compute(), evaluate(split(tasks, [1] * 12, collate)).compute())


def test_states_add_up(make_tasks, collate):
    batches = split(make_tasks(12), [5, 1, 6], collate)
    whole, left, right = evaluate(batches), evaluate(batches[:1]), evaluate(batches[1:])
    total = Evaluation()
    total.merge_state({k: left.metric_state[k] + right.metric_state[k] for k in left.metric_state})
    total.update(*batches[0])  # torchmetrics counts updates, and warns of a metric that saw none
    left.merge_state(right)
    assert_same(left.compute(), whole.compute())
    assert_same(total.compute(), evaluate([*batches, batches[0]]).compute())


def test_bins_by_context_size(make_tasks, collate):
    tasks = make_tasks(40)
    got = evaluate(split(tasks, [15, 25], collate)).compute()
    loglik = task_scores(*collate(tasks))["loglik_joint"].tolist()
    for low, high in [(0, 0), (1, 1), (2, 3), (4, 7), (8, 15), (16, 31)]:
        inside = [v for v, (_, batch) in zip(loglik, tasks, strict=True) if low <= batch.xc.shape[1] <= high]
        assert got.get(f"loglik_nc/{low:05d}-{high:05d}") == (pytest.approx(np.mean(inside)) if inside else None)
    names = [n for n in got if "/" in n]
    assert names == sorted(names) and len(names) >= 4


def test_every_context_size_has_a_bin():
    names = [evaluation._bin_name(i) for i in range(len(evaluation.EDGES))]
    assert names == sorted(names) and names[-2:] == ["loglik_nc/32768-65535", "loglik_nc/65536-more"]


@pytest.mark.parametrize("widths", [(1,), (0.25, 30, 30)], ids=["overconfident", "over and under"])
def test_error_bars_match_the_bootstrap(widths, make_tasks, collate):
    """Batches are resampled whole. Tasks of one batch share how far off the prediction is."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 8, 120)
    batches = []
    for pred, batch in split(make_tasks(int(sizes.sum())), sizes, collate):
        width = torch.from_numpy(np.resize(widths, batch.num_tasks))[:, None, None]
        batches.append((DiagonalGaussian(pred.mean + rng.uniform(-3, 3), pred.stddev * width), batch))
    got, scores = evaluate(batches, energy=False).compute(), [task_scores(*b, energy=False) for b in batches]
    draws = rng.multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), size=4000)

    def resampled(name):
        return (draws @ np.stack([s[name].sum(0).numpy() for s in scores])).T / (draws @ sizes)

    gap = resampled("pit_coverage").T - LEVELS
    assert (gap.mean(0) < 0).any() and (gap.mean(0) > 0).any() == (max(widths) > 1)
    assert got["rmse_sem"] == pytest.approx(np.sqrt(resampled("mse")).std(), rel=0.06)
    assert got["calibration_error_sem"] == pytest.approx(abs(gap).mean(1).std(), rel=0.06)
    for name in ("loglik_joint", "mae", "crps", "coverage_95"):
        assert got[f"{name}_sem"] == pytest.approx(resampled(name).std(), rel=0.06), name
    assert got["mae_sem"] > 1.5 * plain_error(torch.cat([s["mae"] for s in scores]).numpy(), sizes)


def test_variance_survives_a_large_mean():
    values = 1e6 + torch.linspace(-1, 1, 101, dtype=torch.float64)
    _, sem = evaluation._mean_and_sem(sum(evaluation._cross_sums(v) for v in values[:, None]))
    assert float(sem) == pytest.approx(float(values.std()) / math.sqrt(101), rel=1e-3)


def test_one_batch_has_no_error_bar(make_tasks, collate):
    for seed in range(20):  # rounding differs from batch to batch
        got = evaluate([collate(make_tasks(1 + seed, seed))], energy=False).compute()
        assert all(math.isnan(v) == n.endswith("_sem") for n, v in got.items())


def test_a_perfect_mean_has_no_error(make_tasks, collate):
    batches = split(make_tasks(5), [2, 3], collate)
    for pred, batch in batches:
        pred._mean = batch.yt
    got = evaluate(batches, energy=False).compute()
    assert got["rmse"] == got["rmse_sem"] == 0


def test_no_task_is_an_error():
    with warnings.catch_warnings(), pytest.raises(DataError, match="call update before compute"):
        warnings.simplefilter("ignore", UserWarning)  # torchmetrics says so too, in passing
        Evaluation().compute()


def test_reset(make_tasks, collate):
    first, second = collate(make_tasks(5)), collate(make_tasks(7, seed=1))
    metric = evaluate([first])
    metric.compute()
    metric.reset()
    metric.update(*second)
    assert_same(metric.compute(), evaluate([second]).compute())


def test_states_stay_float64(make_tasks, collate, monkeypatch):
    batch = collate(make_tasks(5))
    metric = evaluate([batch])
    expected = evaluate([batch]).compute()
    for cast in (lambda m: m.to(torch.bfloat16), lambda m: m.half(), lambda m: torch.nn.ModuleList([m]).float()):
        cast(metric)
        assert all(v.dtype == torch.float64 for v in metric.metric_state.values())
    assert_same(metric.compute(), expected)
    assert Evaluation().to("meta").moments.device.type == "meta"
    monkeypatch.setattr(evaluation, "NO_FLOAT64", frozenset({"meta"}))  # stands for a device without float64
    metric.reset()
    metric.to("meta").update(*batch)
    assert_same(metric.compute(), expected)


def test_works_under_inference_mode_and_after_it(make_tasks, collate):
    batches = split(make_tasks(12), [5, 7], collate)
    metric = Evaluation()
    with torch.inference_mode():
        metric.reset()
        metric.update(*batches[0])
    metric.update(*batches[1])
    assert_same(metric.compute(), evaluate(batches).compute())


def _worker(rank: int, address: str, shards, out: str) -> None:
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=len(shards))
    metric = Evaluation(keep_tasks=True)
    for index, (pred, batch) in enumerate(shards[rank]):
        metric.update(pred, batch, number=index * len(shards) + rank)
    torch.save(metric.compute(), f"{out}/{rank}")
    np.savez(f"{out}/{rank}.npz", **metric.task_table())
    dist.destroy_process_group()


def test_two_processes_equal_one(make_tasks, collate, tmp_path):
    """Uneven shards, of which only one has an oracle and each has context sizes of its own."""
    plain, known = (sorted(make_tasks(12, oracle=o), key=lambda task: task[1].xc.shape[1]) for o in (False, True))
    batches = [collate(t) for t in (plain[:3], known[7:9], plain[3:6], known[9:], plain[6:7])]
    mp.spawn(_worker, (f"file://{tmp_path}/store", [batches[::2], batches[1::2]], str(tmp_path)), nprocs=2)
    first, second = (torch.load(tmp_path / str(rank)) for rank in range(2))
    assert first == second
    assert_same(first, evaluate(batches).compute())
    expected = evaluate(batches, keep_tasks=True).task_table()
    for rank in range(2):
        with np.load(tmp_path / f"{rank}.npz") as found:
            assert list(found) == list(expected)
            for name, values in found.items():
                np.testing.assert_array_equal(values, expected[name], err_msg=name)


def test_the_table_of_tasks(make_tasks, collate):
    """Every task by itself, in its place, whatever its padding."""
    tasks, sizes = make_tasks(7), [2, 4, 1]
    found = evaluate(split(tasks, sizes, collate), keep_tasks=True, energy=False).task_table()
    assert found["batch"].tolist() == [0, 0, 1, 1, 1, 1, 2] and found["task"].tolist() == [0, 1, 0, 1, 2, 3, 0]
    assert np.isnan(found["energy_score"]).all()
    for i, (pred, batch) in enumerate(tasks):
        alone = task_scores(pred, batch, energy=False)
        np.testing.assert_allclose(found["coverage"][i], alone.pop("pit_coverage")[0])
        for name, value in alone.items():
            assert found[name][i] == pytest.approx(value.item()), name
        assert (found["num_context"][i], found["num_target"][i]) == (batch.xc.shape[1], batch.xt.shape[1])
        assert found["y_mean"][i] == pytest.approx(torch.cat([batch.yc, batch.yt], 1).mean().item())
