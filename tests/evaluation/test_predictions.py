import numpy as np
import pytest
import torch

from effnlp.evaluation.predictions import FILE, Predictions, load_predictions, save_predictions


def some(count, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return Predictions.of(torch.randn(count, 3, generator=draw), torch.randint(3, (count,), generator=draw))


def test_predictions_come_back_to_half_precision_split_by_split(tmp_path):
    validation, test = some(50), some(20, seed=1)
    save_predictions(tmp_path, {"val": validation})
    save_predictions(tmp_path, {"test": test})  # later: what the file has stays
    found = load_predictions(tmp_path)
    assert set(found) == {"val", "test"}
    for name, split in (("val", validation), ("test", test)):
        assert np.array_equal(found[name].labels, split.labels)
        assert np.allclose(found[name].logits, split.logits, atol=4e-3)
        assert found[name].logits.dtype == np.float32


def test_huge_logits_stay_finite_and_in_order(tmp_path):
    save_predictions(tmp_path, {"val": Predictions.of(torch.tensor([[1e9, -1e9, 0.0]]), torch.tensor([0]))})
    logits = load_predictions(tmp_path)["val"].logits
    assert np.isfinite(logits).all()
    assert logits.argsort().tolist() == [[1, 2, 0]]


def test_a_thousand_predictions_take_few_bytes(tmp_path):
    save_predictions(tmp_path, {"val": some(1000)})
    assert (tmp_path / FILE).stat().st_size < 1000 * (3 * 2 + 4)


def test_a_folder_without_or_with_damaged_predictions_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no predictions\.npz"):
        load_predictions(tmp_path)
    (tmp_path / FILE).write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(ValueError, match="is damaged"):
        load_predictions(tmp_path)
    np.savez(tmp_path / FILE, **{"val/logits": np.zeros((2, 2))})
    with pytest.raises(ValueError, match="is damaged"):
        load_predictions(tmp_path)


def test_numbers_keep_their_precision(tmp_path):
    given, labels = torch.tensor([[100000.25], [-3.125]]), torch.tensor([99999.5, 0.1], dtype=torch.float64)
    save_predictions(tmp_path, {"val": Predictions.of(given, labels)})
    save_predictions(tmp_path, {"test": Predictions.of(given, labels)})
    found = load_predictions(tmp_path)["val"]
    assert np.array_equal(found.logits, given)
    assert found.labels.tolist() == pytest.approx([99999.5, 0.1])
