"""A table as LaTeX: booktabs, and otherwise nothing that a plain document class does not have."""

import unicodedata
from collections.abc import Iterable

from effnlp.reproduce.table import Table, header, ours_text, paper_text

SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': "''",
    "±": r"$\pm$", "–": "--", "—": "---", "−": "$-$", "×": r"$\times$", "→": r"$\rightarrow$",
    "↑": r"$\uparrow$", "↓": r"$\downarrow$", "≤": r"$\leq$", "≥": r"$\geq$", "≈": r"$\approx$", "°": r"$^{\circ}$",
    "µ": r"$\mu$", "μ": r"$\mu$", "·": r"$\cdot$", "²": r"$^2$", "³": r"$^3$", "…": r"\ldots{}",
    "α": r"$\alpha$", "β": r"$\beta$", "γ": r"$\gamma$", "ε": r"$\varepsilon$", "λ": r"$\lambda$", "σ": r"$\sigma$",
    "τ": r"$\tau$", "η": r"$\eta$", "ρ": r"$\rho$", "“": "``", "”": "''", "‘": "`", "’": "'",
    "\u00a0": "~", "«": r"$\ll$", "»": r"$\gg$", "Ð": "D", "ð": "d", "Þ": "Th", "þ": "th",
}  # fmt: skip
"""What LaTeX would read as a command, or has under another name."""


def latex(table: Table) -> str:
    r"""A ``table`` environment for a document with ``\usepackage{booktabs}``."""
    sides = [(column, table.has_ours(column), table.has_paper(column)) for column in table.columns]
    first, second, rules, at = [""], [""], [], 2
    for column, ours, paper in sides:
        width = ours + paper
        name = escaped(header(column))
        first.append(rf"\multicolumn{{{width}}}{{c}}{{{name}}}")
        rules.append(rf"\cmidrule(lr){{{at}-{at + width - 1}}}")
        second += ["ours"] * ours + ["paper"] * paper
        at += width
    lines = [
        r"% \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escaped(table.title)} ({escaped(table.layer)} layer)}}",
        rf"\label{{tab:{table.experiment}-{table.layer}}}",
        rf"\begin{{tabular}}{{l{'r' * (at - 2)}}}",
        r"\toprule",
        _line(first),
        " ".join(rules),
        _line(second),
        r"\midrule",
    ]
    for row in table.rows:
        cells = [escaped(row)]
        for column, ours, paper in sides:
            entry = table.entry(row, column)
            if ours:
                cells.append(escaped(ours_text(entry, column, table.n)) + _raised(entry.ours_marks))
            if paper:
                cells.append(escaped(paper_text(entry)) + _raised(entry.paper_marks))
        lines.append(_line(cells))
    lines += [r"\bottomrule", r"\end{tabular}"]
    below = [escaped(sentence) for sentence in table.remarks]
    below += [f"{_raised([place])} {escaped(text)}" for place, text in enumerate(table.footnotes, start=1)]
    if below:
        lines += [r"\par\medskip\footnotesize\raggedright", "\n\\par ".join(below)]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def escaped(text: str) -> str:
    """``text`` as LaTeX sets it; letters beyond Latin-1 that are not known here lose their marks."""
    return "".join(SPECIAL.get(character) or _plain(character) for character in text)


def _plain(character: str) -> str:
    if character.isprintable() and ord(character) < 0x100:
        return character
    return unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode() or " "


def _raised(marks: Iterable[int]) -> str:
    said = ",".join(map(str, marks))
    return rf"\textsuperscript{{{said}}}" if said else ""


def _line(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"
