"""What a set of records says: who is on the frontier, which choices led there, what it cost.

Everything here is a function of the records; nothing reads a file or draws.
"""

import difflib
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from effnlp.record import COMPLETED, HEADLINES, STOPPED, headline
from effnlp.report.candidates import ENERGY, Candidate, pool, with_energy_method
from effnlp.report.read import Loaded, Reading
from effnlp.report.units import DOWN, UP, direction, human, measured_name, unit
from effnlp.search.constraints import parse_constraints
from effnlp.search.pareto import on_frontier, oriented


def default_objectives(runs: Sequence[Loaded]) -> dict[str, str]:
    """What runs are judged by where nobody says: what sums up their quality against FLOPs of a single example."""
    known = dict.fromkeys(key for loaded in runs for key in loaded.record.values)
    quality = headline(known) or HEADLINES[0]
    return {quality: direction(quality), "infer/single_stream/flops": DOWN}


STAGES = ("data", "pretraining", "finetuning", "compression", "evaluation", "total")

QUANTITIES = ("seconds", "cpu_seconds", "flops", "energy_joules", "co2e_grams", "peak_memory_bytes")


@dataclass(frozen=True)
class Section:
    """The configurations that may be compared: one task, by fingerprint, under one evaluator.

    Attributes:
        objectives: Key (as in ``Candidate.values``) to ``maximize`` or ``minimize``.
        candidates: All configurations, in order of their hash.
        frontier: Those on the frontier, best in the first objective first.
        lacking: Those that lack an objective or what a constraint is about, with the missing keys and their
            reasons.
        infeasible: Those that violate constraints of the search, with the constraints; they are not ranked.
        stopped: Configurations that early stopping ended at a rung, with the values that they had there. They
            are neither ranked nor failures.
        keys: All keys that some candidate has a value for, sorted.
        groups: Config groups in which those candidates differ, the stopped ones too, that have them, with the
            choices made.
        settings: Settings in which they differ.
    """

    task: str
    fingerprint: str
    evaluator: str
    objectives: dict[str, str]
    candidates: list[Candidate]
    frontier: list[Candidate]
    lacking: list[tuple[Candidate, dict[str, str]]]
    infeasible: list[tuple[Candidate, list[str]]]
    stopped: list[Candidate]
    keys: list[str]
    groups: dict[str, list[str]]
    settings: list[str]

    @property
    def ranked(self) -> list[Candidate]:
        """The candidates that took part in the ranking."""
        out = {id(candidate) for candidate, _ in (*self.lacking, *self.infeasible)}
        return [candidate for candidate in self.candidates if id(candidate) not in out]


@dataclass(frozen=True)
class Spent:
    """Own cost of one stage in one quantity, added up (a peak: its maximum) over ``runs`` runs."""

    stage: str
    quantity: str
    amount: float
    runs: int


@dataclass(frozen=True)
class Summary:
    """All that the report shows."""

    reading: Reading
    sections: list[Section]
    failures: list[Loaded]
    stopped: list[Loaded]
    spent: list[Spent]
    notes: list[str]


def summarise(reading: Reading, objectives: Mapping[str, str] | None = None) -> Summary:
    """Sort records into sections, pool replicates, find each section's frontier, add up costs.

    ``objectives`` (key to direction) default to those of the sweep that was read first, else to those of
    :func:`default_objectives`.

    Raises:
        ValueError: If an objective is a key that no record knows, or a direction is not one.
    """
    completed = [loaded for loaded in reading.loaded if loaded.record.status == COMPLETED]
    stopped = [loaded for loaded in reading.loaded if loaded.record.status == STOPPED]
    failures = [loaded for loaded in reading.loaded if loaded.record.status not in (COMPLETED, STOPPED)]
    notes = []
    if objectives:
        _check_known(objectives, completed)
        wanted = dict(objectives)
    else:
        named = {str(folder): found for folder, found in _sweep_objectives(reading).items()}
        wanted = next(iter(named.values()), {})
        others = [folder for folder, found in named.items() if found != wanted]
        if others:
            notes.append(f"Shown with the objectives of the first sweep; those of {_listed(others)} differ.")
    groups: dict[Place, list[Loaded]] = {}
    for loaded in completed:
        groups.setdefault(place_of(loaded), []).append(loaded)
    constraints = _sweep_constraints(reading)
    at_rungs = _stopped_by_place(stopped, completed)
    sections = [
        section(place, runs, wanted or default_objectives(runs), at_rungs.get(place, ()), constraints)
        for place, runs in sorted(groups.items())
    ]
    return Summary(reading, sections, failures, stopped, spent(reading.loaded), notes)


