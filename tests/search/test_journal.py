import errno
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from effnlp.search import journal
from effnlp.search.journal import JournalFile

LOGS = [{"op_code": 8, "worker_id": "a", "trial_id": n, "user_attr": {"hash": "é" * n}} for n in range(4)]
WRITERS = Path(__file__).with_name("journal_writers.py")


@pytest.fixture
def path(tmp_path):
    """A journal with a few lines."""
    path = tmp_path / "study.journal"
    JournalFile(path).append_logs(LOGS)
    return path


def logs_in(path):
    return list(JournalFile(path).read_logs(0))


def fill(study, trials):
    """Trials in every state, with parameters and attributes as a sweep has them."""
    for number in range(trials):
        trial = study.ask()
        kind = trial.suggest_categorical("kind", ["a", "b"])
        if kind == "b":
            trial.suggest_float("b.rate", 1e-5, 1e-1, log=True)
        for name in ("slot", "rung:0", "decision:0"):
            trial.set_user_attr(name, {"values": [number, 0.1], "at": name})
        if number % 5 == 0:
            study.tell(trial, state=TrialState.FAIL)
        elif number % 5 != 1:
            study.tell(trial, [number, -number])


def make_study(path, trials=0):
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=JournalStorage(JournalFile(path)), study_name="s", load_if_exists=True,
        directions=["minimize", "maximize"], sampler=optuna.samplers.RandomSampler(seed=trials),
    )  # fmt: skip
    fill(study, trials)
    return study


def trials_in(backend):
    return optuna.load_study(storage=JournalStorage(backend), study_name="s").get_trials()


def test_what_is_appended_is_read_and_only_once(path):
    file = JournalFile(path)
    assert list(file.read_logs(0)) == LOGS
    assert list(file.read_logs(4)) == []
    JournalFile(path).append_logs([{"new": 1}, {"new": 2}])
    assert list(file.read_logs(4)) == [{"new": 1}, {"new": 2}]
    assert list(file.read_logs(3)) == [LOGS[3], {"new": 1}, {"new": 2}]


def test_what_a_reader_left_unread_is_read_the_next_time(path):
    file = JournalFile(path)
    reading = file.read_logs(0)
    assert [next(reading), next(reading)] == LOGS[:2]
    reading.close()
    assert list(file.read_logs(2)) == LOGS[2:]


def test_a_last_line_torn_at_any_byte_is_no_line_and_the_next_takes_its_place(path):
    whole = path.read_bytes()
    kept = whole[: whole[:-1].rfind(b"\n") + 1]
    assert len(whole) - len(kept) > 50
    for end in range(len(kept) + 1, len(whole)):
        path.write_bytes(whole[:end])
        file = JournalFile(path)
        assert list(file.read_logs(0)) == LOGS[:-1]
        assert path.stat().st_size == end, "reading changes nothing"
        file.append_logs([{"new": end}])
        assert list(file.read_logs(len(LOGS) - 1)) == [{"new": end}]
        assert path.read_bytes() == kept + json.dumps({"new": end}, separators=(",", ":")).encode() + b"\n"


def test_a_torn_line_longer_than_what_is_read_at_once_is_cut_back_too(path):
    whole = path.read_bytes()
    for length in (journal.BLOCK_BYTES - 1, journal.BLOCK_BYTES, 5 * journal.BLOCK_BYTES):
        path.write_bytes(whole + b'{"user_attr":"' + b"x" * length)
        JournalFile(path).append_logs([{"new": length}])
        assert logs_in(path) == [*LOGS, {"new": length}]
        path.write_bytes(whole)


def test_a_long_line_that_is_whole_stays(path):
    long = {"user_attr": "x" * 5 * journal.BLOCK_BYTES}
    JournalFile(path).append_logs([long])
    JournalFile(path).append_logs([{"new": 1}])
    assert logs_in(path) == [*LOGS, long, {"new": 1}]


@pytest.mark.parametrize("start", [b"", b'{"op_co'])
def test_a_journal_of_a_torn_line_alone_is_empty(tmp_path, start):
    path = tmp_path / "study.journal"
    path.write_bytes(start)
    assert logs_in(path) == []
    JournalFile(path).append_logs(LOGS[:1])
    assert logs_in(path) == LOGS[:1]


def test_a_last_line_without_its_first_blocks_is_torn_although_it_ends(path):
    path.write_bytes(path.read_bytes() + b"\0" * 100 + b'"x"}}\n')
    file = JournalFile(path)
    assert list(file.read_logs(0)) == LOGS
    file.append_logs([{"new": 1}])
    assert list(file.read_logs(len(LOGS))) == [{"new": 1}]
    assert logs_in(path) == [*LOGS, {"new": 1}]


