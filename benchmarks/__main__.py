"""Measure, print the Markdown, write it, the JSON and the charts.

python -m benchmarks            everything, into docs/
python -m benchmarks --quick    one model in two minutes, into build/benchmarks/
python -m benchmarks --files    only what concerns files; the other results stay
python -m benchmarks --again    docs/ anew from its JSON, without measuring
"""

from __future__ import annotations

import argparse
import json

from benchmarks.charts import draw
from benchmarks.report import markdown, write_into
from benchmarks.results import Results
from benchmarks.run import BUILD, ROOT, run, run_files


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="one model and two systems, into build/benchmarks/ (2 minutes)"
    )
    parser.add_argument("--files", action="store_true", help="measure what concerns files; keep the other results")
    parser.add_argument("--again", action="store_true", help="write docs/ anew from the results that are there")
    parser.add_argument("--minutes", type=float, default=80, help="begin nothing after so many minutes (80)")
    options = parser.parse_args()

    target = BUILD if options.quick else ROOT / "docs"
    folder = target / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "results.json"
    if options.again:
        results = Results(json.loads(file.read_text()))
    elif options.files:
        results = Results(json.loads(file.read_text()) | {"files": run_files("full")})
        file.write_text(json.dumps(results.data, indent=1) + "\n")
    else:
        results = run("quick" if options.quick else "full", options.minutes)
        file.write_text(json.dumps(results.data, indent=1) + "\n")
    text = markdown(results, draw(results, folder), "benchmarks")
    write_into(target / "benchmarks.md", text)
    print(text)
    print(f"Written to {(target / 'benchmarks.md').relative_to(ROOT)}")


if __name__ == "__main__":
    main()
