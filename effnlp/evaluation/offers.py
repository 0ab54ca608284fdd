"""Which evaluation sets a choice offers, and which of them fit a task."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from effnlp.evaluation.sets import SetSource, check_fit, describe_set, find_set
from effnlp.task.folder import sets_in
from effnlp.task.reader import near
from effnlp.task.task import Task


class Offer(NamedTuple):
    """A split of a data set."""

    name: str
    split: str


CONTRAST = {name: Offer(name, "test") for name in ("cad_sentiment", "imdb_contrast", "cad_nli")}

_ATTACKED = ("sst2", "qqp", "mnli", "mnli_mm", "qnli", "rte")

ADVERSARIAL = {f"advglue_{split}": Offer("advglue", split) for split in _ATTACKED} | {
    f"anli_r{number}": Offer("anli", f"test_r{number}") for number in (1, 2, 3)
}

CONSISTENCY = {
    f"becel_{split}": Offer("becel", split)
    for split in (
        "sst2_semantic", "ag_news_semantic", "snli_semantic", "mrpc_semantic", "rte_semantic",
        "snli_negational", "mrpc_negational", "rte_negational",
    )
}  # fmt: skip


def choose_sets(
    choice: str, offered: Mapping[str, Offer], wanted: Sequence[str] | None, task: Task, root: str | None
) -> dict[str, SetSource]:
    """The sets that are evaluated: those that the user names, else all of the data folder that fit the task.

    Args:
        choice: ``<group>/<name>`` below ``evaluation``, for messages.
        offered: Key of a set, as in the record, to the split that it is.
        wanted: Keys; None: all that fit. For a set that is named, labels that are numbers are indices.

    Raises:
        ValueError: If there is no data folder, a name is unknown, a named set does not fit, or none does;
            then with the labels of those that are offered.
        FileNotFoundError: If a named set is not in the folder.
    """
    if wanted is not None:
        return {key: _named(choice, offered, key, task, root) for key in _checked(choice, wanted)}
    if not root:
        describe_set(root, f"of evaluation/{choice}")
    there = {name: describe_set(root, name)["splits"] for name in sets_in(str(root))}
    present = {
        key: find_set(root, *offer)
        for key, offer in offered.items()
        if offer.split in there.get(offer.name, ())
    }
    found = {key: source for key, source in present.items() if _fits(source, task)}
    if not found:
        raise ValueError(
            f"evaluation/{choice} has no set for the task {task.name}, which is of {_form(task.is_pair, task.labels)}; "
            f"its sets in the data folder are of {_forms(present) or 'no task at all'}. Leave it out"
        )
    return found


def _fits(source: SetSource, task: Task) -> bool:
    try:
        check_fit(source, task)
    except ValueError:
        return False
    return True


def _form(is_pair: bool, labels: Sequence[str]) -> str:
    named = f"the labels {', '.join(labels)}" if labels else "numbers to be learned"
    return f"{'pairs' if is_pair else 'single texts'} with {named}"


def _forms(sources: Mapping[str, SetSource]) -> str:
    """What the sets could be used for, each form once."""
    keys: dict[str, list[str]] = {}
    for key, source in sources.items():
        keys.setdefault(_form(source.is_pair, source.label_names or ()), []).append(key)
    return "; ".join(f"{form} ({', '.join(of)})" for form, of in keys.items())


def _checked(choice: str, wanted: Sequence[str]) -> Sequence[str]:
    if isinstance(wanted, str) or not wanted or len(set(wanted)) < len(wanted):
        raise ValueError(
            f"evaluation/{choice} needs a list of different sets, or null for all, got {wanted!r}"
        )
    return wanted


def _named(choice: str, offered: Mapping[str, Offer], key: str, task: Task, root: str | None) -> SetSource:
    if key not in offered:
        raise ValueError(
            f"evaluation/{choice} has no set {key!r}{near(key, offered)}; it has {', '.join(offered)}"
        )
    source = find_set(root, *offered[key])
    try:
        check_fit(source, task, by_number=True)
    except ValueError as error:
        raise ValueError(f"evaluation/{choice} cannot use {key} for the task {task.name}: {error}") from error
    return source