def test_a_line_in_the_middle_that_is_no_json_is_an_error_with_its_number(path):
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], lines[1], b'{"op_code": 8, {"op_code": 9}\n', *lines[2:]]))
    with pytest.raises(ValueError, match=r"study\.journal, line 3 is no JSON"):
        logs_in(path)
    with pytest.raises(ValueError, match=r"study\.journal, line 3 is no JSON"):
        list(JournalFile(path).read_logs(2))


def test_a_journal_that_lost_lines_while_it_was_in_use_is_an_error(path):
    file = JournalFile(path)
    list(file.read_logs(0))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match="was replaced or cut while it was in use"):
        list(file.read_logs(len(LOGS)))


def test_a_journal_that_was_removed_is_not_begun_again_by_an_append(path):
    file = JournalFile(path)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        file.append_logs(LOGS)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("written", [0, 1, 60, 10_000])
def test_an_append_that_fails_anywhere_leaves_the_journal_as_it_was(path, monkeypatch, written, error):
    def fail(file, content):
        file.write(content[:written])
        raise error

    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(journal, "write_all", fail)
        with pytest.raises(type(error)):
            JournalFile(path).append_logs([{"lost": 1}, {"lost": 2, "long": "x" * 100}])
    assert path.read_bytes() == before
    JournalFile(path).append_logs([{"new": 1}])
    assert logs_in(path) == [*LOGS, {"new": 1}]


def test_a_write_that_takes_less_than_given_goes_on(tmp_path):
    class Slow:
        taken = b""

        def write(self, content):
            self.taken += bytes(content[:3])
            return min(3, len(content))

    slow = Slow()
    journal.write_all(slow, b"0123456789")
    assert slow.taken == b"0123456789"


def test_nobody_reads_a_line_that_is_cut_back_again(path, monkeypatch):
    written, go_on = threading.Event(), threading.Event()

    def fail(file):
        written.set()
        assert go_on.wait(10)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(journal, "hand_over", fail)
    failed, read = [], []

    def append():
        try:
            JournalFile(path).append_logs([{"lost": 1}])
        except OSError as error:
            failed.append(error)

    writer = threading.Thread(target=append)
    reader = threading.Thread(target=lambda: read.extend(logs_in(path)))
    writer.start()
    assert written.wait(10)
    assert b"lost" in path.read_bytes(), "the line is in the file"
    reader.start()
    reader.join(0.2)
    go_on.set()
    writer.join()
    reader.join()
    assert failed
    assert read == LOGS


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no small disk can be mounted here: {getattr(error, 'stderr', '') or error}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_loses_no_line_and_the_study_goes_on_when_there_is_room(small_disk):
    path, room = small_disk / "study.journal", small_disk / "other"
    room.write_bytes(b"x" * 16_384)
    trial = make_study(path).ask()
    kept = []

    def go_on(size):
        while True:
            trial.set_user_attr(f"a{len(kept)}", "x" * size)
            kept.append(f"a{len(kept)}")

    for size in (3000, 300, 10):  # the last bytes too
        with pytest.raises(OSError, match="No space left"):
            go_on(size)
        assert path.read_bytes().endswith(b"\n")
    assert len(kept) > 10
    room.unlink()
    again = make_study(path)
    assert list(again.get_trials()[0].user_attrs) == kept
    fill(again, 3)
    assert len(make_study(path).get_trials()) == 4


