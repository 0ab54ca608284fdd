import csv
import errno
import os
import time

import pytest

from effnlp.report.read import read_records
from effnlp.report.write import write_report


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_files_lie_in_the_first_folder_unless_told_otherwise(runs, tmp_path_factory):
    first = write_report([runs / "multirun/quickstart", runs / "outputs"])
    assert first.page == runs / "multirun/quickstart/report/report.html"
    assert first.frontier.is_file()
    elsewhere = tmp_path_factory.mktemp("x") / "deep" / "out"
    second = write_report([runs / "multirun/quickstart", runs / "outputs"], out=elsewhere)
    assert second.page.parent == elsewhere
    assert second.page.read_bytes() == first.page.read_bytes()


def test_reporting_again_gives_the_same_files(runs):
    first = write_report([runs])
    page, frontier = first.page.read_bytes(), first.frontier.read_bytes()
    again = write_report([runs])
    assert again.page.read_bytes() == page
    assert again.frontier.read_bytes() == frontier


def test_the_csv_has_one_row_per_member_with_raw_values(runs):
    files = write_report([runs])
    rows = rows_of(files.frontier)
    members = [(section, candidate) for section in files.summary.sections for candidate in section.frontier]
    assert len(rows) == len(members) > 5
    for row, (section, candidate) in zip(rows, members, strict=True):
        assert (row["task_fingerprint"], row["config_hash"]) == (section.fingerprint, candidate.config_hash)
        assert row["choice compression/pruning"] == candidate.choices["compression/pruning"]
        assert int(row["n"]) == len(candidate.runs) == len(row["folders"].split())
        for key, estimate in candidate.values.items():
            assert float(row[key]) == estimate.mean
        half_width = candidate.values["val/accuracy"].half_width
        assert row["val/accuracy half_width_90"] == ("" if half_width is None else str(half_width))


def test_the_report_is_no_record_of_the_next_report(runs):
    write_report([runs])
    assert len(read_records([runs]).loaded) == len(list(runs.rglob("record.json")))


def test_a_full_disk_leaves_the_earlier_report_whole(runs, monkeypatch):
    files = write_report([runs])
    before = files.page.read_bytes()

    def refuse(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("effnlp.record.os.fsync", refuse)
    with pytest.raises(OSError, match="No space left"):
        write_report([runs], objectives={"val/accuracy": "maximize"})
    assert files.page.read_bytes() == before
    assert sorted(path.name for path in files.page.parent.iterdir()) == ["frontier.csv", "report.html"]


def test_what_was_stopped_has_a_file_of_its_own_with_why_and_what_it_had_cost(searched):
    files = write_report([searched])
    rows = rows_of(files.stopped)
    assert [row["folder"].rsplit("/", 1)[1] for row in rows] == ["012", "013", "014", "015", "016"]
    for row in rows:
        assert row["why"].startswith("rung 1 of 2: position")
        assert float(row["cost/total/own/seconds"]) > 0
        assert "peft=bitfit" in row["overrides"]
    for run in files.summary.stopped:
        run.folder.joinpath("record.json").unlink()
    assert write_report([searched]).stopped is None
    assert not files.stopped.exists()


def test_the_csv_names_those_who_are_not_distinguishable(make_record, save, tmp_path):
    for name, shift in (("wide", 0.0), ("narrow", 0.01)):
        for seed, accuracy in enumerate((0.80, 0.82, 0.84)):
            record = make_record(seed=seed, overrides=[f"model.size={name}"])
            record.put({"val/accuracy": accuracy - shift, "infer/single_stream/flops": 1e7 - 1e8 * shift})
            save(record, f"trials/{name}{seed}")
    first, second = rows_of(write_report([tmp_path]).frontier)
    assert first["not distinguishable from"] == second["config_hash"]
    assert second["not distinguishable from"] == first["config_hash"]


@pytest.mark.slow
def test_ten_thousand_records_are_reported_in_seconds(make_record, save, tmp_path):
    for number in range(10_000):
        save(make_record(seed=number % 3, overrides=[f"peft.rank={number // 3}"]), f"trials/{number}")
    begin = time.perf_counter()
    files = write_report([tmp_path])
    assert len(files.summary.sections[0].candidates) == 3334
    assert time.perf_counter() - begin < 30  # about four; room for a busy machine
