"""What rows answer otherwise than a reference row, by the predictions that their runs keep.

Source: Hooker et al. (2020), https://arxiv.org/abs/2010.03058; Xu et al. (2021),
https://aclanthology.org/2021.emnlp-main.832
"""

from collections.abc import Mapping

from effnlp.evaluation.predictions import load_predictions
from effnlp.evaluation.reference import against
from effnlp.reproduce.cells import Run, Runs, Table

PER_CENT = 100.0


def against_row(
    runs: Mapping[str, Runs], reference: str, rarest: str = "rarest class", least_sure: str = "least sure"
) -> Table:
    """Each row against the reference row of the same seed, on the validation texts.

    Args:
        reference: A row; each other one has its seeds.
        rarest, least_sure: Names of two columns of the result.

    Returns:
        In per cent, one value a seed: ``label loyalty``, ``probability loyalty`` and ``changed``; and how many times
        that share is changed in the class with the fewest texts and in the quarter of which the reference is least
        sure. These two are there for rows of which some answer changed under every seed.

    Raises:
        ValueError: If the reference has no run of a seed, or runs are not of the same texts.
    """
    if reference not in runs:
        raise ValueError(f"there is no row {reference!r} with runs; there is {', '.join(runs)}")
    references = {run.seed: run for run in runs[reference]}
    table = {}
    for row, of_row in runs.items():
        if row == reference:
            continue
        found = {}
        for run in of_row:
            if run.seed not in references:
                raise ValueError(f"{reference} has no run with the seed {run.seed}, which {row} has")
            found[run.seed] = _against(run, references[run.seed])
        shared = set.intersection(*(set(values) for values in found.values())) if found else set()
        names = {
            **NAMES,
            "changed_ratio/rarest_class": rarest,
            "changed_ratio/least_sure_quartile": least_sure,
        }
        table[row] = {
            name: {seed: values[key] * (PER_CENT if key in NAMES else 1) for seed, values in found.items()}
            for key, name in names.items()
            if key in shared
        }
    return table


NAMES = {
    "label_loyalty": "label loyalty", "probability_loyalty": "probability loyalty", "changed": "changed",
}  # fmt: skip


def _against(run: Run, reference: Run) -> Mapping[str, float]:
    mine, theirs = (load_predictions(each.folder)["val"] for each in (run, reference))
    return against(mine, theirs, run.record.notes.get("labels", [])).values
