"""Small language models and prompts for the tests of generation."""

import pytest
import torch

from effnlp.model.backbone import BackboneEncoder, Size
from effnlp.model.language import LanguageModel
from effnlp.model.mixer.attention import Attention

VOCABULARY = 12


@pytest.fixture
def make_decoder():
    """A language model of two layers far from its near-uniform start; equal arguments give equal weights."""

    def make(seed=0, vocabulary=VOCABULARY, max_length=24, mixer=Attention, positions="learned", pairs=False):
        torch.manual_seed(seed)

        def causal(**how):
            return mixer(**how, causal=True)

        size = Size(depth=2, width=16, heads=2, feedforward_width=24)
        encoder = BackboneEncoder(size, causal, vocabulary, max_length, 0.0, positions, pairs)
        for parameter in encoder.parameters():
            parameter.data.add_(0.3 * torch.randn_like(parameter))
        return LanguageModel(encoder).eval()

    return make
