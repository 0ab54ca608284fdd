import itertools

import numpy as np
import pytest

from effnlp.compression.quantization.allocation import assign


def problem(layers, options=4, seed=0, largest=50):
    """Costs that rise and errors that mostly fall from option to option, as those of bits do."""
    made = np.random.default_rng(seed)
    costs = np.sort(made.integers(0, largest, (layers, options)), axis=1)
    errors = (
        made.lognormal(0, 2, (layers, 1))
        * made.uniform(0.5, 2, (layers, options))
        * 4.0 ** -np.arange(options)
    )
    return costs, errors


def total(table, chosen):
    return sum(row[option] for row, option in zip(table, chosen, strict=True))


def by_brute_force(costs, errors, budget):
    within = [
        total(errors, chosen)
        for chosen in itertools.product(range(costs.shape[1]), repeat=len(costs))
        if total(costs, chosen) <= budget
    ]
    return min(within)


@pytest.mark.parametrize("seed", range(12))
def test_on_six_layers_it_is_the_best_of_all_choices_within_the_budget(seed):
    costs, errors = problem(6, seed=seed)
    if seed % 3 == 0:
        errors -= 0.3  # an option may gain, too
    smallest, largest = costs.min(1).sum(), costs.max(1).sum()
    for budget in np.linspace(smallest, largest, 5).astype(int):
        chosen = assign(costs, errors, int(budget))
        assert total(costs, chosen) <= budget
        assert total(errors, chosen) == pytest.approx(by_brute_force(costs, errors, budget), rel=1e-9)


def by_bytes(costs, errors, budget):
    """The textbook programme: the least error for every whole cost up to the budget."""
    best = np.zeros(budget + 1)
    for cost, error in zip(costs, errors, strict=True):
        shifted = np.full((len(cost), budget + 1), np.inf)
        for option, (c, e) in enumerate(zip(cost, error, strict=True)):
            if c <= budget:
                shifted[option, c:] = best[: budget + 1 - c] + e
        best = shifted.min(0)
    return best[budget]


@pytest.mark.parametrize("seed", range(4))
def test_on_a_hundred_layers_it_is_what_a_table_of_all_costs_gives(seed):
    costs, errors = problem(100, seed=seed)
    for share in (0.1, 0.4, 0.8):
        budget = int(costs.min(1).sum() * (1 - share) + costs.max(1).sum() * share)
        chosen = assign(costs, errors, budget)
        assert total(costs, chosen) <= budget
        assert total(errors, chosen) == pytest.approx(by_bytes(costs, errors, budget), rel=1e-9)


def test_equal_layers_do_not_multiply_what_must_be_kept():
    """24 layers of the same sizes and errors: 4^24 choices, of which few differ."""
    costs, errors = (np.repeat(table, 24, axis=0) for table in problem(1, seed=3))
    budget = int(costs.sum(0)[1] + 7)
    assert total(errors, assign(costs, errors, budget)) == pytest.approx(by_bytes(costs, errors, budget))


def test_a_budget_for_everything_takes_the_best_option_of_each_layer():
    costs, errors = problem(20)
    assert assign(costs, errors, int(costs.sum())) == errors.argmin(1).tolist()


def test_a_budget_that_no_choice_meets_names_the_smallest_and_that_one_is_met():
    costs, errors = problem(5)
    smallest = int(costs.min(1).sum())
    with pytest.raises(ValueError, match=f"a budget of {smallest - 1}: the smallest possible is {smallest}"):
        assign(costs, errors, smallest - 1)
    assert total(costs, assign(costs, errors, smallest)) == smallest


def test_tables_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="tables of layers by options"):
        assign([[1, 2]], [[1.0]], 3)
    with pytest.raises(ValueError, match="errors must be finite"):
        assign([[1, 2]], [[1.0, float("nan")]], 3)
