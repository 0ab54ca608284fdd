import torch

from effnlp.peft.head_only import HeadOnly


def test_steps_change_the_head_and_no_byte_of_the_encoder(make_classifier, make_batch, take_steps):
    model = HeadOnly().prepare(make_classifier())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    losses = take_steps(model, make_batch(), steps=10)
    assert losses[-1] < losses[0]
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"head.weight", "head.bias"}


def test_logits_are_bit_equal_before_training(make_classifier, make_batch):
    batch, model = make_batch(), make_classifier()
    before = model(batch)
    assert torch.equal(HeadOnly().prepare(model)(batch), before)
