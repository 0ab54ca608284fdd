"""Hugging Face data sets: local folders, the cache, and an unreachable or unknown hub."""

import time

import datasets
import pandas as pd
import pytest
from datasets.packaged_modules.parquet.parquet import Parquet
from huggingface_hub import HfApi
from huggingface_hub.errors import OfflineModeIsEnabled, RepositoryNotFoundError
from huggingface_hub.utils import httpx

from effnlp.task.hub import hub, source_version
from effnlp.task.task import SPLITS


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of the test's own."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    return tmp_path / "cache"


@pytest.fixture
def no_network(monkeypatch):
    """Fail as a machine without a network does."""

    def fail(*_, **__):
        raise httpx.ConnectError("[Errno -2] Name or service not known")

    monkeypatch.setattr(HfApi, "dataset_info", fail)


@pytest.fixture
def folder(make_rows, tmp_path):
    """Parquet files with named labels; those of test are hidden, and two of train are missing."""
    features = datasets.Features(
        {"sentence": datasets.Value("string"), "gold": datasets.ClassLabel(names=["no", "yes"])}
    )
    home = tmp_path / "toy"
    home.mkdir()
    for seed, split in enumerate(SPLITS):
        rows = make_rows(200, (0, 1), seed=seed)
        gold = [-1] * 200 if split == "test" else rows["label"].tolist()
        if split == "train":
            gold[3], gold[4] = -1, None
        table = {"sentence": rows["text"].tolist(), "gold": gold}
        datasets.Dataset.from_dict(table, features=features).to_parquet(home / f"{split}.parquet")
    return home


def load(folder, **settings):
    return hub(str(folder), text="sentence", label="gold", **settings)


def test_a_local_folder_gives_its_splits_with_the_names_of_its_labels(folder, make_rows):
    task = load(folder)
    assert task.name == "toy"
    assert task.labels == ("no", "yes")
    expected = make_rows(200, (0, 1), seed=1)
    assert task.splits["validation"][["text", "label"]].values.tolist() == expected.values.tolist()
    assert task.recipe["validation"] == "split validation of folder toy"


def test_rows_without_a_label_are_dropped_and_counted(folder, make_rows):
    task = load(folder)
    rest = set(make_rows(200, seed=0)["text"]) - set(
        pd.concat([task.splits["train"], task.splits["test"]])["text"]
    )
    assert rest == set(make_rows(200, seed=0)["text"][[3, 4]])
    assert "without 2 rows that have no label" in task.recipe["train"]


def test_a_split_with_hidden_labels_is_made_from_train_and_the_recipe_says_so(folder, make_rows):
    task = load(folder)
    assert set(task.splits["test"]["text"]) < set(make_rows(200, seed=0)["text"])
    assert not set(task.splits["test"]["text"]) & set(task.splits["train"]["text"])
    assert task.recipe["test"].startswith(
        "split test of folder toy: its labels are hidden; made: the rows of train"
    )


def test_a_split_that_is_not_there_is_made_from_train(folder):
    (folder / "validation.parquet").unlink()
    task = load(folder)
    assert "fixed hash in [0.1, 0.2)" in task.recipe["validation"]
    with pytest.raises(
        ValueError, match=r"folder toy has no split 'valid' for validation; it has train, test"
    ):
        load(folder, validation="valid")


def test_splits_may_bear_other_names_or_none(folder):
    task = load(folder, test="validation", validation=None)
    assert task.recipe["test"] == "split validation of folder toy"
    assert "fixed hash" in task.recipe["validation"]
    with pytest.raises(ValueError, match=r"has no split 'trian' for train \(did you mean 'train'\?\)"):
        load(folder, train="trian")


def test_a_column_that_is_not_there_is_named_with_those_that_are(folder):
    with pytest.raises(
        ValueError, match=r"no column 'sentense' for text \(did you mean 'sentence'\?\); its col"
    ):
        hub(str(folder), text="sentense", label="gold")


def test_csv_files_and_plain_labels_work_and_minus_one_may_be_a_label(tmp_path, make_rows):
    home = tmp_path / "csv"
    home.mkdir()
    for seed, split in enumerate(SPLITS):
        make_rows(100, (-1, 0, 1), seed=seed).to_csv(home / f"{split}.csv", index=False)
    assert hub(str(home)).labels == ("0", "1")
    whole = hub(str(home), missing_label=None)
    assert whole.labels == ("-1", "0", "1")
    assert len(whole.splits["train"]) == 100


def test_sizes_and_fingerprints(folder):
    whole, part = load(folder), load(folder, train_size=20, name="mine")
    assert len(part.splits["train"]) == 20
    assert part.name == "mine"
    assert whole.fingerprint == load(folder).fingerprint != part.fingerprint


def test_the_source_version_of_a_folder_follows_its_files(folder):
    first = source_version(path=str(folder), text="sentence", train_size=3)
    assert first == source_version(path=str(folder))
    (folder / "test.parquet").unlink()
    assert source_version(path=str(folder)) != first


def test_without_a_network_the_error_comes_at_once_and_says_what_to_do(no_network):
    start = time.monotonic()
    with pytest.raises(
        ConnectionError, match=r"not in the local cache .*EFFNLP_DATA.*task=files.*HF_HUB_OFF"
    ):
        hub("someone/toy")
    assert time.monotonic() - start < 5


def test_offline_mode_is_as_no_network(monkeypatch):
    def fail(*_, **__):
        raise OfflineModeIsEnabled("offline")

    monkeypatch.setattr(HfApi, "dataset_info", fail)
    with pytest.raises(ConnectionError, match="hub cannot be reached"):
        hub("someone/toy")


@pytest.mark.parametrize(("status", "error"), [(404, ValueError), (401, ValueError), (503, ConnectionError)])
def test_an_unknown_name_is_told_from_an_unreachable_hub(monkeypatch, status, error):
    def fail(*_, **__):
        response = httpx.Response(status, request=httpx.Request("GET", "https://huggingface.co/api"))
        raise RepositoryNotFoundError("Repository Not Found\nmore", response=response)

    monkeypatch.setattr(HfApi, "dataset_info", fail)
    message = "gives no data set 'someone/toy'" if error is ValueError else "cannot be reached"
    with pytest.raises(error, match=message):
        hub("someone/toy")
    if error is ValueError:
        with pytest.raises(ValueError, match=message):
            source_version(path="someone/toy")


def test_a_folder_that_is_not_there_is_no_name_on_the_hub(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        hub(str(tmp_path / "nowhere"))


def test_a_folder_without_data_files_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"cannot load folder .*empty"):
        hub(str(tmp_path / "empty"))


def test_without_a_network_what_was_loaded_before_comes_from_the_cache(folder, cache, no_network):
    commit = "0123456789abcdef0123456789abcdef01234567"
    files = {split: [str(folder / f"{split}.parquet")] for split in SPLITS}
    builder = Parquet(str(cache), dataset_name="toy", config_id="default", hash=commit, data_files=files)
    builder.download_and_prepare()
    (cache / "toy").rename(cache / "someone___toy")  # as a load from the hub leaves it
    task = hub("someone/toy", text="sentence", label="gold")
    assert task.labels == ("no", "yes")
    assert "someone/toy of the Hugging Face hub at 0123456789ab" in task.recipe["train"]
    assert task.fingerprint != load(folder).fingerprint
    assert commit in source_version(path="someone/toy")
    assert not datasets.config.HF_HUB_OFFLINE
