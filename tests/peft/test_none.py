import torch

from effnlp import method
from effnlp.peft.none import none


def test_full_fine_tuning_trains_every_parameter_and_changes_no_byte_by_itself(make_classifier):
    model, untouched = make_classifier(), make_classifier().state_dict()
    prepared = method.prepare([none], model)
    finished = method.finish(none, prepared)
    assert finished is model
    assert all(parameter.requires_grad for parameter in finished.parameters())
    assert all(torch.equal(value, untouched[name]) for name, value in finished.state_dict().items())
