"""Imports point one way: each level knows only those below it."""

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A module may import from lower levels and from its own package; those on one line do not know each other.
LEVELS = [
    ["npexp.errors", "npexp.fresh", "npexp.memory", "npexp.processes", "npexp.tables"],
    ["npexp.ops", "npexp.files", "npexp.batch", "npexp.config", "npexp.columns"],
    ["npexp.layers", "npexp.exchange", "npexp.run_files"],
    ["npexp.mixers", "npexp.likelihoods"],
    ["npexp.models"],
    ["npexp.cost", "npexp.mixer_costs"],
    ["npexp.registry", "npexp.objectives", "npexp.metrics", "npexp.scaling", "npexp.states", "npexp.trained"],
    ["npexp.predict", "npexp.module"],
    ["npexp.bandits", "npexp.resume", "npexp.runs", "npexp.schedules", "npexp.loggers"],
    ["npexp.watch"],
    ["npexp.callbacks"],
    ["npexp.onnx_operators", "npexp.model_card"],
    ["npexp.botorch", "npexp.publish"],
    ["npexp.cli_errors", "npexp.facts", "npexp.predict_files", "npexp.export", "npexp.sklearn", "npexp.mixer_table"],
    ["npexp.commands", "npexp.training_cli"],
    ["npexp.bench", "npexp.replay", "npexp.report", "npexp.sweep"],
    ["npexp.experiments"],
    ["npexp.cli"],
]
LEVEL = {name: i for i, names in enumerate(LEVELS) for name in names}
DATAMODULES_MAY_USE = {"npexp.batch", "npexp.columns", "npexp.errors"}


def unit(module: str) -> str:
    """The entry of LEVELS that a module belongs to."""
    return ".".join(module.split(".")[:2])


def imports(path: Path) -> set[str]:
    """Our modules that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found.add(node.module)
    return {m for m in found if m.split(".")[0] in ("npexp", "datamodules")}


def sources(package: str) -> list[Path]:
    return sorted(
        p for p in (ROOT / package).rglob("*.py") if p.name != "__main__.py" and p != ROOT / "npexp/__init__.py"
    )


@pytest.mark.parametrize("path", sources("npexp"), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_levels(path):
    here = unit(".".join(path.relative_to(ROOT).with_suffix("").parts))
    for module in imports(path) - {"npexp"}:
        if module.startswith("datamodules"):
            assert here == "npexp.training_cli", f"{path.name} imports {module}"
        elif unit(module) != here:
            assert LEVEL[unit(module)] < LEVEL[here], f"{path.name} imports {module}"


@pytest.mark.parametrize("path", sources("datamodules"), ids=lambda p: p.name)
def test_datamodules_know_only_the_batch(path):
    assert {m for m in imports(path) if m.startswith("npexp")} <= DATAMODULES_MAY_USE


def test_gpytorch_lives_in_datamodules_only():
    for path in sources("npexp"):
        assert "gpytorch" not in path.read_text().replace('"gpytorch"', ""), path


def test_every_package_is_installed():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for package in ("npexp", "datamodules")
        for path in (ROOT / package).rglob("__init__.py")
    }
    assert found <= set(listed)
