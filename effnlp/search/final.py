"""The last look at a member of the frontier: quiet latency of its deployed model, and the test split, once."""

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from effnlp.record import Record
from effnlp.search.children import end_with_parent

if TYPE_CHECKING:
    from effnlp.evaluation.meter import Meter

log = logging.getLogger(__name__)


def measure_final(folder: Path, test: bool, latency: bool) -> None:
    """Add ``test/…`` and quiet ``infer/…`` to the record in ``folder``, and their cost to its evaluation.

    What the record holds already is not done again.
    """
    end_with_parent()
    with (folder / "output.log").open("a", encoding="utf-8", buffering=1) as file:
        sys.stdout = sys.stderr = file
        logging.basicConfig(stream=file, level=logging.INFO, format="%(asctime)s %(message)s", force=True)
        record = Record.load(folder)
        wants_test = test and not any(key.startswith("test/") for key in record.values)
        wants_latency = latency and not is_measured(record)
        if wants_test or wants_latency:
            measure(record, folder, wants_test, wants_latency)
            record.save(folder)


def is_measured(record: Record) -> bool:
    """Whether all chosen scenarios that measure more than FLOPs have done so."""
    scenarios: dict[str, dict[str, object]] = record.config["evaluation"]["scenarios"]
    wanted = [name for name, config in scenarios.items() if config.get("latency", True)]
    return all(f"infer/{name}/peak_memory_bytes" in record.values for name in wanted)


def measure(record: Record, folder: Path, test: bool, latency: bool) -> None:
    """Add to ``record`` what is asked for, measured on the deployed model in ``folder``.

    Raises:
        ValueError: If the data are not those that the run was trained on.
    """
    # Not above: a worker only names the function of its child, and need not load torch.
    import torch
    from hydra.utils import instantiate

    from effnlp.cache import fetch
    from effnlp.data.prepare import as_learned, load_companions, load_task, prepare_data
    from effnlp.evaluation.evaluate import predict, score
    from effnlp.evaluation.isolated import measure_use
    from effnlp.evaluation.predictions import Predictions, save_predictions
    from effnlp.evaluation.quiet import QuietLock
    from effnlp.evaluation.reference import compare_again
    from effnlp.evaluation.steps import MeterGauge
    from effnlp.model.storage import Deployed

    config = record.config
    deployed = Deployed.load(folder / "deployed.pt")
    meter: Meter = instantiate(config["meter"], _convert_="all")
    quiet = QuietLock(description=str(folder), around_wait=meter.paused)

    def cached(kind: str, key: str, make: object) -> Path:
        def priced(path: Path) -> dict[str, float]:
            make(path)  # type: ignore[operator]
            return {}

        return fetch(kind, key, priced).folder

    model_choice = instantiate(config["model"], _convert_="all")
    task = load_task(config["task"], cached)
    if task.fingerprint != record.identity["task_fingerprint"]:
        raise ValueError(f"the data of task {task.name} changed since trial {folder.name} was trained")
    task = as_learned(task, config["finetuning"])
    companions = load_companions(config["finetuning"], task, cached)
    data = prepare_data(
        task, config["data"]["filter"], config["model"], model_choice, cached, companions, deployed.tokenizer
    )
    hardware = instantiate(config["hardware"], _convert_="all")()
    model = deployed.model.to(hardware.torch_device()).eval()
    settings = config["evaluation"]
    try:
        with quiet.working(), meter.stage("evaluation"):
            if test:
                gauge = MeterGauge(meter, quiet, getattr(model, "data_dependent_compute", False))
                examples = data.examples["test"]
                logits = predict(model, examples, settings["batch_size"], gauge)
                truth = torch.tensor(examples.labels)
                scores = score(logits, truth, task.labels, settings["quality"]).under("test")
                record.put(scores.values, scores.absent)
                record.notes |= scores.notes
                save_predictions(folder, {"test": Predictions.of(logits, examples.labels)})
                compare_again(record, folder, task.labels)
            if latency:
                measured = measure_use(
                    deployed, data.examples["validation"].encodings, settings["scenarios"], quiet, meter,
                    isolate=bool(settings.get("isolate", True)), file=folder / "deployed.pt", within=folder,
                )  # fmt: skip
                record.put(measured.values, measured.absent)
    finally:
        meter.stop()
    _add_cost(record, meter)


def _add_cost(record: Record, meter: "Meter") -> None:
    """What this look cost belongs to the evaluation of the trial, and to its total."""
    for key, value in meter.as_values().values.items():
        if not key.startswith(("cost/evaluation/", "cost/total/")):
            continue
        before = record.values.get(key)
        if before is not None:
            peak = "peak" in key.rpartition("/")[2]
            record.values[key] = max(before, value) if peak else before + value
