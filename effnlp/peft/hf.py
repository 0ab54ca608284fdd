"""The PEFT package of Hugging Face: any of its methods, by its type.

Source: Mangrulkar et al. (2022), https://github.com/huggingface/peft; many of its methods are surveyed by Lialin et
al. (2023), https://arxiv.org/abs/2303.15647

Methods that change layers wrap the encoder, ours or a pretrained one. Those that put virtual tokens before a text wrap
the pretrained model inside it.
"""

import copy
import dataclasses
import importlib.util
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from effnlp.menu import suggest
from effnlp.method import Objective, note, progress
from effnlp.model.surgery import encoder_of
from effnlp.peft.freezing import freeze_all_but_head, is_norm

if TYPE_CHECKING:
    from pytorch_lightning import Callback

    from effnlp.data.encodings import Batch

REQUIRES = {"prepare": ("linear_layers", "float_linear_layers")}
REMOVES = {"prepare": ("trainable_weights", "layer_outputs")}

ADAPTER = "default"
"""What the package calls the one adapter that there is."""

NEEDS_MORE = {
    "ADAPTION_PROMPT": "the attention of a causal model of one of a few families",
    "CARTRIDGE": "the key-value cache of a causal model",
    "CPT": "the tokens of a context, and a causal model",
    "MULTITASK_PROMPT_TUNING": "the task of each text",
    "POLY": "the task of each text",
    "SHADOW": "a second, causal model",
    "XLORA": "adapters that are trained already",
}
"""Types of the package that need what a run has not, and what that is."""

QUERY_AND_VALUE = ("query", "value")

DEFAULT_TARGETS = {"IA3": ("key", "value", "feedforward_down")}
"""Roles for types that want others than query and value."""

DEFAULTS = {"num_virtual_tokens": 8, "total_step": 10**9}
"""Settings without which the package makes nothing. AdaLoRA learns the real number of steps when training starts."""

CHANGES_AT_START = ("C3A", "FOURIERFT", "UNILORA", "VBLORA", "PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING")
"""Types that change the logits before any training, by their defaults."""


