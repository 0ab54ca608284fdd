"""The entry of the sweeper: what it does is in :mod:`effnlp.search.sweeper`."""

import copy
import errno
import sys
from dataclasses import dataclass
from pathlib import Path

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict


@dataclass
class ParetoConfig:
    """``hydra/sweeper=pareto``; all settings are in the group ``search``."""

    _target_: str = "hydra_plugins.effnlp_pareto.pareto.ParetoSweeper"


ConfigStore.instance().store(group="hydra/sweeper", name="pareto", node=ParetoConfig, provider="effnlp")


def for_workers(config: DictConfig) -> DictConfig:
    """The config as workers get it: with the whole path of the sweep's folder.

    A worker on another machine, of Ray for instance, was not started in the folder of the command.
    """
    folder = QuotedString(str(Path(str(config.hydra.sweep.dir)).absolute()), Quote.single)
    made = copy.deepcopy(config)
    with open_dict(made):
        made.hydra.overrides.hydra.append(f"hydra.sweep.dir={folder.with_quotes()}")
    return made


class ParetoSweeper(Sweeper):
    """Launches the workers of one multi-objective search in a single call of the launcher."""

    config: DictConfig | None = None
    launcher: Launcher | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra gives and make the launcher."""
        from hydra.core.plugins import Plugins

        self.hydra_context = hydra_context
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=for_workers(config)
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run the sweep; leaves with its exit code if that is not 0."""
        from effnlp.compose import ConfigError
        from effnlp.launch import user_folder
        from effnlp.search.sweeper import sweep
        from effnlp.search.worker import DiskFullError

        assert self.config is not None
        assert self.launcher is not None
        folder = Path(str(self.config.hydra.sweep.dir))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            OmegaConf.save(self.config, folder / "multirun.yaml")
            code = sweep(self.config, arguments, user_folder(self.config.hydra), self.launcher.launch)
        except ConfigError as error:
            sys.stderr.write(f"effnlp sweep: {error}\n")
            code = 2
        except (DiskFullError, OSError) as error:
            if not isinstance(error, DiskFullError) and error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            sys.stderr.write(
                f"effnlp sweep: the disk is full: {error}; with more room the same command goes on\n"
            )
            code = 1
        if code:
            sys.exit(code)
