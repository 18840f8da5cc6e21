"""What one run of the benchmark found, and the questions that tables, charts and targets ask of it."""

from __future__ import annotations

from typing import Any

from benchmarks.files import Files
from benchmarks.samples import Spread

Result = dict[str, Any]


class Results:
    """The results of all measured systems and models. `data` is what the JSON file holds."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data
        self.files = Files(**data.get("files", {"loads": []}))
        self._of = {(result["case"], result["system"]): result for result in data["results"]}

    def cases(self) -> list[str]:
        """Names of the cases that were measured, in the order of the run."""
        return list(dict.fromkeys(case for case, _ in self._of))

    def get(self, case: str, system: str) -> Result | None:
        return self._of.get((case, system))

    def spread(self, case: str, system: str, figure: str) -> Spread | None:
        """Several measurements of a figure; None if it could not be measured."""
        samples = (self.get(case, system) or {}).get("samples", {}).get(figure)
        return Spread.of(samples) if samples else None

    def median(self, case: str, system: str, figure: str) -> float | None:
        spread = self.spread(case, system, figure)
        return spread and spread.median

    def node_memory(self, case: str, system: str) -> dict[int, float]:
        """Bytes by number of workers."""
        rows = (self.get(case, system) or {}).get("node_memory") or []
        return {row["workers"]: row["bytes"] for row in rows}

    def added_memory(self, case: str, system: str) -> dict[int, float]:
        """What workers use beyond empty ones, in multiples of the weights, by number of workers."""
        result = self.get(case, system) or {}
        if "empty_worker_bytes" not in result:
            return {}
        empty, weights = result["empty_worker_bytes"], result["weights"]
        return {count: (nbytes - count * empty) / weights for count, nbytes in self.node_memory(case, system).items()}

    def allowed_node_memory(self, case: str, system: str, workers: int) -> float | None:
        """The weights once, and for each worker an empty one and 2 % of the weights."""
        result = self.get(case, system) or {}
        if "empty_worker_bytes" not in result:
            return None
        return float(result["weights"] + workers * (result["empty_worker_bytes"] + 0.02 * result["weights"]))

    def file_median(self, case: str, file_format: str, figure: str) -> float | None:
        """As `median`, of a load from a file."""
        found = [result for result in self.files.loads if (result["case"], result["format"]) == (case, file_format)]
        return Spread.of(found[0]["samples"][figure]).median if found else None
