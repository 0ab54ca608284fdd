"""What a filter returns: the rows that stay, and for each row that goes the reason."""

from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class Filtered:
    """The outcome of one filter.

    Attributes:
        table: The rows kept, in their order and with their index labels of before.
        reasons: One entry for each row removed: index label of the row to a short reason
            ("same text as row 12"). Empty where nothing was removed.
    """

    table: pd.DataFrame
    reasons: pd.Series

    @property
    def removed(self) -> int:
        """How many rows the filter removed."""
        return len(self.reasons)
