"""The neutral filter."""

import pandas as pd

from effnlp.data.filter.none import none


def test_nothing_is_removed():
    table = pd.DataFrame({"text": ["a", "a"], "label": [0, 1]}, index=[3, 7])
    out = none(table)
    pd.testing.assert_frame_equal(out.table, table)
    assert out.removed == 0
