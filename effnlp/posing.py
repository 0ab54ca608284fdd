"""What a run does where a task is asked in words: the model is made to answer before anything is trained, if it is."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from effnlp.attempt import Attempt
from effnlp.data.examples import Examples
from effnlp.data.prepare import Prepared
from effnlp.evaluation.evaluate import predict
from effnlp.evaluation.flops import FlopCount
from effnlp.evaluation.stage import gauge_of
from effnlp.legality import IllegalCombinationError, Step, label
from effnlp.model.classifier import ModelChoice
from effnlp.model.language import TokenModel
from effnlp.model.surgery import encoder_of


def trains(finetuning: Any) -> bool:
    """Whether a choice of the group ``finetuning`` trains; one that has ``trains = False`` does not."""
    return bool(getattr(finetuning, "trains", True))


def refuse_idle(finetuning: Any, steps: Sequence[Step]) -> None:
    """Where nothing is trained, no choice may be there that acts on a training.

    Raises:
        IllegalCombinationError: Naming the choice.
    """
    if trains(finetuning):
        return
    for step in steps:
        choice = step.choice
        is_peft = choice.group.partition("/")[0] == "peft" and choice.name != "none"
        if is_peft or (choice.group != "peft" and choice.requires.get("during")):
            how = next(label(other.choice) for other in steps if other.choice.group == "finetuning")
            raise IllegalCombinationError(
                f"{label(choice)} acts on a training, and {how} trains nothing; what would work: "
                f"{choice.group}=none" + (", finetuning.train=true" if how == "finetuning=prompt" else "")
            )


def with_token_head(choice: ModelChoice, model: nn.Module) -> TokenModel:
    """The encoder of a built model with the head of tokens that its weights were trained with.

    Raises:
        ValueError: If there is none.
    """
    if not hasattr(choice, "with_token_head"):
        raise ValueError(f"{type(choice).__name__} has no head that scores tokens")
    made = choice.with_token_head(model)
    return made if isinstance(made, TokenModel) else TokenModel(encoder_of(model), made, made.predicts_next)


def pose(
    finetuning: Any, model: nn.Module, data: Prepared, config: Mapping[str, Any], attempt: Attempt
) -> tuple[nn.Module, Prepared]:
    """The model as it answers and the data as it is asked; what is asked on the way is metered in the open stage."""
    if not hasattr(finetuning, "pose"):
        return model, data
    attempt.meter.add_flops(FlopCount({}, {}))  # counted, be it that nothing is asked
    if hasattr(finetuning, "read_config"):
        finetuning.read_config(config)
    attempt.record.notes |= getattr(finetuning, "notes", {})
    device = attempt.hardware.torch_device()

    def ask(answering: nn.Module, examples: Examples) -> Tensor:
        answering = answering.to(device).eval()
        return predict(answering, examples, config["evaluation"]["batch_size"], gauge_of(answering, attempt))

    posed, asked = finetuning.pose(model, data, ask, int(config["seed"]["order"]))
    attempt.record.put(asked.values())
    return posed.cpu(), asked
