"""How far rows are behind others, seed by seed."""

from collections.abc import Mapping, Sequence

from effnlp.reproduce.cells import Runs, Table


def gaps(
    runs: Mapping[str, Runs], pairs: Mapping[str, Sequence[str]], key: str, column: str, scale: float = 1.0
) -> Table:
    """What a score loses from one row to another, of each seed that both have.

    Args:
        pairs: Row of the result to two rows with runs: the one that is behind, and the one ahead of it.
        key: Of the score in records.
        column: Of the result.
        scale: Multiplies the score.

    Raises:
        ValueError: If a pair names a row without runs, or two rows that share no seed.
    """
    table = {}
    for name, pair in pairs.items():
        behind, ahead = (_scores(runs, row, key) for row in pair)
        shared = [seed for seed in ahead if seed in behind]
        if not shared:
            raise ValueError(f"{' and '.join(pair)} share no seed")
        table[name] = {column: {seed: scale * (ahead[seed] - behind[seed]) for seed in shared}}
    return table


def _scores(runs: Mapping[str, Runs], row: str, key: str) -> dict[str, float]:
    if row not in runs:
        raise ValueError(f"there is no row {row!r} with runs; there is {', '.join(runs)}")
    return {run.seed: run.record.values[key] for run in runs[row]}
