"""``effnlp generate``: what a language model says comes after each text."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effnlp.predict import TABLES, Columns, Text, escaped, line_batches, table_batches

if TYPE_CHECKING:
    from effnlp.generation.generate import Continuation
    from effnlp.generation.settings import Settings
    from effnlp.model.packaged import Packaged

EXAMPLES = """\
examples:
  echo "The film was" | effnlp generate outputs/sst2/1a2b3c4d-i0-o0
  effnlp generate picked --tokens 20 --beams 4 < texts.txt
  effnlp generate picked --temperature 0.8 --top-p 0.95 --seed 1 --json < texts.txt

A line of the input is a text (UTF-8); a line of the output is what follows it, with \\n for a new line. The model is
one of finetuning=causal_lm. Greedy unless --beams or --temperature says otherwise. The same texts in the same order
with the same --seed get the same answers, however many are read at once.
FOLDER holds code by reference: use only what you trust.
"""


def parser() -> argparse.ArgumentParser:
    """What the verb understands."""
    made = argparse.ArgumentParser(
        prog="effnlp generate",
        description="Continue texts with a language model: a text a line in, what follows it a line out.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(made)
    return made


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments alone, for tab completion too."""
    parser.add_argument(
        "folder", type=Path, metavar="FOLDER", help="what effnlp pick wrote, or a run's folder"
    )
    parser.add_argument(
        "--file", type=Path, help="read this instead of standard input: CSV, TSV, JSONL, Parquet, or lines"
    )
    parser.add_argument(
        "--input", choices=["lines", "json"], default="lines", help="what a line of the input is"
    )
    parser.add_argument("--column", default="text", help="column of the text (default: text)")
    parser.add_argument(
        "--tokens", type=int, default=32, metavar="N", help="new tokens at most (default: 32)"
    )
    parser.add_argument("--beams", type=int, default=1, metavar="N", help="continuations followed at once")
    parser.add_argument(
        "--length-penalty", type=float, default=0.0, metavar="X", help="with beams: favours longer ones"
    )
    parser.add_argument(
        "--temperature", type=float, default=0.0, metavar="X", help="0: the likeliest token; above: drawn"
    )
    parser.add_argument("--top-k", type=int, metavar="N", help="draw from the N likeliest tokens")
    parser.add_argument(
        "--top-p", type=float, default=1.0, metavar="X", help="draw from the likeliest with this sum"
    )
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn (default: 0)")
    parser.add_argument("--json", action="store_true", help="write JSON lines with text and continuation")
    parser.add_argument(
        "--batch-size", type=int, default=8, metavar="N", help="texts at once, at most (default: 8)"
    )


def main(arguments: list[str]) -> int:
    """Run the verb; the exit code is 2, with one line that says why, where folder, input or values are no good."""
    options = parser().parse_args(arguments)
    try:
        if options.batch_size < 1:
            raise ValueError(f"--batch-size must be at least 1, got {options.batch_size}")
        if options.file is None and sys.stdin is None:
            raise ValueError("standard input is closed; give it texts, or name a --file")
        if options.file is not None and not options.file.is_file():
            raise ValueError(f"there is no file {options.file}")
        from effnlp.generation.settings import Settings
        from effnlp.model.packaged import read_package

        settings = Settings(
            options.tokens, options.beams, options.length_penalty,
            options.temperature, options.top_k, options.top_p, options.seed,
        )  # fmt: skip
        columns = Columns(options.column, None)
        batches = (
            table_batches(options.file, columns, options.batch_size)
            if options.file is not None and options.file.suffix.lower() in TABLES
            else line_batches(options.file, options.input, columns, options.batch_size)
        )
        continue_all(read_package(options.folder), batches, settings, writer(options.json))
    except BrokenPipeError:
        raise  # the reader has seen enough
    except (ValueError, OSError, ModuleNotFoundError) as error:
        sys.stderr.write(f"effnlp generate: {error}\n")
        return 2
    return 0


Write = Callable[[str, str, "Continuation"], None]
"""Gets a text, what follows it, and the same as the model gave it."""


def continue_all(
    package: "Packaged", batches: Iterator[list[Text]], settings: "Settings", write: Write
) -> None:
    """Hand each text and what follows it to ``write``.

    Raises:
        ValueError: If the model continues no single texts, or one does not fit with what is to follow.
    """
    from effnlp.generation.generate import generate
    from effnlp.generation.reader import check_generates

    model: Any = package.answer
    check_generates(model)
    if package.is_pair:
        raise ValueError("the model reads pairs of texts, and single texts are continued")
    ends, count = ends_of(model, package.tokenizer), 0
    for batch in batches:
        texts = [text for text, _ in batch]
        encodings = package.tokenizer.encode(texts)
        prompts = [
            encodings.ids[start:end].tolist()
            for start, end in zip(encodings.offsets[:-1], encodings.offsets[1:], strict=True)
        ]
        found = generate(model, prompts, settings, ends, first=count)
        for text, prompt, each in zip(texts, prompts, found, strict=True):
            write(text, continuation_of(package.tokenizer, prompt, each.ids), each)
        sys.stdout.flush()
        count += len(batch)


def ends_of(model: Any, tokenizer: Any) -> frozenset[int]:
    """Tokens that end a text: those that stand for no part of one, and those of which its checkpoint says so."""
    from effnlp.model.subwords import special_ids

    config = getattr(getattr(model.encoder, "model", None), "config", None)
    said = getattr(config, "eos_token_id", None)
    own = said if isinstance(said, list) else [] if said is None else [said]
    return frozenset([*special_ids(tokenizer), *own])


def continuation_of(tokenizer: Any, prompt: list[int], new: tuple[int, ...]) -> str:
    """The text of new tokens as it stands behind that of the prompt, a space before the first word included."""
    before, whole = (
        tokenizer.backend.decode(ids, skip_special_tokens=True) for ids in (prompt, [*prompt, *new])
    )
    if whole.startswith(before):
        return str(whole[len(before) :])
    return str(tokenizer.backend.decode(list(new), skip_special_tokens=True))


def writer(as_json: bool) -> Write:
    """What writes one answer to standard output, as the user wants it."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(encoding="utf-8", newline="\n")

    def line(_: str, follows: str, __: "Continuation") -> None:
        sys.stdout.write(escaped(follows) + "\n")

    def json_line(text: str, follows: str, found: "Continuation") -> None:
        said = {
            "text": text, "continuation": follows, "tokens": len(found.ids),
            "log_probability": round(found.log_probability, 6), "has_ended": found.has_ended,
        }  # fmt: skip
        sys.stdout.write(json.dumps(said, ensure_ascii=False) + "\n")

    return json_line if as_json else line
