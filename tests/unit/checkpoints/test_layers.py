"""Names of tensors in the order in which people read them."""

from mergegrid.checkpoints.layers import reading_order


def test_numbers_of_layers_are_in_order():
    names = ["h.10.w", "h.2.w", "h.2.experts.11.w", "h.2.experts.3.w", "10.w", "9", "embed"]
    assert sorted(names, key=reading_order) == [
        *("9", "10.w", "embed", "h.2.experts.3.w", "h.2.experts.11.w", "h.2.w", "h.10.w")
    ]
