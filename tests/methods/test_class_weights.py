import pytest
from hypothesis import given
from hypothesis import strategies as st

from skinkd.errors import UserError
from skinkd.methods.criterion import class_weights

COUNTS = st.lists(st.integers(1, 5000), min_size=2, max_size=9)


@given(COUNTS)
def test_inverse_is_all_over_own(counts: list[int]) -> None:
    weight = class_weights("inverse", counts, beta=0.5)
    assert weight is not None
    assert weight.tolist() == pytest.approx([sum(counts) / count for count in counts], rel=1e-6)


@given(COUNTS, st.sampled_from([0.0, 0.9, 0.999]))
def test_effective_number(counts: list[int], beta: float) -> None:
    """Each image adds β^(n−1) to the effective number of its class."""
    weight = class_weights("effective_number", counts, beta=beta)
    assert weight is not None
    raw = [1 / sum(beta**k for k in range(count)) for count in counts]
    mean = sum(raw) / len(raw)
    assert weight.tolist() == pytest.approx([one / mean for one in raw], rel=1e-5)


@pytest.mark.parametrize("beta", [1.0, 1.5, -0.1, float("nan")])
def test_a_beta_without_weights_is_refused(beta: float) -> None:
    with pytest.raises(UserError, match=r"effective_number_beta=.* is out of range"):
        class_weights("effective_number", [3, 5], beta=beta)


def test_none_is_none_and_anything_else_is_refused() -> None:
    assert class_weights("none", [1, 2], beta=0.9) is None
    with pytest.raises(UserError, match=r"class_weights=inverted .* 'inverse'"):
        class_weights("inverted", [1, 2], beta=0.9)
