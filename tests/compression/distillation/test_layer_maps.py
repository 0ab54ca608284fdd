import pytest

from effnlp.compression.distillation.layer_maps import MAPS, layer_map


def test_the_maps_of_the_papers():
    """TinyBERT4 of a teacher of 12 layers, and the layers of patient distillation, 6 of 12 without the last."""
    assert layer_map("uniform", 4, 12) == [0, 3, 6, 9, 12]
    assert layer_map("top", 4, 12) == [0, 9, 10, 11, 12]
    assert layer_map("bottom", 4, 12) == [0, 1, 2, 3, 4]
    assert layer_map("uniform", 6, 12)[1:-1] == [2, 4, 6, 8, 10]
    assert layer_map("top", 6, 12)[1:-1] == [7, 8, 9, 10, 11]


@pytest.mark.parametrize("kind", MAPS)
@pytest.mark.parametrize(("student", "teacher"), [(1, 1), (3, 3), (3, 6), (5, 7), (4, 9)])
def test_every_map_goes_up_from_the_embeddings_and_no_two_layers_share_a_teacher(kind, student, teacher):
    found = layer_map(kind, student, teacher)
    assert found[0] == 0
    assert len(found) == student + 1
    assert sorted(set(found)) == found
    assert found[-1] <= teacher
    assert student != teacher or found == list(range(teacher + 1))


def test_a_student_that_is_deeper_than_its_teacher_is_refused():
    with pytest.raises(ValueError, match="the student has 4, the teacher 3"):
        layer_map("uniform", 4, 3)


def test_another_map_is_refused():
    with pytest.raises(ValueError, match="layer_map must be one of uniform, top, bottom, got 'skip'"):
        layer_map("skip", 2, 4)
