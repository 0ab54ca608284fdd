"""What zeros and small integers save, and what they do not: MiniLM pruned without structure, and its weights in 4 bits.

    python benchmarks/sparse.py

Weights of the encoder's linear layers are zero by magnitude: nine in ten anywhere, or two of every four neighbours.
Their models are run by dense kernels, as they are in a run, and the first also by PyTorch's product of sparse rows
(CSR); PyTorch has no product of 2:4 weights on a CPU. Weights in 8 and 4 bits are unpacked before each product. One
thread, batches of 1 and 32 texts of 64 tokens; all take turns, ratios to dense float32 are taken turn by turn. Stored
are bytes of the linear layers' weights, in the form in which a run keeps them.

Expected: dense kernels take as long with zeros as without; four bits take half the bytes of eight and their scales.
"""

import argparse
import copy
import warnings
from functools import partial
from typing import Any

from tables import publish
from turns import compared, until

BATCHES, TOKENS = (1, 32), 64
SECONDS_PER_SHAPE = 60.0

DENSE, SPARSE, CSR, PAIRS = "float32", "90 % zeros", "90 % zeros, CSR product", "2:4"
EIGHT, FOUR = "int8_weight_only", "int4_weight_only"

CHOICES = {
    SPARSE: ("pruning", "magnitude", {"sparsity": 0.9}),
    PAIRS: ("pruning", "semi_structured", {}),
    EIGHT: ("quantization", "int8_weight_only", {}),
    FOUR: ("quantization", "int4_weight_only", {}),
}
"""Name of a candidate to its slot, its choice, and what it does not leave at its default."""


def applied(model: Any, slot: str, choice: str, changes: dict[str, Any]) -> Any:
    """A copy of the model to which a choice of a slot of compression was applied."""
    from hydra.utils import instantiate

    from effnlp import method
    from effnlp.menu import conf_dir, read_yaml

    config = read_yaml(conf_dir() / "compression" / slot / f"{choice}.yaml") | changes
    return method.finish(instantiate(config, _convert_="all"), copy.deepcopy(model))


def with_sparse_products(model: Any) -> Any:
    """A copy whose linear layers multiply sparse rows."""
    from torch import Tensor, nn

    from effnlp.model.surgery import encoder_layers, replace_layers

    class SparseRows(nn.Module):
        """Weights in CSR form, for inputs (…, I)."""

        def __init__(self, linear: nn.Linear) -> None:
            super().__init__()
            self.rows, self.bias = linear.weight.detach().to_sparse_csr(), linear.bias

        def forward(self, x: Tensor) -> Tensor:
            flat = x.flatten(0, -2)  # (R, I)
            return (self.rows @ flat.t()).t().add(self.bias).view(*x.shape[:-1], -1)

    changed = copy.deepcopy(model)
    replace_layers(changed, encoder_layers(changed, nn.Linear).values(), SparseRows)
    return changed


def make_candidates() -> tuple[dict[str, Any], dict[str, int]]:
    """Models in evaluation mode, and the bytes of their linear layers."""
    from torch import nn

    from effnlp.model.pretrained import Pretrained
    from effnlp.model.storage import stored_bytes
    from effnlp.model.surgery import encoder_layers, encoder_of

    model: Any = Pretrained("minilm").build(None, 2).eval()  # type: ignore[arg-type]
    layers = tuple(encoder_layers(model, nn.Linear))
    models = {DENSE: model} | {name: applied(model, *choice).eval() for name, choice in CHOICES.items()}
    sizes = {
        name: sum(stored_bytes(encoder_of(each).get_submodule(layer)) for layer in layers)
        for name, each in models.items()
    }
    models[CSR] = with_sparse_products(models[SPARSE])
    return {name: models[name] for name in (DENSE, SPARSE, CSR, PAIRS, EIGHT, FOUR)}, sizes


def make_batch(texts: int) -> dict[str, Any]:
    """Random ids without padding."""
    import torch

    ids = torch.randint(1000, 20000, (texts, TOKENS), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="single texts, few turns; nothing is written")
    options = parser.parse_args()
    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    models, sizes = make_candidates()
    with torch.inference_mode():
        found = {}
        for texts in BATCHES[:1] if options.quick else BATCHES:
            calls = {name: partial(model, make_batch(texts)) for name, model in models.items()}
            found[str(texts)] = compared(until(0.0 if options.quick else SECONDS_PER_SHAPE, calls), DENSE)
    content = {"tokens": TOKENS, "bytes": sizes, "batches": found}
    publish("sparse", content, ("torch", "transformers"), write=not options.quick)


if __name__ == "__main__":
    main()
