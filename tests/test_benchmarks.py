from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.report import markdown, write_into
from benchmarks.results import Results
from benchmarks.systems import OURS, PUBLISHED, RAY_FLAG, RAY_PUT
from benchmarks.targets import verdicts


def _bert(system: str, **samples: list[float]) -> dict[str, Any]:
    return {"case": "bert", "system": system, "weights": 438_000_000, "samples": samples, "failed": {}}


def _results(*results: dict[str, Any]) -> Results:
    return Results({"date": "2026-01-01", "seconds": 60, "machine": {"memory": "24 GiB"}, "results": list(results)})


def test_a_target_is_judged_by_medians_of_one_run() -> None:
    results = _results(
        _bert(OURS, load_seconds=[0.009, 0.008, 0.100], warm_overhead_seconds=[0.0016]),
        _bert(PUBLISHED, load_seconds=[0.020]),
        _bert(RAY_FLAG, load_seconds=[0.010]),
    )
    reached = {(verdict.what, verdict.measured): verdict.reached for verdict in verdicts(results)}
    assert reached == {
        ("Load, BERT-base, beside that of ray-zerocopy 0.2.0", "0.45 x"): True,
        ("Load, BERT-base, beside that of Ray's zero-copy flag", "0.90 x"): False,
        ("A warm task call's overhead, BERT-base", "1.60 ms"): False,
    }


def test_a_table_gives_median_range_and_ratio_and_why_something_is_missing() -> None:
    failing = _bert(RAY_PUT, load_seconds=[0.5, 0.4, 0.3]) | {"failed": {"tasks": "TypeError: cannot pickle it"}}
    text = markdown(_results(_bert(OURS, load_seconds=[0.008]), failing), [], "images")
    assert "| A worker's load | 8.00 ms (8.00 to 8.00) | 400 ms (300 to 500) · 50 x |" in text
    assert "* `ray.put`, tasks: TypeError: cannot pickle it" in text


def test_writing_the_tables_again_keeps_what_people_wrote_around_them(tmp_path: Path) -> None:
    document = tmp_path / "benchmarks.md"
    document.write_text("# Benchmarks\n\nWhat is measured.\n")
    write_into(document, "first")
    document.write_text(document.read_text() + "\nWhy a target is missed.\n")
    write_into(document, "second")
    text = document.read_text()
    assert text.startswith("# Benchmarks\n\nWhat is measured.\n\n<!--")
    assert "second" in text
    assert "first" not in text
    assert text.endswith("-->\n\nWhy a target is missed.\n")
    write_into(document, "second")
    assert document.read_text() == text
