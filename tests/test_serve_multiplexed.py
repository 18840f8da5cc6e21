"""What `ray_zerocopy.serve.multiplexed` refuses to decorate."""

from __future__ import annotations

import pytest

from ray_zerocopy.serve import multiplexed


def test_only_functions_of_an_id_can_be_decorated() -> None:
    for wrong in (lambda: None, lambda one, two, three: None, "model"):
        with pytest.raises(TypeError, match="function of a model's id, or a method of self and the id"):
            multiplexed(wrong)


def test_the_number_of_models_must_be_one() -> None:
    with pytest.raises(ValueError, match="must be positive"):
        multiplexed(max_num_models_per_replica=0)
    with pytest.raises(TypeError, match="must be an integer"):
        multiplexed(max_num_models_per_replica="3")
