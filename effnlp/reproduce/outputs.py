"""What a reproduction leaves in files: tables, figures and one page for all that was asked."""

from collections.abc import Sequence
from pathlib import Path

from effnlp.record import write_atomically
from effnlp.reproduce.experiment import Experiment
from effnlp.reproduce.latex import latex
from effnlp.reproduce.markdown import markdown_claims, markdown_table
from effnlp.reproduce.result import Result
from effnlp.reproduce.table import tabulate
from effnlp.reproduce.terminal import show
from effnlp.reproduce.tidy import tidy

__all__ = ["Found", "folder_of", "show", "write"]

Found = tuple[Experiment, Result, Sequence[str]]
"""An experiment, the result of one of its layers, and what moved since the one before, a sentence each."""

PAGE = "index.html"
FIGURES = ("figure.pdf", "figure.png")


def folder_of(result: Result, into: Path) -> Path:
    """Where the files of a result lie."""
    return into / result.experiment / result.layer


def write(found: Sequence[Found], into: Path) -> Path:
    """Write the files of every result below ``into``, and the page about them all.

    Of each: ``result.json``, ``table.md`` (with the claims), ``table.csv``, ``table.tex``, and, where the experiment
    has a figure and the layer its figures, ``figure.pdf`` and ``figure.png``.

    Returns:
        The page.

    Raises:
        ValueError: If a figure names a column that is not there.
        OSError: If the files cannot be written.
    """
    from effnlp.reproduce.figure import panels
    from effnlp.reproduce.page import render
    from effnlp.reproduce.plot import save

    tables = [tabulate(experiment, result) for experiment, result, _ in found]
    for (_, result, _), table in zip(
        found, tables, strict=True
    ):  # all figures in numbers before the first drawn one
        folder = folder_of(result, into)
        folder.mkdir(parents=True, exist_ok=True)
        result.save(folder / "result.json")
        claims = markdown_claims(result.claims)
        write_atomically(folder / "table.md", markdown_table(table) + (f"\n{claims}" if claims else ""))
        write_atomically(folder / "table.csv", tidy(table))
        write_atomically(folder / "table.tex", latex(table))
    for (experiment, result, _), table in zip(found, tables, strict=True):
        drawn = panels(experiment, table)
        for name in FIGURES:
            path = folder_of(result, into) / name
            if drawn:
                save(drawn, path)
            else:
                path.unlink(missing_ok=True)  # of an earlier result
    into.mkdir(parents=True, exist_ok=True)
    page = into / PAGE
    write_atomically(page, render(found))
    return page
