"""Versions of what computes a result, and of what computed a record."""

import platform

from effnlp import __version__, provenance
from effnlp.record import EVALUATOR, Record


def versions_here() -> dict[str, str]:
    """Versions of what computes in this process."""
    own = {"effnlp": __version__, "evaluator": EVALUATOR, "python": platform.python_version()}
    return {**own, **provenance.versions()}


def versions_of(record: Record) -> dict[str, str]:
    """Versions that made a record."""
    identity = record.identity
    own = {name: str(identity[name]) for name in ("effnlp", "evaluator", "python") if identity.get(name)}
    return {**own, **identity.get("packages", {})}


def other_versions(record: Record) -> list[str]:
    """What made a record in another version than is here, ``torch 2.11.0, here 2.13.0``; empty: nothing."""
    before, here = versions_of(record), versions_here()
    return [
        f"{name} {before.get(name, 'none')}, here {here.get(name, 'none')}"
        for name in dict.fromkeys([*before, *here])
        if before.get(name) != here.get(name)
    ]
