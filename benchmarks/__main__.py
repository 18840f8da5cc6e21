"""Measure, print the Markdown, write it, the JSON and the charts.

python -m benchmarks            everything, into docs/
python -m benchmarks --quick    one model in two minutes, into build/benchmarks/
python -m benchmarks --files    only what concerns files; the other results stay
python -m benchmarks --files bert minilm    only loads of these models from files
python -m benchmarks --again    docs/ anew from its JSON, without measuring
"""

from __future__ import annotations

import argparse
import json

from benchmarks.charts import draw
from benchmarks.files import FILE_CASES
from benchmarks.report import sections, write_into
from benchmarks.results import Results
from benchmarks.run import BUILD, ROOT, run, run_files


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="one model and two systems, into build/benchmarks/ (2 minutes)"
    )
    parser.add_argument(
        "--files",
        nargs="*",
        choices=FILE_CASES,
        metavar="CASE",
        help="measure what concerns files, or only loads of these models; keep the other results",
    )
    parser.add_argument("--again", action="store_true", help="write docs/ anew from the results that are there")
    parser.add_argument("--minutes", type=float, default=80, help="begin nothing after so many minutes (80)")
    options = parser.parse_args()

    target = BUILD if options.quick else ROOT / "docs"
    folder = target / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "results.json"
    if options.again:
        results = Results(json.loads(file.read_text()))
    elif options.files is not None:
        before = Results(json.loads(file.read_text()))
        files = before.files.updated(run_files(options.files))
        results = Results(before.data | {"files": files._asdict()})
        file.write_text(json.dumps(results.data, indent=1) + "\n")
    else:
        results = run("quick" if options.quick else "full", options.minutes)
        file.write_text(json.dumps(results.data, indent=1) + "\n")
    parts = sections(results, draw(results, folder), "benchmarks")
    write_into(target / "benchmarks.md", parts)
    print(*parts.values(), sep="\n\n")
    print(f"Written to {(target / 'benchmarks.md').relative_to(ROOT)}")


if __name__ == "__main__":
    main()
