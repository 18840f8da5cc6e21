"""The examples of Ray Serve, run as a user runs them; what docs/serve.md shows is included from them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_examples import printed_by

GUIDE = Path(__file__).parent.parent / "docs" / "serve.md"


@pytest.mark.faults
def test_new_weights_are_published_under_load_without_a_failed_request() -> None:
    deployed, load, replicas, after, kept = printed_by("serve_rollout.py")
    assert deployed.startswith("deployed by serve_topics.yaml")
    counts = re.search(r"\{'music': (\d+), 'food': (\d+)\}, failed: 0$", load)
    assert counts is not None
    assert int(counts[2]) >= 100
    assert replicas == "replicas that answered: 2"
    assert after == "after the rollout: Counter({'food': 20})"
    assert kept == "kept in the object store: 'topics', 91 MB"


@pytest.mark.faults
def test_customers_get_the_answers_of_their_own_models_which_share_their_weights() -> None:
    stored, first, again, evicting = printed_by("serve_multiplexing.py")
    assert stored.startswith("20 models of 91 MB; in use in the object store: ")
    assert int(stored.split()[-2]) < 100
    assert first.startswith("first request: 10 of 10 answers are their customer's own")
    assert again.startswith("once more: 10 of 10 answers are their customer's own")
    assert evicting == "all customers, with room for 10: 20 of 20 answers are their customer's own"


def test_every_block_of_code_in_the_guide_is_included_from_an_example() -> None:
    blocks = re.findall(r"```\w+\n(.*?)\n```", GUIDE.read_text(), re.DOTALL)
    assert len(blocks) >= 5
    for block in blocks:
        included = re.fullmatch(r'--8<-- "(examples/[\w.]+)(?::(\w+))?"', block)
        assert included is not None, block
        file = (GUIDE.parent.parent / included[1]).read_text()
        assert included[2] is None or {f"[start:{included[2]}]", f"[end:{included[2]}]"} <= set(
            re.findall(r"--8<-- (\[\w+:\w+\])", file)
        )
