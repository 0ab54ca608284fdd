"""Which row of several with the same text stays, and how that is reported."""

import hashlib
from collections import Counter
from collections.abc import Mapping

import pandas as pd

from effnlp.data.table import Filtered


def row_texts(table: pd.DataFrame) -> list[str]:
    """One string a row; the two texts of a pair, one after the other, are one string."""
    if table.empty:
        raise ValueError("nothing to filter: the table has no rows")
    if "text_pair" not in table.columns:
        return table["text"].tolist()
    # U+001F separates units in ASCII and is no word character: ("a b", "c") and ("a", "b c") differ.
    return [f"{first}\x1f{second}" for first, second in zip(table["text"], table["text_pair"], strict=True)]


def preference(table: pd.DataFrame) -> list[int]:
    """The rank of each row: of several duplicates, that of the lowest rank stays.

    By the SHA-256 of the text; of equal texts the label that more of them bear is first, then the smaller
    label. So which texts and labels stay does not depend on the order of the rows; rows equal in both are
    taken in the order of the table.
    """
    texts, labels = row_texts(table), table["label"].tolist()
    votes = Counter(zip(texts, labels, strict=True))
    digests = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in texts]
    order = sorted(range(len(texts)), key=lambda i: (digests[i], -votes[texts[i], labels[i]], labels[i], i))
    rank = [0] * len(order)
    for place, position in enumerate(order):
        rank[position] = place
    return rank


def drop_duplicates(
    table: pd.DataFrame, duplicate_of: Mapping[int, int], why: str, detail: Mapping[int, str] | None = None
) -> Filtered:
    """Remove rows.

    Args:
        table: Any rows.
        duplicate_of: Position of each row to remove, to the position of the row that stays for it.
        why: What a removed row is to the row that stays ("same text as").
        detail: Position of a row to remove, to what else there is to say of it (" (Jaccard 0.86)").

    Returns:
        The others. A reason is the same for all rows up to the word "row": "same text as row 12", and
        "other label, same text as row 12" where the row that stays has another label.
    """
    labels, index = table["label"].tolist(), table.index
    removed = sorted(duplicate_of)
    reasons = []
    for row in removed:
        stays = duplicate_of[row]
        conflict = "" if labels[row] == labels[stays] else "other label, "
        reasons.append(f"{conflict}{why} row {index[stays]}{(detail or {}).get(row, '')}")
    kept = [row for row in range(len(table)) if row not in duplicate_of]
    return Filtered(table.iloc[kept], pd.Series(reasons, index=index[removed], dtype=object))