class HuggingFacePeft:
    """What the package trains and the head are trained.

    Attributes:
        settled_after: AdaLoRA takes ranks away until the last step.
        changes_at_start: Whether the logits differ before any training.

    Args:
        type: The name of a ``peft.PeftType``.
        targets: Roles of linear layers, for types that have ``target_modules``. None: query and value; for IA3 key,
            value and the input of feedforward_down; for LN_TUNING every norm; for TRAINABLE_TOKENS the table of
            tokens; nothing where ``settings`` name modules.
        settings: Of the type's own configuration class. Lists of modules may name roles, too.

    Raises:
        ModuleNotFoundError: If the package is not installed.
        ValueError: If there is no such type or setting, or the type needs what a run has not.
    """

    def __init__(
        self,
        type: str = "LORA",
        targets: Sequence[str] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        fields = configuration_fields(type)
        if type in NEEDS_MORE:
            raise ValueError(f"type={type} needs {NEEDS_MORE[type]}, which a run does not give it")
        if isinstance(targets, str) or (targets is not None and not targets):
            raise ValueError(f"targets must be a list with at least one role, got {targets!r}")
        settings = dict(settings or {})
        for name in settings:
            if name not in fields:
                raise ValueError(f"settings of type={type} have no {name!r}{suggest(name, fields)}")
        if targets and "target_modules" not in fields:
            raise ValueError(f"type={type} has no targets, got {list(targets)}")
        if targets and "target_modules" in settings:
            raise ValueError("the targets are named twice: leave out targets or settings.target_modules")
        if type == "TRAINABLE_TOKENS" and not settings.get("token_indices"):
            raise ValueError(
                "type=TRAINABLE_TOKENS needs settings.token_indices: the ids of the tokens to train"
            )
        self.type, self.settings = type, settings
        self.targets = None if targets is None else tuple(targets)
        self.settled_after = 1.0 if type == "ADALORA" else 0.0
        self.changes_at_start = type in CHANGES_AT_START

    def prepare(self, model: nn.Module) -> nn.Module:
        """Let the package wrap the encoder, and freeze all but what it trains and the head, in place.

        Raises:
            ValueError: If the package refuses; its reason is quoted.
        """
        freeze_all_but_head(model)
        encoder = encoder_of(model)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model.encoder = wrapped(encoder, self.type, self._settings_for(encoder))
        except _Refused as refused:
            raise ValueError(str(refused)) from refused
        except Exception as error:  # whatever it is of the package, it is about the settings or the model
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"peft=hf with type={self.type}: the package refuses: {reason}") from error
        return model

    def _settings_for(self, encoder: nn.Module) -> dict[str, Any]:
        """The settings with roles replaced by the names of modules inside the encoder."""
        fields = configuration_fields(self.type)
        roles: Mapping[str, Sequence[str]] = encoder.linear_roles()  # type: ignore[operator]
        settings = dict(self.settings)
        for key, value in settings.items():
            if key.endswith("_modules") and isinstance(value, list | tuple):
                settings[key] = [n for name in value for n in roles.get(name) or [name]]
        if "target_modules" in fields and "target_modules" not in settings:
            settings["target_modules"] = self._targets(encoder, roles)
        if "feedforward_modules" in fields and "feedforward_modules" not in settings:
            inner = set(roles.get("feedforward_down", ()))
            settings["feedforward_modules"] = [n for n in settings["target_modules"] if n in inner]
        for key, value in DEFAULTS.items():
            if key in fields:
                settings.setdefault(key, value)
        return settings

    def _targets(self, encoder: nn.Module, roles: Mapping[str, Sequence[str]]) -> list[str]:
        """The names of the layers in the roles, or of what suits the type."""
        if self.type == "LN_TUNING" and self.targets is None:
            return [name for name, module in encoder.named_modules() if is_norm(module)]
        if self.type == "TRAINABLE_TOKENS" and self.targets is None:
            tables = {name: it for name, it in encoder.named_modules() if isinstance(it, nn.Embedding)}
            return [max(tables, key=lambda name: tables[name].num_embeddings)]
        default = DEFAULT_TARGETS.get(self.type, QUERY_AND_VALUE)
        wanted = default if self.targets is None else self.targets
        for role in wanted:
            if not roles.get(role):
                there = sorted(each for each in roles if roles[each])
                raise _Refused(
                    f"{type(encoder).__name__} has no layer in the role {role!r}{suggest(role, there)}"
                )
        return list(dict.fromkeys(name for role in wanted for name in roles[role]))

    def callbacks(self) -> "list[Callback]":
        """AdaLoRA takes ranks away after each step."""
        return [_rank_allocation()] if self.type == "ADALORA" else []

    def objective(self, base: Objective) -> Objective:
        """The loss; with AdaLoRA's penalty on factors that are not orthogonal, where that is the type."""
        return with_orthogonality(base) if self.type == "ADALORA" else base

    def finish(self, model: nn.Module) -> nn.Module:
        """Merge by the package where the type can, which leaves plain layers; else leave it as it is."""
        from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer

        tuner = encoder_of(model)
        found = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
        if not isinstance(tuner, BaseTuner):
            note(model, "peft", {"layers": 0, "merged_layers": 0})
            return model
        merges = can_merge(found)
        note(model, "peft", {"layers": len(found), "merged_layers": len(found) if merges else 0})
        if merges:
            training = tuner.training
            model.encoder = tuner.merge_and_unload().train(training)
        return model


class _Refused(Exception):  # noqa: N818 - it becomes a ValueError
    """A refusal in our own words."""


