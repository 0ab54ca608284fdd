"""Index sizes: against arrays that are really made, and in the limits."""

import numpy as np
import pytest

from effnlp.reproduce.analytic import retrieval


def test_an_index_takes_the_bytes_of_its_arrays():
    tokens, chunk, width = 640, 64, 96
    keys = np.zeros((tokens // chunk, width), dtype=np.float32)
    ids = np.zeros((tokens // chunk, chunk), dtype=np.int32)
    assert retrieval.index_bytes(tokens, width, chunk) == keys.nbytes
    assert retrieval.index_bytes(tokens, width, chunk, with_tokens=True) == keys.nbytes + ids.nbytes


def test_a_chunk_of_one_token_is_a_token():
    assert retrieval.index_bytes(1000, 1024, chunk_tokens=1) == retrieval.index_bytes(1000, 1024)


def test_longer_chunks_take_less_but_never_less_than_their_tokens():
    sizes = [retrieval.index_bytes(2**20, 768, chunk, with_tokens=True) for chunk in (1, 8, 64, 512, 2**20)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == pytest.approx(2**20 * 4, rel=1e-3)


def test_the_ratio_of_a_row_is_that_of_its_sizes_and_of_no_database():
    cells = retrieval.table({"small": 1e6, "large": 1e9}, 64, 1024, 768)
    for row in cells.values():
        assert row["times smaller"] == pytest.approx(row["index of tokens"] / row["index of chunks"])
    assert cells["small"]["times smaller"] == pytest.approx(cells["large"]["times smaller"])
