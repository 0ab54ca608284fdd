"""What moved between two results of the same layer: cells, verdicts and the versions that made them."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from effnlp.compose import ConfigError
from effnlp.reproduce.experiment import Claim, Experiment
from effnlp.reproduce.result import Cell, Checked, Result
from effnlp.reproduce.table import summed_up

SAME = 1e-9
"""Figures that differ by less than this share of them are the same: they were only summed in another order."""

MOST_NAMED = 8
"""Cells that are named; of more there is the number."""


@dataclass(frozen=True)
class Moved:
    """A cell whose mean is another one.

    Attributes:
        before, after: Means, in the unit of the column.
        is_outside: Whether each mean lies outside the interval of the other. Of exact figures every change is.
            Single values have no interval, so that nothing can be said: None.
    """

    row: str
    column: str
    before: float
    after: float
    is_outside: bool | None

    @property
    def by(self) -> float:
        """The difference."""
        return self.after - self.before

    @property
    def share(self) -> float | None:
        """The difference as a share of what was; None if that is 0."""
        return self.by / abs(self.before) if self.before else None


@dataclass(frozen=True)
class Drift:
    """All that differs between two results.

    Attributes:
        since: When the first one was finished.
        same: Cells whose mean is the same.
        gone, new: Cells that only the first one has, and only the second.
        verdicts: Of claims that both have: name, verdict before, verdict now, and whether the rule is another.
        gone_claims: With the verdict they had.
        versions: Name to the version before and now, None where there is none.
        machines: Both, if they differ.
        texts: Tasks whose fingerprint differs.
    """

    since: str
    same: int
    moved: Sequence[Moved]
    gone: Sequence[tuple[str, str]]
    new: Sequence[tuple[str, str]]
    verdicts: Sequence[tuple[str, str, str, bool]]
    gone_claims: Sequence[tuple[str, str]]
    versions: Mapping[str, tuple[str | None, str | None]]
    machines: tuple[str, str] | None
    texts: Sequence[str]


def compare(before: Result, after: Result) -> Drift:
    """What moved from one result to another of the same layer of the same experiment.

    Raises:
        ValueError: If they are of different experiments or layers.
    """
    if (before.experiment, before.layer) != (after.experiment, after.layer):
        raise ValueError(
            f"{before.experiment}.{before.layer} and {after.experiment}.{after.layer} are different tables"
        )
    old, new = _by_place(before), _by_place(after)
    both = [(old[place], new[place]) for place in old if place in new]
    moved = [found for pair in both if (found := moved_cell(*pair)) is not None]
    old_claims = {claim.name: claim for claim in before.claims}
    new_claims = {claim.name: claim for claim in after.claims}
    names = dict.fromkeys([*before.versions, *after.versions])
    versions = {name: (before.versions.get(name), after.versions.get(name)) for name in names}
    cpus = str(before.machine.get("cpu", "unknown")), str(after.machine.get("cpu", "unknown"))
    tasks = set(before.fingerprints) & set(after.fingerprints)
    return Drift(
        since=before.finished,
        same=len(both) - len(moved),
        moved=sorted(moved, key=lambda cell: (not cell.is_outside, -abs(cell.share or math.inf))),
        gone=[place for place in old if place not in new],
        new=[place for place in new if place not in old],
        verdicts=[
            (
                name,
                claim.finding.verdict,
                new_claims[name].finding.verdict,
                _rule(claim) != _rule(new_claims[name]),
            )
            for name, claim in old_claims.items()
            if name in new_claims
        ],
        gone_claims=[
            (name, claim.finding.verdict) for name, claim in old_claims.items() if name not in new_claims
        ],
        versions={name: pair for name, pair in versions.items() if pair[0] != pair[1]},
        machines=cpus if cpus[0] != cpus[1] else None,
        texts=sorted(task for task in tasks if before.fingerprints[task] != after.fingerprints[task]),
    )


def _by_place(result: Result) -> dict[tuple[str, str], Cell]:
    return {(cell.row, cell.column): cell for cell in result.cells}


def moved_cell(before: Cell, after: Cell) -> Moved | None:
    """How a cell moved; None if its mean is the same."""
    first, second = mean(before), mean(after)
    if math.isclose(first, second, rel_tol=SAME, abs_tol=0.0):
        return None
    return Moved(after.row, after.column, first, second, _outside(before, after))


def _outside(before: Cell, after: Cell) -> bool | None:
    if before.is_exact and after.is_exact:
        return True
    first, second = _interval(before), _interval(after)
    if first is None or second is None:
        return None
    return not (second[0] <= mean(before) <= second[1] or first[0] <= mean(after) <= first[1])


def mean(cell: Cell) -> float:
    """Over seeds."""
    return summed_up(cell).mean


def _interval(cell: Cell) -> tuple[float, float] | None:
    ours = summed_up(cell)
    if cell.is_exact:
        return ours.mean, ours.mean
    return None if ours.low is None or ours.high is None else (ours.low, ours.high)


def in_words(drift: Drift) -> list[str]:
    """A drift as sentences; the first one sums it up, also where nothing moved."""
    found = [_summary(drift)]
    found += [_moved(cell) for cell in drift.moved[:MOST_NAMED]]
    if len(drift.moved) > MOST_NAMED:
        found.append(f"{len(drift.moved) - MOST_NAMED} more cells moved.")
    for what, places in (("Gone", drift.gone), ("New", drift.new)):
        if places:
            listed = "; ".join(f"{row}, {column}" for row, column in places[:MOST_NAMED])
            found.append(f"{what}: {listed}{' …' if len(places) > MOST_NAMED else ''}.")
    for name, old, new, is_other_rule in drift.verdicts:
        if is_other_rule:
            found.append(
                f"The rule of {name} was changed; by the old one the verdict was: {old}, now: {new}."
            )
        elif old != new:
            found.append(f"The verdict of {name} changed: {old} before, {new} now.")
    found += [f"The claim {name} is gone; its verdict was: {verdict}." for name, verdict in drift.gone_claims]
    if drift.versions:
        listed = ", ".join(
            f"{name} {old or 'none'} → {new or 'none'}" for name, (old, new) in drift.versions.items()
        )
        found.append(f"Versions: {listed}.")
    if drift.machines:
        found.append(f"Machine: {drift.machines[0]} → {drift.machines[1]}.")
    found += [f"The texts of {task} are others." for task in drift.texts]
    return found


def _summary(drift: Drift) -> str:
    day = drift.since[:10]
    if not drift.moved:
        return f"Nothing moved since {day}: all {drift.same} cells are the same."
    outside = sum(cell.is_outside is True for cell in drift.moved)
    inside = sum(cell.is_outside is False for cell in drift.moved)
    unknown = len(drift.moved) - outside - inside
    counts = [
        f"{outside} beyond their intervals" if outside else "",
        f"{inside} within them"
        if inside and outside
        else f"{inside} within their intervals"
        if inside
        else "",
        f"{unknown} of a single value, of which that cannot be said" if unknown else "",
    ]
    total = len(drift.moved) + drift.same
    return f"Of {total} cells {len(drift.moved)} moved since {day}: {', '.join(filter(None, counts))}."


def _moved(cell: Moved) -> str:
    share = f", {cell.share:+.2%}" if cell.share is not None else ""
    beyond = {True: " beyond the interval", False: " within the interval", None: ""}[cell.is_outside]
    return f"{cell.row}, {cell.column}: {cell.before:.6g} → {cell.after:.6g} ({cell.by:+.3g}{share}){beyond}."


def _rule(claim: Checked) -> tuple[str, str]:
    return claim.kind, json.dumps(claim.arguments, sort_keys=True)


def refuse_moved_bounds(experiment: Experiment, committed: Result) -> None:
    """See to it that no claim has another rule than the one its committed verdict was found by, on the same date.

    Raises:
        ConfigError: Naming the claim, what was changed and what to do.
    """
    known = {claim.name: claim for claim in committed.claims}
    for claim in experiment.claims:
        if claim.layer != committed.layer or claim.name not in known:
            continue
        earlier, frozen = known[claim.name], claim.frozen.isoformat() if claim.frozen else None
        if _rule(earlier) == (claim.kind, json.dumps(claim.arguments, sort_keys=True)):
            continue
        if frozen is None or (earlier.frozen is not None and frozen <= earlier.frozen):
            raise ConfigError(
                f"{experiment.chapter}/{experiment.name}.yaml: claims.{claim.name}: a threshold is never moved: "
                f"{_changes(earlier, claim)}, and frozen is {frozen or 'not given'}. The committed verdict by "
                f"the earlier rule is {earlier.finding.verdict!r}. A new rule needs the later day on which it was set"
            )


def _changes(earlier: Checked, claim: Claim) -> str:
    """Which arguments differ."""
    old = {"claim": earlier.kind, **earlier.arguments}
    new = {"claim": claim.kind, **claim.arguments}
    keys = [key for key in dict.fromkeys([*old, *new]) if old.get(key) != new.get(key)]
    return ", ".join(f"{key} was {old.get(key, 'not there')}, is {new.get(key, 'not there')}" for key in keys)