Place = tuple[str, str, str]
"""Task, task fingerprint and evaluator: runs are compared within one place only."""


def place_of(loaded: Loaded) -> Place:
    """The place of a run."""
    identity = loaded.record.identity
    task, fingerprint, evaluator = (
        str(identity.get(key, "")) for key in ("task", "task_fingerprint", "evaluator")
    )
    return task, fingerprint, evaluator


def _stopped_by_place(stopped: Sequence[Loaded], completed: Sequence[Loaded]) -> dict[Place, list[Loaded]]:
    """Runs that were stopped at a rung by place; one whose record lost it stands with its sweep."""
    of_sweep = {loaded.folder.parent: place_of(loaded) for loaded in completed}
    found: dict[Place, list[Loaded]] = {}
    for loaded in stopped:
        has_place = bool(loaded.record.identity.get("task_fingerprint"))
        place = place_of(loaded) if has_place else of_sweep.get(loaded.folder.parent, place_of(loaded))
        found.setdefault(place, []).append(loaded)
    return found


def _sweep_constraints(reading: Reading) -> list[str]:
    """Constraints of all sweeps, as typed, each once."""
    found = [text for sweep in reading.sweeps.values() for text in sweep.get("constraints") or ()]
    return list(dict.fromkeys(map(str, found)))


def section(
    place: Place,
    runs: Sequence[Loaded],
    objectives: Mapping[str, str],
    stopped: Sequence[Loaded] = (),
    constraints: Sequence[str] = (),
) -> Section:
    """The section of ``runs``, which share the ``place``: task, task fingerprint and evaluator.

    Args:
        stopped: Runs of the same place that early stopping ended.
        constraints: What a member of the frontier must satisfy, as typed: ``model/bytes <= 2e7``.
    """
    candidates, at_rungs = pool(runs), pool(stopped)
    keys = sorted({key for candidate in candidates for key in candidate.values})
    axes = {axis(key, keys): towards for key, towards in objectives.items()}
    infeasible, unjudged = _against(candidates, constraints, keys)
    out = {id(candidate) for candidate, _ in (*infeasible, *unjudged)}
    on, lacking = frontier([candidate for candidate in candidates if id(candidate) not in out], axes)
    everybody = [*candidates, *at_rungs]
    groups = {
        group: choices
        for group in dict.fromkeys(group for candidate in everybody for group in candidate.choices)
        if len(choices := sorted({made for c in everybody if (made := c.choices.get(group))})) > 1
    }
    overridden = dict.fromkeys(key for candidate in everybody for key in candidate.settings)
    settings = [
        key for key in overridden if len({candidate.settings.get(key) for candidate in everybody}) > 1
    ]
    return Section(
        *place, axes, candidates, on, [*lacking, *unjudged], infeasible, at_rungs, keys, groups, settings
    )


def _against(
    candidates: Sequence[Candidate], constraints: Sequence[str], keys: Sequence[str]
) -> tuple[list[tuple[Candidate, list[str]]], list[tuple[Candidate, dict[str, str]]]]:
    """Who violates which constraints by its means, and who lacks the key of one."""
    infeasible, unjudged = [], []
    parsed = [(axis(constraint.key, keys), constraint) for constraint in parse_constraints(constraints)]
    for candidate in candidates:
        missing = {key: _why_absent(key, candidate) for key, _ in parsed if key not in candidate.values}
        violated = [
            str(constraint)
            for key, constraint in parsed
            if key not in missing and constraint.violation(candidate.values[key].mean) > 0
        ]
        if violated:
            infeasible.append((candidate, violated))
        elif missing:
            unjudged.append((candidate, missing))
    return infeasible, unjudged


def axis(key: str, keys: Sequence[str]) -> str:
    """The key under which values stand: an energy without its method is the measured one, if there is any."""
    if key in keys or measured_name(key) not in ENERGY:
        return key
    named = [f"{key} [{method}]" for method in ("measured", "estimated", "unstated")]
    return next((name for name in named if name in keys), key)


