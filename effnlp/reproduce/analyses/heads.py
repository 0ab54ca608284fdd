"""Which order of removing heads does least harm: by importance, or at random.

Source: Michel et al. (2019), https://arxiv.org/abs/1905.10650

Legend: G heads of a layer.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from effnlp.compression.pruning.groups import choose, choose_by_importance, masked
from effnlp.data.encodings import Batch
from effnlp.model.parts import Part, heads_of
from effnlp.reproduce.analyses.kept import Kept
from effnlp.reproduce.cells import Run, Runs, Table

IMPORTANT, RANDOM = "by importance", "at random"
"""First words of the rows; the share of heads that are removed follows."""

PER_CENT = 100.0


def orders(
    runs: Mapping[str, Runs],
    row: str,
    levels: Sequence[float],
    random_orders: int = 3,
    rounds: int = 3,
    calibration_texts: int = 256,
) -> Table:
    """What is left of the accuracy when heads go by their importance, and when they go at random.

    Heads of all layers are ranked together, and each layer keeps one, its most important or its last in the order. What
    is removed is masked, which answers as if it had been cut. The random orders of a run are drawn from its seed.

    Args:
        row: Whose runs kept their models.
        levels: Shares of the heads that are removed, in [0, 1).
        random_orders: How many random orders accuracies are the means of.
        rounds: Steps to each level, with importances of what is left.
        calibration_texts: Training texts that importances are the means of.

    Returns:
        In per cent, one value a seed: rows ``by importance, 25 %``, ``at random, 25 %`` … to ``left``, the accuracy on
        the validation texts; rows ``by importance`` and ``at random`` to ``area``, the mean over the levels, and ``at
        random`` to ``best area``, that of the best random order.

    Raises:
        ValueError: If a run kept no model, or a level would remove all heads of a layer.
    """
    table: dict[str, dict[str, dict[str, float]]] = {}
    for run in runs[row]:
        for name, columns in _of_run(run, levels, random_orders, rounds, calibration_texts).items():
            for column, value in columns.items():
                table.setdefault(name, {}).setdefault(column, {})[run.seed] = PER_CENT * value
    return table


def _of_run(
    run: Run, levels: Sequence[float], random_orders: int, rounds: int, calibration_texts: int
) -> dict[str, dict[str, float]]:
    kept = Kept.of(run)
    model, parts = kept.model, heads_of(kept.model)
    calibration = list(kept.batches("train", calibration_texts))
    texts = list(kept.batches("validation"))

    def accuracy_of(masks: Mapping[str, Tensor]) -> float:
        with masked(model, parts, masks):
            return accuracy(model, texts)

    dice = torch.Generator().manual_seed(int(run.seed))
    drawn = [random_scores(parts, dice) for _ in range(random_orders)]
    found, best, random = {}, [], []
    for level in levels:
        chosen = choose_by_importance(model, parts, calibration, level, "global", rounds)
        best.append(accuracy_of(chosen))
        random.append([accuracy_of(choose(scores, level, "global")) for scores in drawn])
        share = f"{PER_CENT * level:g} %"
        found[f"{IMPORTANT}, {share}"] = {"left": best[-1]}
        found[f"{RANDOM}, {share}"] = {"left": sum(random[-1]) / random_orders}
    areas = [sum(each) / len(levels) for each in zip(*random, strict=True)]
    found[IMPORTANT] = {"area": sum(best) / len(levels)}
    found[RANDOM] = {"area": sum(areas) / random_orders, "best area": max(areas)}
    return found


def random_scores(parts: Sequence[Part], dice: torch.Generator) -> dict[str, Tensor]:
    """A random order of all heads: name of a part to (G,)."""
    return {part.reader: torch.rand(part.count, generator=dice) for part in parts}


def accuracy(model: nn.Module, batches: Iterable[Batch]) -> float:
    """The share of texts that the model answers as labelled."""
    with torch.inference_mode():
        right = [model(batch).argmax(-1) == batch["labels"] for batch in batches]
    return float(torch.cat(right).double().mean())
