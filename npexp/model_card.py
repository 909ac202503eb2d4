"""The card of a published model: what it is, what it was trained on, how well it does, and where it ends."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from npexp.config import read_config
from npexp.cost import measure
from npexp.layers.domain import BEYOND, Domain
from npexp.models.base import NeuralProcess
from npexp.predict import Predictor, load_predictor
from npexp.run_files import RESULTS
from npexp.scaling import Scaling
from npexp.tables import markdown, plus_minus
from npexp.trained import CONFIG, available_pretrained

TRAINING = "training.yaml"
CARD = "README.md"
KINDS = {"joint": "all targets together", "marginal": "each target alone"}
TEMPLATE = """\
# {name}

`{model}`, a `{class_path}` with {parameters:,} parameters, for dx = {dx} and dy = {dy}; {likelihood} over targets.

```python
import npexp

predictor = npexp.load_predictor("{name}")  # or the path of this folder
state = predictor.condition(x, y)  # [n, {dx}] and [n, {dy}], or [b, n, {dx}] and [b, n, {dy}] for several tasks
law = predictor.predict(state, xt)  # law.mean, law.stddev, law.quantile([0.05, 0.95]), law.sample(10)
```

## Training

{source}

```yaml
{data_settings}
```

{steps} of {tasks} tasks, seed {seed}. [{training}]({training}) has every setting:

```
npexp fit --config pretrained/{name}/{training} --name {name}
```

## Scores

Nats per target and output, ± one standard error. {units}

{scores}
On `test` by the number of context points, {law}:

{by_context}
Measured by `{command}` at revision {revision}; {versions}; {device}.
[{results_file}]({results_file}) has all metrics.

## State

{state}

## Limits

{limits}
"""


def card(folder: Path) -> str:
    """The card, Markdown, from the other files of the folder."""
    config, results = (json.loads((folder / name).read_text()) for name in (CONFIG, RESULTS))
    training, predictor = read_config(folder / TRAINING), load_predictor(folder)
    model, data = predictor.model, training["data"]
    facts = {key: value for key, value in results.items() if "/" not in key}
    limits = [*_limits(predictor, data), *config["notes"]]
    return TEMPLATE.format(
        **{**facts, "name": folder.name, "steps": _steps(results["steps"], training["trainer"]["max_steps"])},
        class_path=config["net"]["class_path"],
        dx=model.dx,
        source=f"Data `{results['data']}`" + (f": {config['description']}" if config["description"] else "."),
        data_settings=yaml.safe_dump(data, sort_keys=False, default_flow_style=None, width=100).strip(),
        tasks=training.get("global_batch_size") or data.get("init_args", {}).get("batch_size"),
        training=TRAINING,
        units=_units(predictor.scaling),
        scores=_scores(results),
        by_context=_by_context(results),
        law=KINDS["joint" if results["likelihood"] == "joint" else "marginal"],
        results_file=RESULTS,
        state=_state(model),
        limits="\n".join(f"* {sentence}" for sentence in limits),
    )


def listing() -> str:
    """The models that ship with npexp as a table, Markdown."""
    rows = []
    for name, facts in available_pretrained().items():
        sizes = [f"{facts[key]:,}" for key in ("parameters", "steps")]
        score = plus_minus(facts["loglik"], facts["loglik_sem"])
        rows.append([f"[`{name}`](pretrained/{name}/{CARD})", f"`{facts['data']}`", *sizes, score, facts["likelihood"]])
    return markdown(["name", "data", "parameters", "steps", "log-likelihood", "over targets"], rows)


def _steps(taken: int, most: int) -> str:
    return f"{most:,} steps" if taken == most else f"{most:,} steps, weights of step {taken:,} (best validation),"


def _units(scaling: Scaling | None) -> str:
    if scaling is None:
        return "All in the units of the data."
    x, y = (f"{list(shift)} taken off, then over {list(scale)}" for shift, scale in (scaling[:2], scaling[2:]))
    return f"Scores are in the units of training (x: {x}; y: {y}); the predictor takes and gives raw values."


def _scores(results: Mapping[str, Any]) -> str:
    """A row per test set and kind of density; the exact posterior and the gap to it where there is one."""
    kinds = list(KINDS) if results["likelihood"] == "joint" else ["marginal"]
    sets = dict.fromkeys(key.partition("/")[0] for key in results if "/" in key)
    known = all(f"{name}/oracle_gap_joint" in results for name in sets)
    rows = []
    for name in sets:
        for kind in kinds:
            score, gap = (_pair(results, f"{name}/{key}_{kind}") for key in ("loglik", "oracle_gap"))
            inside = plus_minus(*(100 * v for v in _pair(results, f"{name}/coverage_95")), digits=1)
            rows.append([f"`{name}`", KINDS[kind], plus_minus(*score)])
            rows[-1] += [f"{score[0] + gap[0]:.3f}", plus_minus(*gap)] if known else []
            rows[-1] += [plus_minus(*_pair(results, f"{name}/rmse")), inside]
    oracle = ["exact posterior", "gap"] if known else []
    heads = ["test set", "density of", "log-likelihood", *oracle, "RMSE", "% in 95 % intervals"]
    note = "\nThe exact posterior knows each task's kernel and hyperparameters, which no model can: a ceiling.\n"
    return markdown(heads, rows) + (note if known else "")


def _by_context(results: Mapping[str, Any]) -> str:
    bins = {key.rpartition("/")[2]: value for key, value in results.items() if key.startswith("test/loglik_nc/")}
    heads = [" to ".join(end.lstrip("0") or "0" for end in name.split("-")) for name in bins]
    return markdown(["context points", *heads], [["log-likelihood", *(f"{value:.3f}" for value in bins.values())]])


def _state(model: NeuralProcess) -> str:
    size, traits = measure(model).state_bytes, model.traits
    held = "It grows with the context." if size is None else f"{size:,} bytes per task, whatever the context."
    merged = " States of two contexts can be merged, and be made to forget." if traits["additive"] else ""
    return f"{held} Adding points: {traits['update']}; removing them: {traits['remove']}.{merged}"


def _limits(predictor: Predictor, data: Mapping[str, Any]) -> list[str]:
    """What follows from the settings."""
    found = ["It knows functions like those of its training. Test sets of others, if any, show what becomes of them."]
    domain = next((part for part in predictor.model.children() if isinstance(part, Domain)), None)
    if domain is None:
        found.append("Inputs outside the range of its training are taken, but predictions there mean nothing.")
    else:
        known, taken = (_ends(domain, predictor.scaling, far) for far in (2.0, 2 + BEYOND))
        found.append(f"It was trained on inputs in {known} and refuses any outside {taken}.")
    if isinstance(sizes := data.get("init_args", {}).get("num_context"), list):
        found.append(f"It was trained and tested on contexts of {sizes[0]} to {sizes[1]} points; it takes more.")
    return found


def _ends(domain: Domain, scaling: Scaling | None, far: float) -> str:
    """Lowest and highest input of each axis in raw units."""
    ends = torch.stack([domain.centre - far * domain.unit, domain.centre + far * domain.unit]).double().cpu()
    if scaling is not None:
        ends = ends * ends.new_tensor(scaling.x_scale) + ends.new_tensor(scaling.x_shift)
    return " x ".join(f"[{low:.3g}, {high:.3g}]" for low, high in ends.T.tolist())


def _pair(results: Mapping[str, Any], key: str) -> tuple[float, float]:
    """A metric and its standard error, NaN where they are unknown."""
    value, error = (results.get(name) for name in (key, f"{key}_sem"))
    return math.nan if value is None else value, math.nan if error is None else error