def frontier(
    candidates: Sequence[Candidate], objectives: Mapping[str, str]
) -> tuple[list[Candidate], list[tuple[Candidate, dict[str, str]]]]:
    """Candidates whose means no other's dominate, best in the first objective first; and who lacks what.

    ``objectives`` maps keys to ``maximize`` or ``minimize``.
    """
    ranked = [candidate for candidate in candidates if all(key in candidate.values for key in objectives)]
    lacking = [
        (candidate, {key: _why_absent(key, candidate) for key in objectives if key not in candidate.values})
        for candidate in candidates
        if any(key not in candidate.values for key in objectives)
    ]
    values = _oriented_means(ranked, objectives)
    mask = on_frontier(values)
    order = [index for index in np.lexsort(values.T[::-1]) if mask[index]] if len(ranked) else []
    return [ranked[index] for index in order], lacking


def _why_absent(key: str, candidate: Candidate) -> str:
    base = key.split(" [")[0]
    kinds = [name for name in candidate.values if name.split(" [")[0] == base]
    if kinds:
        return f"{kinds[0].partition(' [')[2].rstrip(']')} here; the two kinds never share an axis"
    return candidate.absent.get(base, "not recorded")


def choice_counts(section: Section) -> dict[str, dict[str, tuple[int, int]]]:
    """For each group that differs: choice to (how many on the frontier, how many tried).

    Tried are those that were ranked and those that were stopped at a rung. A part belongs to one model;
    candidates of others have no such group and do not count in it.
    """
    tried = [*section.ranked, *section.stopped]
    counts = {}
    for group in section.groups:
        of = Counter(candidate.choices[group] for candidate in tried if group in candidate.choices)
        on = Counter(candidate.choices[group] for candidate in section.frontier if group in candidate.choices)
        counts[group] = {choice: (on[choice], of[choice]) for choice in sorted(of, key=lambda c: (-on[c], c))}
    return counts


def within_noise(section: Section) -> list[tuple[Candidate, Candidate]]:
    """Pairs whose 90 % intervals of the first objective overlap: neither is shown to be the better one in it.

    First of a pair is a member of the frontier; second its next member, or one off the frontier that members
    beat only within noise: whoever is at least as good in all objectives is not clearly better in any.
    """
    if not section.frontier:
        return []
    first = next(iter(section.objectives))
    pairs = [pair for pair in itertools.pairwise(section.frontier) if overlap(*pair, first)]
    members = {id(member) for member in section.frontier}
    best = _oriented_means(section.frontier, section.objectives)
    others = [c for c in section.ranked if id(c) not in members and c.values[first].half_width is not None]
    for other, row in zip(others, _oriented_means(others, section.objectives), strict=True):
        # Who is off the frontier is dominated by a member of it.
        above = [section.frontier[index] for index in np.flatnonzero(np.all(best <= row, axis=1))]
        if all(_unclear(member, other, key) for member in above for key in section.objectives):
            pairs.append((above[0], other))
    return pairs


def _oriented_means(candidates: Sequence[Candidate], objectives: Mapping[str, str]) -> np.ndarray:
    """(n, m) means, all to be minimised."""
    means = np.array([[c.values[key].mean for key in objectives] for c in candidates], dtype=float)
    return oriented(means.reshape(len(candidates), len(objectives)), [*objectives.values()])


def overlap(one: Candidate, other: Candidate, key: str) -> bool:
    """Whether the intervals of two candidates overlap; what was run once has none, and says nothing."""
    a, b = one.values[key], other.values[key]
    if a.half_width is None or b.half_width is None:
        return False
    return abs(a.mean - b.mean) <= a.half_width + b.half_width


def _unclear(one: Candidate, other: Candidate, key: str) -> bool:
    return one.values[key].mean == other.values[key].mean or overlap(one, other, key)


def short_names(groups: Iterable[str]) -> dict[str, str]:
    """Group to its last part, ``compression/pruning`` to ``pruning``, or the whole where two would agree."""
    groups = list(groups)
    last = Counter(group.rsplit("/", 1)[-1] for group in groups)
    return {group: tail if last[tail := group.rsplit("/", 1)[-1]] == 1 else group for group in groups}


def label(candidate: Candidate, section: Section) -> str:
    """What sets the candidate apart in its section: choices other than ``none``, then settings.

    Numbers are rounded; the overrides of a run have them whole.
    """
    names = short_names(section.groups)
    choices = [
        f"{names[group]}={candidate.choices[group]}"
        for group in section.groups
        if group not in ("tracking", "search", "search/space")
        and candidate.choices.get(group, "none") != "none"
    ]
    settings = [
        f"{key}={rounded(candidate.settings[key])}" for key in section.settings if key in candidate.settings
    ]
    return " ".join(choices + settings) or f"config {candidate.config_hash}"


