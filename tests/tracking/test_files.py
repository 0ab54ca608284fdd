from effnlp.record import COMPLETED, Record
from effnlp.tracking.files import FilesTracker


def test_the_neutral_tracker_leaves_the_folder_and_the_record_as_they_are(tmp_path):
    record = Record(COMPLETED, {"config_hash": "ab"}, values={"val/accuracy": 0.5})
    record.save(tmp_path)
    before = (tmp_path / "record.json").read_bytes()
    tracker = FilesTracker()
    tracker.start(record.identity, {}, {"peft": "lora"}, tmp_path)
    tracker.log({"val/accuracy": 0.4}, step=1, stage="finetuning")
    tracker.finish(record)
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]
    assert (tmp_path / "record.json").read_bytes() == before
