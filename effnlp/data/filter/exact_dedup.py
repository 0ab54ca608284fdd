"""Exact deduplication: of training texts that are the same, keep one.

Source: Lee et al. (2022), https://arxiv.org/abs/2107.06499
"""

from collections import defaultdict

import pandas as pd

from effnlp.data.duplicates import drop_duplicates, preference, row_texts
from effnlp.data.table import Filtered


def exact_dedup(table: pd.DataFrame, ignore_case_and_space: bool = False) -> Filtered:
    """Keep one row of each text. Unlike the paper, whole texts are compared, not their substrings.

    Of equal texts with different labels, the label that more of them bear stays.

    Args:
        table: ``text``, ``label`` and perhaps ``text_pair``; pairs are the same where both texts are.
        ignore_case_and_space: Whether texts are the same that differ only in these.
    """
    rank = preference(table)
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, text in enumerate(row_texts(table)):
        rows_of[_key(text, ignore_case_and_space)].append(row)
    duplicate_of = {}
    for rows in rows_of.values():
        stays = min(rows, key=rank.__getitem__)
        duplicate_of.update({row: stays for row in rows if row != stays})
    return drop_duplicates(table, duplicate_of, why="same text as")


def _key(text: str, ignore_case_and_space: bool) -> str:
    if not ignore_case_and_space:
        return text
    return "\x1f".join(" ".join(part.casefold().split()) for part in text.split("\x1f"))
