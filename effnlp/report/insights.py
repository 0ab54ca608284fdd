"""What a report says beyond the frontier: found once, shown on the terminal and on the page."""

from collections.abc import Sequence
from dataclasses import dataclass

from effnlp.report.candidates import Candidate
from effnlp.report.changed import FILE, ChangedTable, Load, compared, recorded
from effnlp.report.conflicts import Conflicts, conflicts
from effnlp.report.expected import ExpectedSweep, expected_sweeps
from effnlp.report.importance import Importance, importance
from effnlp.report.reliability import Bin, diagrams
from effnlp.report.summary import Section, Summary


@dataclass(frozen=True)
class Insights:
    """Of each section in its place, and of sweeps.

    Attributes:
        conflicts: How costs agree; None where there is too little to tell.
        importance: Which choice moved which objective; None where there is too little to tell.
        reliability: Lines of the reliability diagram; empty where no run noted its bins.
        changed: Tables of changed answers; empty where no run had a reference and none can be taken.
        expected: Expected validation performance of each sweep in which choices can be compared.
    """

    conflicts: list[Conflicts | None]
    importance: list[Importance | None]
    reliability: list[list[tuple[Candidate, list[Bin]]]]
    changed: list[list[ChangedTable]]
    expected: list[ExpectedSweep]


def insights(summary: Summary, load: Load | None = None) -> Insights:
    """Find all there is to say.

    Args:
        load: Reads the predictions of a run's folder; None leaves them aside.
    """
    return Insights(
        [conflicts(section) for section in summary.sections],
        [importance(section) for section in summary.sections],
        [diagrams(section) for section in summary.sections],
        [recorded(section) or (compared(section, load) if load else []) for section in summary.sections],
        expected_sweeps(summary.reading),
    )


def predictions_reader(sections: Sequence[Section]) -> Load | None:
    """A reader of predictions; None where no two members of a frontier have any, so that nothing heavy is loaded."""
    with_file = [
        sum((candidate.runs[0].folder / FILE).is_file() for candidate in section.frontier)
        for section in sections
    ]
    if max(with_file, default=0) < 2:
        return None
    from effnlp.evaluation.predictions import load_predictions

    return load_predictions
