import errno
import json
import os

import pytest

from effnlp.record import COMPLETED, FAILED, SCHEMA, Events, Record, write_atomically


@pytest.fixture
def record():
    made = Record(COMPLETED, {"config_hash": "ab12", "seed_init": 0}, {"peft": "lora"}, {"peft": {"rank": 8}})
    made.put({"val/accuracy": 0.75, "model/params": 12, "infer/single_stream/energy_joules": None})
    return made


@pytest.fixture
def full_disk(monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("effnlp.record.os.fsync", refuse)


def test_what_is_saved_is_what_is_loaded(record, tmp_path):
    record.save(tmp_path)
    assert Record.load(tmp_path) == record


def test_a_failed_run_keeps_its_reason(tmp_path):
    Record(FAILED, {}, reason="nan", message="loss is nan at step 7").save(tmp_path)
    loaded = Record.load(tmp_path)
    assert (loaded.status, loaded.reason, loaded.message) == (FAILED, "nan", "loss is nan at step 7")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_not_finite_is_refused_and_leaves_no_trace(record, value):
    with pytest.raises(ValueError, match=r"val/loss is .*finite numbers only"):
        record.put({"val/loss": value})
    assert "val/loss" not in record.values
    assert "val/loss" not in record.absent


def test_a_record_with_nan_slipped_in_is_not_written(record, tmp_path):
    record.values["val/loss"] = float("nan")
    with pytest.raises(ValueError):
        record.save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_was_not_measured_is_absent_with_its_reason_and_never_zero(record):
    record.put({"a": None, "b": None}, absent={"a": "no power sensor", "c": "never asked"})
    assert record.absent["a"] == "no power sensor"
    assert record.absent["b"] == "not measured"
    assert record.absent["c"] == "never asked"
    assert not {"a", "b", "c"} & set(record.values)


def test_a_key_is_never_both_a_value_and_absent(record):
    record.put({"a": None})
    record.put({"a": 1})
    assert record.values["a"] == 1.0
    record.put({"a": None})
    assert not set(record.values) & set(record.absent)


def test_a_full_disk_leaves_the_old_record_whole_and_nothing_beside_it(
    record, tmp_path, full_disk, monkeypatch
):
    with monkeypatch.context() as roomy:
        roomy.setattr("effnlp.record.os.fsync", lambda _: None)
        record.save(tmp_path)
    before = (tmp_path / "record.json").read_bytes()
    record.put({"val/accuracy": 0.9})
    with pytest.raises(OSError, match="No space left"):
        record.save(tmp_path)
    assert (tmp_path / "record.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]


def test_on_a_disk_that_was_always_full_there_is_no_record_rather_than_a_part(record, tmp_path, full_disk):
    with pytest.raises(OSError, match="No space left"):
        record.save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_writing_replaces_the_whole_file(tmp_path):
    path = tmp_path / "file.txt"
    write_atomically(path, "a long first text")
    write_atomically(path, "short")
    assert path.read_text() == "short"


def test_a_folder_without_a_record_says_so(tmp_path):
    with pytest.raises(FileNotFoundError):
        Record.load(tmp_path)


def test_a_newer_schema_is_refused_with_what_can_be_read(record, tmp_path):
    content = json.loads(record.save(tmp_path).read_text())
    (tmp_path / "record.json").write_text(json.dumps(content | {"schema": SCHEMA + 1}))
    with pytest.raises(ValueError, match=f"schema {SCHEMA + 1}; this effnlp reads up to {SCHEMA}"):
        Record.load(tmp_path)


def test_a_field_added_within_the_schema_does_not_stop_older_readers(record, tmp_path):
    content = json.loads(record.save(tmp_path).read_text())
    (tmp_path / "record.json").write_text(json.dumps(content | {"mood": "good"}))
    assert Record.load(tmp_path) == record


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_half_a_record_is_named_as_damaged(record, tmp_path, share):
    path = record.save(tmp_path)
    text = path.read_text()
    path.write_text(text[: int(share * len(text))])
    with pytest.raises(ValueError, match=r"record\.json is not a record"):
        Record.load(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe\x00\x81",
        b"[1, 2]",
        b'"completed"',
        b'{"schema": 1}',
        b'{"schema": 1, "status": "completed"}',
        b'{"schema": "one", "status": "completed", "identity": {}}',
        b'{"schema": 1, "status": "completed", "identity": {}, "values": null}',
        b'{"schema": 1, "status": "completed", "identity": "me"}',
        b'{"schema": 1, "status": "completed", "identity": {}, "values": {"val/loss": NaN}}',
        b'{"schema": 1, "status": "completed", "identity": {}, "values": {"val/loss": "low"}}',
    ],
)
def test_a_file_that_is_something_else_is_named_in_the_error(tmp_path, content):
    (tmp_path / "record.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"record\.json"):
        Record.load(tmp_path)


def test_events_come_back_in_order_with_their_time(tmp_path):
    events = Events(tmp_path)
    for step in range(3):
        events.add("step", step=step, loss=1.0 / (step + 1))
    assert [event["step"] for event in events] == [0, 1, 2]
    times = [event["time"] for event in events]
    assert times == sorted(times)


def test_before_the_first_event_there_are_none(tmp_path):
    assert list(Events(tmp_path)) == []


def test_numbers_that_are_not_finite_become_none_at_any_depth(tmp_path):
    events = Events(tmp_path)
    events.add("step", loss=float("nan"), values={"a": [float("inf"), 1.0]})
    line = events.path.read_text()
    assert "NaN" not in line
    assert "Infinity" not in line
    (event,) = events
    assert event["loss"] is None
    assert event["values"] == {"a": [None, 1.0]}


def test_a_torn_last_line_is_passed_over_and_does_not_take_the_next_event_with_it(tmp_path):
    events = Events(tmp_path)
    events.add("step", step=1)
    events.add("step", step=2)
    whole = events.path.read_bytes()
    for cut in range(1, len(whole.splitlines()[-1]) + 1):
        events.path.write_bytes(whole[: len(whole) - cut])
        before = [event["step"] for event in events]
        assert before in ([1], [1, 2])  # [1, 2] only where nothing but the line's end is missing
        events.add("step", step=3)
        assert [event["step"] for event in events] == [*before, 3]