def test_a_snapshot_that_has_no_room_is_left_out(path, monkeypatch, caplog):
    def full(self, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    JournalFile(path).save_snapshot(b"x")
    assert "no snapshot of" in caplog.text
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_locks_that_others_left_lock_nobody_out(path):
    for name in ("study.journal.lock", "state.lock"):
        (path.parent / name).symlink_to(path) if "journal" in name else (path.parent / name).write_text(
            "1234"
        )
    JournalFile(path).append_logs([{"new": 1}])
    assert logs_in(path) == [*LOGS, {"new": 1}]


def run_writers(path, writers, lines, kill_after=""):
    return subprocess.run(
        [sys.executable, str(WRITERS), str(path), str(writers), str(lines), kill_after],
        check=True, capture_output=True, text=True, timeout=100,
    ).stdout  # fmt: skip


def test_no_line_of_sixteen_writers_at_once_is_lost_or_torn(tmp_path):
    path = tmp_path / "study.journal"
    run_writers(path, 16, 40)
    found = logs_in(path)
    assert len(found) == 16 * 40
    for writer in range(16):
        assert [log["line"] for log in found if log["writer"] == writer] == list(range(40))


def test_what_a_killed_writer_was_told_is_written_is_there(tmp_path):
    path = tmp_path / "study.journal"
    for turn in range(3):
        told = json.loads(run_writers(path, 8, 10_000, kill_after="0.3"))
        assert sum(map(len, told)) > 20
        found = logs_in(path)
        for writer, lines in enumerate(told):
            there = [log["line"] for log in found if log["writer"] == writer]
            assert there[: len(lines)] == lines
            assert len(there) <= len(lines) + 1
        JournalFile(path).append_logs([{"turn": turn}])
        assert logs_in(path)[-1] == {"turn": turn}
        path.unlink()


def test_the_file_is_that_of_optuna(tmp_path):
    path = tmp_path / "study.journal"
    make_study(path, trials=12)
    assert trials_in(JournalFileBackend(str(path))) == trials_in(JournalFile(path))
    fill(optuna.load_study(storage=JournalStorage(JournalFileBackend(str(path))), study_name="s"), 3)
    assert len(trials_in(JournalFile(path))) == 15


def test_a_study_from_a_snapshot_is_the_study_from_the_whole_journal(tmp_path, monkeypatch):
    path = tmp_path / "study.journal"
    study = make_study(path, trials=230)
    snapshot = tmp_path / "study.journal.snapshot"
    assert snapshot.exists()
    file = JournalFile(path)
    from_snapshot = trials_in(file)
    seen = json.loads(snapshot.read_bytes().partition(b"\n")[0])["lines"]
    assert 0.8 < seen / file._read.lines < 1
    snapshot.unlink()
    assert from_snapshot == trials_in(JournalFile(path)) == study.get_trials()
    assert {t.state for t in from_snapshot} == {TrialState.COMPLETE, TrialState.FAIL, TrialState.RUNNING}


def test_lines_that_a_snapshot_has_seen_are_not_read_again(tmp_path, monkeypatch):
    path = tmp_path / "study.journal"
    make_study(path, trials=150)
    parsed = []
    loads = json.loads
    monkeypatch.setattr(journal.json, "loads", lambda text: parsed.append(text) or loads(text))
    JournalStorage(JournalFile(path))
    with_snapshot = len(parsed)
    (tmp_path / "study.journal.snapshot").unlink()
    parsed.clear()
    JournalStorage(JournalFile(path))
    assert 0 < with_snapshot < 0.5 * len(parsed)


def damaged(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def other_version(content):
    return content.replace(optuna.__version__.encode(), b"4.0.0", 1)


@pytest.mark.parametrize(
    "spoil",
    [
        damaged,
        other_version,
        lambda content: b"",
        lambda content: content[:40],
        lambda content: content[:-1],
        lambda content: b"[]\n" + content.partition(b"\n")[2],
        lambda content: b"\x80\xff\n",
        lambda content: pickle.dumps(None),
    ],
    ids=["flipped bit", "version", "empty", "torn header", "torn", "no header", "no text", "pickle"],
)
def test_a_snapshot_that_is_damaged_or_foreign_is_left_out(tmp_path, spoil):
    path, snapshot = tmp_path / "study.journal", tmp_path / "study.journal.snapshot"
    trials = make_study(path, trials=105).get_trials()
    snapshot.write_bytes(spoil(snapshot.read_bytes()))
    assert JournalFile(path).load_snapshot() is None
    assert trials_in(JournalFile(path)) == trials


@pytest.mark.parametrize("length", ["shorter", "as long", "longer"])
def test_a_snapshot_of_another_journal_is_left_out(tmp_path, length):
    path, other = tmp_path / "study.journal", tmp_path / "other.journal"
    make_study(path, trials=105)
    make_study(other, trials={"shorter": 20, "as long": 105, "longer": 130}[length])
    assert other.read_bytes()[:2000] != path.read_bytes()[:2000]
    os.replace(other, path)
    (tmp_path / "other.journal.snapshot").unlink(missing_ok=True)
    assert JournalFile(path).load_snapshot() is None
    assert len(trials_in(JournalFile(path))) == {"shorter": 20, "as long": 105, "longer": 130}[length]


def test_a_storage_that_went_through_pickle_reads_the_same(tmp_path):
    path = tmp_path / "study.journal"
    study = make_study(path, trials=7)
    again = pickle.loads(pickle.dumps(study._storage))
    assert optuna.load_study(storage=again, study_name="s").get_trials() == study.get_trials()


def test_a_lock_ends_with_the_process_that_held_it(path):
    hold = "import sys; from pathlib import Path; from effnlp.search.journal import held\n"
    hold += "with open(sys.argv[1], 'ab') as f, held(f): print('held', flush=True); sys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-c", hold, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "held\n"
        done = threading.Event()

        def append():
            JournalFile(path).append_logs([{"new": 1}])
            done.set()

        threading.Thread(target=append).start()
        assert not done.wait(0.2), "the lock is held"
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert done.wait(10)
    assert logs_in(path) == [*LOGS, {"new": 1}]
