"""A tested run as a folder to give away.

    model.safetensors    the weights
    config.json          the model's class and arguments, units and columns of its data, and the weights' checksum
    training.yaml        what it was trained with: `npexp fit --config training.yaml` trains it again
    test_metrics.json    as `npexp test` wrote it
    README.md            the card, made from the others: `npexp.model_card`

`npexp.load_predictor` takes such a folder, or its name where it ships with npexp in `pretrained/`.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import yaml
from safetensors.torch import save

from npexp.config import read_config
from npexp.errors import ConfigError
from npexp.files import whole_file
from npexp.model_card import CARD, TRAINING, card
from npexp.registry import description, names
from npexp.run_files import RESULTS
from npexp.trained import CONFIG, WEIGHTS, read

OF_THE_RUN = ("name", "version", "runs_dir", "ckpt_path", "defaults", "figures")  # settings that say where, not what


def publish(checkpoint: str | Path, folder: str | Path, notes: Sequence[str] = ()) -> None:
    """Writes a tested run into a new folder, the card last.

    Args:
        checkpoint: of a run that `npexp test` has measured, in the run's folder.
        folder: must not exist, or be empty.
        notes: sentences for the card's section on limits.

    Raises:
        ConfigError: the run was not tested, or another checkpoint of it was; or the folder holds something.
        StorageError: the folder cannot be written.
    """
    checkpoint, folder = Path(checkpoint), Path(folder)
    run, trained = checkpoint.parent.parent, read(checkpoint)
    try:
        text = (run / RESULTS).read_text()
        results = json.loads(text)
        tested, data = results["steps"], results["data"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ConfigError(f"a card needs scores: first npexp test --ckpt_path {checkpoint} ({error})") from error
    if tested != trained.steps:
        raise ConfigError(
            f"{run / RESULTS} is of step {tested}, {checkpoint.name} of step {trained.steps}: "
            f"npexp test --ckpt_path {checkpoint} measures it"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"expected a new or empty folder to write to, {folder} is there already: give another one")
    training = {key: value for key, value in read_config(run / "config.yaml").items() if key not in OF_THE_RUN}
    training["data"].get("init_args", {}).pop("cache_dir", None)
    # copies, as safetensors refuses weights that share memory
    weights = save({name: value.detach().cpu().contiguous().clone() for name, value in trained.weights.items()})
    config = {
        "net": trained.net,
        "scaling": trained.scaling,
        "columns": trained.columns,
        "sha256": hashlib.sha256(weights).hexdigest(),
        "description": description(f"data/{data}") if data in names("data") else None,
        "notes": list(notes),
    }
    for name, content in {
        RESULTS: text,
        TRAINING: yaml.safe_dump(training, sort_keys=False),
        CONFIG: json.dumps(config, indent=2) + "\n",
    }.items():
        with whole_file(folder / name) as file:
            file.write(content)
    with whole_file(folder / WEIGHTS, "wb") as file:
        file.write(weights)
    content = card(folder)
    with whole_file(folder / CARD) as file:
        file.write(content)
