import numpy as np

from effnlp.search.early_stopping.observe import observe


def test_everything_goes_on_however_bad_it_is():
    values = np.random.default_rng(0).random((50, 2))
    halving = observe()
    assert halving.levels == (1, 3, 9)
    for item in range(50):
        decision = halving.decide(values, item, None, np.arange(50))
        assert (decision.goes_on, decision.position, decision.beaten_by) == (True, 0, None)
        assert halving.may_still_go_on(values, item, 50)
    assert halving.going_on(values, None, np.arange(50)) == list(range(50))
