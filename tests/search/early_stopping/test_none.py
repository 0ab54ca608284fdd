from hydra.utils import instantiate
from omegaconf import OmegaConf

from effnlp.menu import conf_dir


def test_without_early_stopping_there_are_no_rungs():
    config = OmegaConf.load(conf_dir() / "search" / "early_stopping" / "none.yaml")
    assert list(config) == ["_target_"]
    assert instantiate(config) is None
