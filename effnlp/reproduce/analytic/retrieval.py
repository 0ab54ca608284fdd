"""What an index for retrieval takes: a key for each token (kNN-LM) or for each chunk of tokens (RETRO).

Sources: Khandelwal et al. (2020), https://arxiv.org/abs/1911.00172; Borgeaud et al. (2022),
https://arxiv.org/abs/2112.04426, sections 2.3 and 4.1
"""

from collections.abc import Mapping

FLOAT_BYTES, TOKEN_ID_BYTES = 4, 4
GIGA = 1e9


def keys_of(tokens: float, chunk_tokens: int) -> float:
    """How many keys an index has: one for each chunk, as if every document were a multiple of it long."""
    return tokens / chunk_tokens


def index_bytes(tokens: float, key_width: int, chunk_tokens: int = 1, with_tokens: bool = False) -> float:
    """Keys in 32 bits, and the ids of the tokens if these are kept beside them.

    Args:
        tokens: In the database.
        key_width: Numbers of a key.
        chunk_tokens: Tokens that share a key.
        with_tokens: Whether each chunk keeps its ids. What continues a chunk is the next one, so each is kept once.
    """
    ids = tokens * TOKEN_ID_BYTES if with_tokens else 0
    return keys_of(tokens, chunk_tokens) * key_width * FLOAT_BYTES + ids


def table(
    databases: Mapping[str, float], chunk_tokens: int, token_key_width: int, chunk_key_width: int
) -> dict[str, dict[str, float]]:
    """Billions of keys and gigabytes, by database.

    Args:
        databases: Row to tokens.
        chunk_tokens: Of a chunk.
        token_key_width, chunk_key_width: Numbers of a key of a token and of a chunk.
    """
    cells = {}
    for row, tokens in databases.items():
        of_tokens = index_bytes(tokens, token_key_width)
        of_chunks = index_bytes(tokens, chunk_key_width, chunk_tokens, with_tokens=True)
        cells[row] = {
            "keys of chunks": keys_of(tokens, chunk_tokens) / GIGA,
            "index of tokens": of_tokens / GIGA,
            "index of chunks": of_chunks / GIGA,
            "times smaller": of_tokens / of_chunks,
        }
    return cells