def configuration_fields(type: str) -> list[str]:
    """The settings of a type of the package.

    Raises:
        ModuleNotFoundError: If the package is not installed.
        ValueError: If there is no such type.
    """
    if importlib.util.find_spec("peft") is None:
        raise ModuleNotFoundError("peft=hf needs the package peft: pip install 'effnlp[peft]'")
    from peft import PeftType
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    names = [one.name for one in PeftType]
    if type not in names:
        near = suggest(str(type).upper(), names)
        raise ValueError(f"type must be one of those of the package peft, got {type!r}{near}")
    of_run = (
        "peft_type",
        "task_type",
        "inference_mode",
        "auto_mapping",
        "base_model_name_or_path",
        "peft_version",
    )
    config = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType[type]]
    return [field.name for field in dataclasses.fields(config) if field.name not in of_run]


def wrapped(encoder: nn.Module, type: str, settings: Mapping[str, Any]) -> nn.Module:
    """The encoder with the package's modules in it, which alone are trained.

    Raises:
        ValueError: If virtual tokens are to be put before the texts of a model that is not a pretrained one.
    """
    from peft import PeftModelForFeatureExtraction, PeftType
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
    from transformers import PreTrainedModel

    config = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType[type]](**settings)
    if not config.is_prompt_learning:
        tuner: nn.Module = PEFT_TYPE_TO_TUNER_MAPPING[PeftType[type]](encoder, config, ADAPTER)
        return tuner.train(encoder.training)
    inner = getattr(encoder, "model", None)
    if not isinstance(inner, PreTrainedModel):
        raise _Refused(f"type={type} puts virtual tokens before a text; with model=pretrained alone")
    config.task_type = "FEATURE_EXTRACTION"
    prompted = PeftModelForFeatureExtraction(inner, config, ADAPTER)
    prompted.register_forward_hook(without_virtual_tokens, with_kwargs=True)
    encoder.model = prompted.train(encoder.training)
    return encoder


def without_virtual_tokens(_module: nn.Module, _args: Any, kwargs: Mapping[str, Any], output: Any) -> Any:
    """The states of the text's own tokens: virtual ones stand before them, where the type leaves them in."""
    length = kwargs["input_ids"].shape[1]
    output.last_hidden_state = output.last_hidden_state[:, -length:]
    return output


def can_merge(layers: Sequence[nn.Module]) -> bool:
    """Whether the package merges such layers; tried on a copy of one, since some say so only when they are asked."""
    trial: Any = copy.deepcopy(layers[0]) if layers else None
    try:
        trial.merge()
    except Exception:  # each type has an error of its own
        return False
    return True


# AdaLoRA


def tuner_of(model: nn.Module) -> Any:
    """The package's AdaLoRA inside of a model."""
    from peft import AdaLoraModel

    return next(module for module in model.modules() if isinstance(module, AdaLoraModel))


def with_orthogonality(base: Objective) -> Objective:
    """``base`` plus the mean distance of the factors P and Q from orthogonality (Zhang et al. 2023, eq. 4)."""

    def loss(model: nn.Module, batch: "Batch") -> Tensor:
        tuner = tuner_of(model)
        factors = [
            p.T if "lora_B" in name else p
            for name, p in tuner.named_parameters()
            if "lora_A" in name or "lora_B" in name
        ]
        distances = [torch.norm(p @ p.T - torch.eye(p.shape[0], device=p.device)) for p in factors]
        return base(model, batch) + tuner.peft_config[ADAPTER].orth_reg_weight * torch.stack(distances).mean()

    return loss


def _rank_allocation() -> "Callback":
    from pytorch_lightning import Callback, LightningModule, Trainer

    class RankAllocation(Callback):
        """Lets AdaLoRA move its budget of ranks while the gradients of a step are there."""

        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            tuner, (_, steps) = tuner_of(pl_module), progress(trainer)
            tuner.peft_config[ADAPTER].total_step = steps
            tuner.rankallocator.set_total_step(steps)

        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
            tuner_of(pl_module).update_and_allocate(trainer.global_step)

    return RankAllocation()