def rounded(value: str) -> str:
    """``value`` with at most four significant digits where it is a fraction written with more."""
    try:
        return f"{float(value):.4g}" if len(value) > 6 and "." in value else value
    except ValueError:
        return value


def spent(loaded: Iterable[Loaded]) -> list[Spent]:
    """What all runs spent themselves, failed and stopped ones too, by stage.

    What a run reused is not added: it is charged to the run that made it.
    """
    samples: dict[tuple[str, str], list[float]] = {}
    places: dict[str, tuple[str, str] | None] = {}  # keys recur in every record: each is taken apart once
    for run in loaded:
        for key, value in run.record.values.items():
            if key not in places:
                parts = key.split("/", 3)
                is_own = len(parts) == 4 and parts[0] == "cost" and parts[2] == "own"
                places[key] = (parts[1], parts[3]) if is_own else None
            if place := places[key]:
                place = place[0], with_energy_method(place[1], run.record)
                samples.setdefault(place, []).append(value)
    stages = [*STAGES, *sorted({stage for stage, _ in samples} - set(STAGES))]
    ordered = sorted(samples, key=lambda place: (stages.index(place[0]), _rank(place[1]), place[1]))
    return [Spent(*place, _total(place[1], samples[place]), len(samples[place])) for place in ordered]


def _rank(quantity: str) -> int:
    name = measured_name(quantity)
    return QUANTITIES.index(name) if name in QUANTITIES else len(QUANTITIES)


def _total(quantity: str, amounts: Sequence[float]) -> float:
    return max(amounts) if quantity.startswith("peak_") else math.fsum(amounts)


def environments(loaded: Iterable[Loaded]) -> dict[str, list[tuple[str, int]]]:
    """Machines and versions that the records name, each with its number of records, most first."""
    counts: dict[str, Counter[str]] = {}
    said: dict[str, str] = {}  # most runs agree: each distinct value is put into words once
    for run in loaded:
        identity = run.record.identity
        for key in ("machine", "effnlp", "evaluator", "python", "git_commit", "packages"):
            if value := identity.get(key):
                raw = repr(value)
                if raw not in said:
                    said[raw] = described(value)
                counts.setdefault(key, Counter())[said[raw]] += 1
    return {key: counter.most_common() for key, counter in counts.items()}


def described(value: Any) -> str:
    """A nested value of a record in one line of words."""
    if isinstance(value, Mapping):
        parts = {str(key): part for key, part in value.items() if part not in (None, [], {}, "")}
        return ", ".join(
            human(key, part) if unit(key) and _is_number(part) else f"{key} {described(part)}"
            for key, part in parts.items()
        )
    if isinstance(value, list | tuple):
        return ", ".join(described(part) for part in value)
    return str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def parse_objective(text: str) -> tuple[str, str]:
    """``KEY``, ``KEY:max`` or ``KEY:min`` as key and direction.

    Raises:
        ValueError: If there is no key, or what follows the colon is something else.
    """
    key, colon, towards = text.partition(":")
    directions = {"max": UP, "maximize": UP, "min": DOWN, "minimize": DOWN}
    if not key or (colon and towards not in directions):
        raise ValueError(f"an objective is KEY, KEY:max or KEY:min, got {text!r}")
    return key, directions[towards] if colon else direction(key)


def _sweep_objectives(reading: Reading) -> dict[str, dict[str, str]]:
    found = {}
    for folder, sweep in reading.sweeps.items():
        objectives = sweep.get("objectives")
        if isinstance(objectives, Mapping) and objectives:
            found[str(folder)] = dict(parse_objective(f"{key}:{way}") for key, way in objectives.items())
    return found


def _check_known(objectives: Mapping[str, str], completed: Sequence[Loaded]) -> None:
    known = {key for run in completed for key in (*run.record.values, *run.record.absent)}
    for key in objectives:
        base = key.split(" [")[0]
        if completed and base not in known:
            near = difflib.get_close_matches(base, sorted(known), n=4, cutoff=0.5)
            hint = f"near: {', '.join(near)}" if near else f"there are {len(known)} others"
            raise ValueError(f"no record has the key {key}; {hint}")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
