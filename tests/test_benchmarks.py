from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.charts import draw
from benchmarks.files import Files
from benchmarks.report import sections, write_into
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
        ("Load, BERT-base, compared with that of ray-zerocopy 0.2.0", "0.45 x"): True,
        ("Load, BERT-base, compared with that of Ray's zero-copy flag", "0.90 x"): False,
        ("A warm task call's overhead, BERT-base", "1.60 ms"): False,
    }


def test_a_load_from_a_file_is_compared_with_each_other_way_to_load_it() -> None:
    def loads(name: str, seconds: float) -> dict[str, Any]:
        samples = {"load_seconds": [seconds], "first_to_steady": [1.0]}
        return {"case": "minilm", "format": name, "date": "2026-01-01", "samples": samples}

    found = [loads("ray_zerocopy", 0.003), loads("safetensors_built", 0.060), loads("safetensors", 0.006)]
    results = Results(_results().data | {"files": Files(found)._asdict()})
    assert [verdict.measured for verdict in verdicts(results) if "compared" in verdict.what] == ["20.0 x", "2.0 x"]


def test_a_model_that_is_measured_again_replaces_its_own_loads_alone() -> None:
    def loads(case: str, seconds: float) -> dict[str, Any]:
        return {"case": case, "format": OURS, "date": "2026-01-01", "samples": {"load_seconds": [seconds]}}

    before = Files([loads("minilm", 1), loads("bert", 1)], {"cpp": {}}, {"checkpoint_seconds": [1.0]})
    assert before.updated(Files([loads("bert", 2)])) == before._replace(loads=[loads("minilm", 1), loads("bert", 2)])


def test_a_table_gives_median_range_and_ratio_and_why_something_is_missing() -> None:
    failing = _bert(RAY_PUT, load_seconds=[0.5, 0.4, 0.3]) | {"failed": {"tasks": "TypeError: cannot pickle it"}}
    text = sections(_results(_bert(OURS, load_seconds=[0.008]), failing), [], "images")["details"]
    assert "| A worker's load | 8.00 ms (8.00 to 8.00) | 400 ms (300 to 500) · 50 x |" in text
    assert "* `ray.put`, tasks: TypeError: cannot pickle it" in text


def test_writing_the_tables_again_keeps_what_people_wrote_around_them(tmp_path: Path) -> None:
    document = tmp_path / "benchmarks.md"
    document.write_text("# Benchmarks\n\nWhat is measured.\n")
    write_into(document, {"summary": "first", "details": "first details"})
    document.write_text(document.read_text() + "\nWhy a target is missed.\n")
    write_into(document, {"summary": "second", "details": "second details"})
    text = document.read_text()
    assert text.startswith("# Benchmarks\n\nWhat is measured.\n\n<!--")
    assert text.index("second") < text.index("second details")
    assert "first" not in text
    assert text.endswith("-->\n\nWhy a target is missed.\n")
    write_into(document, {"summary": "second", "details": "second details"})
    assert document.read_text() == text


def test_the_page_of_benchmarks_is_what_its_results_give(tmp_path: Path) -> None:
    docs = Path(__file__).parent.parent / "docs"
    page = tmp_path / "benchmarks.md"
    page.write_text((docs / "benchmarks.md").read_text())
    results = Results(json.loads((docs / "benchmarks" / "results.json").read_text()))
    write_into(page, sections(results, draw(results, tmp_path / "benchmarks"), "benchmarks"))
    assert page.read_text() == (docs / "benchmarks.md").read_text()
    assert {path.name for path in (tmp_path / "benchmarks").iterdir()} == {
        path.name for path in (docs / "benchmarks").glob("*.png")
    }
