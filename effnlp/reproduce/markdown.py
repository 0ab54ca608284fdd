"""A table and its claims as Markdown."""

import re
from collections.abc import Iterable, Sequence

from effnlp.reproduce.result import Checked
from effnlp.reproduce.table import Table, header, ours_text, paper_text, raised
from effnlp.reproduce.words import estimate_in_words, pilots_once, rule_in_words, set_in_words


def markdown_table(table: Table) -> str:
    """The table, the paper's figures beside ours, with its remarks and footnotes below."""
    heads, aligned = [""], [":--"]
    for column in table.columns:
        if table.has_ours(column):
            heads.append(header(column))
        if table.has_paper(column):
            heads.append("paper" if table.has_ours(column) else f"{header(column)} (paper)")
        aligned += ["--:"] * (len(heads) - len(aligned))
    lines = [_line(heads), _line(aligned)]
    for row in table.rows:
        cells = [row]
        for column in table.columns:
            entry = table.entry(row, column)
            if table.has_ours(column):
                cells.append(ours_text(entry, column, table.n) + raised(entry.ours_marks))
            if table.has_paper(column):
                cells.append(paper_text(entry) + raised(entry.paper_marks))
        lines.append(_line(cells))
    below = [
        *map(escaped, table.remarks),
        *(f"{raised([i])} {escaped(s)}" for i, s in numbered(table.footnotes)),
    ]
    return "\n".join(lines) + ("\n\n" + "<br>\n".join(below) if below else "") + "\n"


def markdown_claims(claims: Sequence[Checked]) -> str:
    """A list: verdict, sentence, estimate with its interval, rule; empty for none."""
    lines = []
    for claim in pilots_once(claims):
        lines.append(f"- **{claim.finding.verdict}**: {escaped(claim.says)}")
        found = estimate_in_words(claim)
        rule = rule_in_words(claim)
        parts = [f"Found {found}" if found else "", rule, claim.finding.why.rstrip("."), set_in_words(claim)]
        if said := ". ".join(_capital(part) for part in parts if part):
            lines.append(f"  <br>{escaped(said)}. (`{claim.name}`)")
    return "\n".join(lines) + ("\n" if lines else "")


def numbered(sentences: Sequence[str]) -> Iterable[tuple[int, str]]:
    """Sentences with their numbers from 1."""
    return enumerate(sentences, start=1)


def escaped(text: str) -> str:
    """``text`` so that Markdown shows it as it is, in a table too."""
    for mark in "\\|*_`<[":
        text = text.replace(mark, "\\" + mark)
    return " ".join(re.split(r"[ \t\r\n]+", text.strip(" \t\r\n")))


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(escaped(cell) for cell in cells) + " |"


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]
