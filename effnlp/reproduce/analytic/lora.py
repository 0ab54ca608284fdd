"""Trainable parameters of parameter-efficient fine-tuning, counted on modules or by the formula of the paper.

Source: Hu et al. (2022), https://arxiv.org/abs/2106.09685

Legend: D width of the model, r width of a bottleneck or rank of a change.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from effnlp.menu import suggest
from effnlp.reproduce.analytic.encoders import MEGA, count, on_meta, shape

if TYPE_CHECKING:
    from effnlp.model.classifier import Classifier


def classifier(of: str, classes: int = 2) -> "Classifier":
    """A classifier of this package around an encoder on the meta device: without pooler, with a linear head."""
    import torch

    from effnlp.model.classifier import Classifier
    from effnlp.model.pretrained_encoder import PretrainedEncoder

    wanted = shape(of)
    with torch.device("meta"):
        model: Any = on_meta(wanted)
        return Classifier(PretrainedEncoder(model), classes)


def full(of: str) -> int:
    """All parameters of the encoder."""
    return count(classifier(of).encoder.parameters())


def in_layers(of: str) -> int:
    """The parameters of the encoder's layers: all but the embeddings."""
    return count(classifier(of).encoder.get_submodule("model.encoder").parameters())


def bitfit(of: str) -> int:
    """What our BitFit trains in the encoder: its biases."""
    from effnlp.peft.bitfit import BitFit

    return trainable(BitFit(), of)


def lora(of: str, rank: int = 8) -> int:
    """What our LoRA on query and value trains in the encoder: r · (in + out) for each matrix."""
    from effnlp.peft.lora import LoRA

    return trainable(LoRA(rank=rank), of)


def ia3(of: str) -> int:
    """What our (IA)³ trains in the encoder: L · (2 · D + F), with F the width of the feed-forward."""
    from effnlp.peft.ia3 import IA3

    return trainable(IA3(), of)


def houlsby(of: str, bottleneck: int, train_norms: bool = False) -> int:
    """What our adapters after attention and feed-forward train: L · 2 · (2 · D · r + r + D), and the norms if asked."""
    from effnlp.peft.houlsby_adapter import HoulsbyAdapter

    return trainable(HoulsbyAdapter(width=bottleneck, train_norms=train_norms), of)


def pfeiffer(of: str, bottleneck: int) -> int:
    """What our adapters after the feed-forward train: L · (2 · D · r + r + D)."""
    from effnlp.peft.pfeiffer_adapter import PfeifferAdapter

    return trainable(PfeifferAdapter(width=bottleneck), of)


def compacter(of: str, bottleneck: int, products: int = 4, train_norms: bool = False) -> int:
    """What our Compacter trains: n³ + L · 2 · 3 · (D + r), biases included, and the norms if asked."""
    from effnlp.peft.compacter import Compacter

    return trainable(Compacter(width=bottleneck, products=products, train_norms=train_norms), of)


def trainable(method: Any, of: str) -> int:
    """Parameters of the encoder, not of the head, that get a gradient after ``method.prepare``."""
    import torch

    with torch.device("meta"):
        model = method.prepare(classifier(of))
    return count(parameter for parameter in model.encoder.parameters() if parameter.requires_grad)


def adapters(of: str, bottleneck: int, per_layer: int, layers: int | None = None) -> int:
    """L̂ · (2 · D · r + r + D): of each adapter two matrices and their biases (section 5.1).

    Args:
        of: A name of :data:`effnlp.reproduce.analytic.encoders.SHAPES`.
        bottleneck: r.
        per_layer: 2 after Houlsby et al. (2019), https://arxiv.org/abs/1902.00751; 1 after Pfeiffer et al. (2021),
            https://arxiv.org/abs/2005.00247.
        layers: How many layers have them; None is all, fewer is AdapterDrop (Rücklé et al. 2021,
            https://arxiv.org/abs/2010.11918).

    Raises:
        ValueError: If there are not that many layers.
    """
    wanted = shape(of)
    layers = wanted.depth if layers is None else layers
    if not 0 <= layers <= wanted.depth:
        raise ValueError(f"layers must be in 0 … {wanted.depth} for {of}, got {layers}")
    return layers * per_layer * (2 * wanted.width * bottleneck + bottleneck + wanted.width)


def pretraining_head(of: str, classes: int = 2) -> int:
    """The head that RoBERTa is fine-tuned with: a dense layer of D × D and one of D × classes, with biases."""
    width = shape(of).width
    return width * width + width + width * classes + classes


METHODS: Mapping[str, Callable[..., int]] = {
    "full": full,
    "bitfit": bitfit,
    "lora": lora,
    "ia3": ia3,
    "houlsby": houlsby,
    "pfeiffer": pfeiffer,
    "compacter": compacter,
    "adapters": adapters,
}


def table(models: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Millions of trainable parameters without a head and with RoBERTa's, and shares of the encoder and its layers.

    Args:
        models: Row to ``method``, a name of :data:`METHODS`, and its arguments.

    Raises:
        ValueError: If a method is unknown.
    """
    cells = {}
    for row, arguments in models.items():
        keys = dict(arguments)
        method = keys.pop("method")
        if method not in METHODS:
            raise ValueError(f"no method {method!r}{suggest(method, [*METHODS])}")
        own = METHODS[method](**keys)
        cells[row] = {
            "trainable": own / MEGA,
            "trainable with head": (own + pretraining_head(keys["of"])) / MEGA,
            "share": 100 * own / full(keys["of"]),
        }
        if method != "full":
            cells[row]["share of layers"] = 100 * own / in_layers(keys["of"])
    return cells
