"""What a claim may say: a small vocabulary of rules, each with three verdicts.

A rule estimates a quantity from the cells of a layer, with a 90 % interval, and holds it against a bound: wholly
inside ``holds``, wholly outside ``fails``, anything else is ``undecided``.
"""

from collections.abc import Collection, Mapping

from effnlp.menu import suggest
from effnlp.reproduce.claims import grammar
from effnlp.reproduce.claims.grammar import Kind
from effnlp.reproduce.experiment import Claim, Column, Published
from effnlp.reproduce.result import NOT_TESTABLE, Cell, Finding

__all__ = ["VOCABULARY", "Kind", "check"]

_BETWEEN = {"at_least": grammar.number, "at_most": grammar.number}
_PAIR = {"of": grammar.cell, "to": grammar.cell_or_figure}
_SEQUENCE = (("row",), ("column",))

VOCABULARY: Mapping[str, Kind] = {
    "ratio": Kind(
        says="of / to is within bounds",
        required=_PAIR,
        optional={**_BETWEEN, "within_relative": grammar.positive, "except": grammar.names},
        bounds=("at_least", "at_most", "within_relative"),
        divides=True,
    ),
    "paired_difference": Kind(
        says="of − to is within bounds",
        required=_PAIR,
        optional={**_BETWEEN, "within": grammar.positive, "except": grammar.names},
        bounds=("at_least", "at_most", "within"),
    ),
    "monotone": Kind(
        says="a sequence of cells goes up, or down",
        required={"of": grammar.cell, "direction": grammar.one_of("increasing", "decreasing")},
        optional={"tolerance": grammar.not_negative},
        along=_SEQUENCE,
    ),
    "loglog_slope": Kind(
        says="the exponent of a power law through a sequence of cells is within bounds",
        required={"of": grammar.cell, "x": grammar.steps},
        optional=_BETWEEN,
        bounds=("at_least", "at_most"),
        along=_SEQUENCE,
    ),
    "rank_flip": Kind(
        says="two rows are in another order in one column than in another",
        required={"of": grammar.cell},
        optional={},
        along=(("row", "column"),),
        at_most_points=2,
    ),
    "retention": Kind(
        says="of keeps at least a share of to, above a floor such as chance",
        required={**_PAIR, "at_least": grammar.positive},
        optional={"floor": grammar.number, "except": grammar.names},
        divides=True,
    ),
    "pareto_dominates": Kind(
        says="a row is not worse than another in any of some columns, and better in one",
        required={"of": grammar.cell, "to": grammar.cell},
        optional={"tolerance": grammar.tolerances},
        along=(("column",),),
        points=1,
        by_merit=True,
    ),
    "equals": Kind(
        says="of is the same as to, but for a tolerance",
        required=_PAIR,
        optional={
            "within": grammar.not_negative,
            "within_relative": grammar.not_negative,
            "except": grammar.names,
        },
    ),
    "crossing": Kind(
        says="the sign of of − to changes along a sequence",
        required={"of": grammar.cell, "to": grammar.cell},
        optional={},
        along=_SEQUENCE,
    ),
    "interval_excludes": Kind(
        says="of is not a number, such as chance",
        required={"of": grammar.cell, "number": grammar.number},
        optional={
            "side": grammar.one_of("above", "below"),
            "within": grammar.positive,
            "except": grammar.names,
        },
    ),
}
"""The kinds of claims, by name."""


def check(
    claim: Claim,
    cells: Mapping[tuple[str, str], Cell],
    published: Mapping[tuple[str, str], Published],
    columns: Mapping[str, Column],
    holes: Collection[tuple[str, str]] = (),
) -> Finding:
    """Whether a claim holds for the cells of its layer.

    Args:
        cells, published: By row and column.
        columns: By name.
        holes: Rows and columns of cells that should be there and are not. A claim about every row or column is about
            these, too, so that it does not hold because what would break it is missing.

    Returns:
        ``undecided`` where a cell is missing or has too few seeds, with the reason.

    Raises:
        ValueError: If the kind is unknown, or its arguments have problems.
    """
    if claim.not_testable:
        return Finding(NOT_TESTABLE, why=claim.not_testable)
    if claim.kind not in VOCABULARY:
        raise ValueError(
            f"claim {claim.name}: unknown kind {claim.kind!r}{suggest(claim.kind, list(VOCABULARY))}"
        )
    if problems := VOCABULARY[claim.kind].problems(claim.arguments, columns):
        raise ValueError(f"claim {claim.name}: {'; '.join(problems)}")
    from effnlp.reproduce.claims import pairs, sequences  # scipy, which reading an experiment does not need
    from effnlp.reproduce.claims.figures import Figures

    rule = getattr(pairs, claim.kind, None) or getattr(sequences, claim.kind)
    return rule(claim.arguments, Figures(cells, published, columns, holes))
