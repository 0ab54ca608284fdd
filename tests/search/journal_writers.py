"""Processes that append to one journal at once: ``python journal_writers.py PATH WRITERS LINES [SECONDS]``.

With a number of seconds all are killed after it. What each was told is written goes to standard output, as JSON.
"""

import json
import multiprocessing
import sys
import time
from pathlib import Path

from effnlp.search.journal import JournalFile


def write(path, writer, lines, start):
    journal = JournalFile(path)
    start.wait()
    with path.with_name(f"told{writer}").open("ab", buffering=0) as told:
        for line in range(lines):
            journal.append_logs([{"writer": writer, "line": line, "text": "x" * (line % 700)}])
            told.write(b"%d\n" % line)


def main():
    path, writers, lines = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    seconds = float(sys.argv[4]) if sys.argv[4:] and sys.argv[4] else None
    context = multiprocessing.get_context("fork")
    start = context.Barrier(writers + 1)
    processes = [context.Process(target=write, args=(path, n, lines, start)) for n in range(writers)]
    for process in processes:
        process.start()
    start.wait()
    if seconds is not None:
        time.sleep(seconds)
        for process in processes:
            process.kill()
    for process in processes:
        process.join()
    told = []
    for writer in range(writers):
        file = path.with_name(f"told{writer}")
        told.append([int(line) for line in file.read_bytes().splitlines()])
        file.unlink()
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main()
