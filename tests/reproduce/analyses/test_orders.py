from effnlp.reproduce.analyses.orders import legal, placed


def test_slots_change_places_among_themselves_and_the_others_stay():
    places = ["distillation", "token_dropping", "pruning", "elastic", "quantization"]
    order = ["quantization", "distillation", "pruning"]
    assert placed(places, order) == ["quantization", "token_dropping", "distillation", "elastic", "pruning"]
    assert placed(places, ["distillation", "pruning", "quantization"]) == places


def test_what_is_quantized_cannot_be_pruned_and_every_other_order_holds():
    common = ["compression/distillation=logits", "compression/pruning=magnitude"]
    table = legal(common, "int8_dynamic")
    said = {row: columns["legal"] for row, columns in table.items() if "legal" in columns}
    assert len(said) == 6
    for row, is_legal in said.items():
        assert is_legal == (row.index("prune") < row.index("quantize"))
    assert table["all orders"] == {"orders": 6, "refused": 3}
    assert table["pruning after quantization"] == {"orders": 3, "refused": 3}
