"""What the project says of itself in several places: versions, Pythons, targets of make, links."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "engine" / "README.md"])
WORKFLOWS = sorted(ROOT.glob(".github/workflows/*.yml"))
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())


def version() -> str:
    return str(PROJECT["project"]["version"])


def heading_ids(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and MkDocs make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_changelog_begins_with_the_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert re.findall(r"^## \[(.+?)\]", changelog, re.MULTILINE)[0] == version()


def test_a_tag_is_released_only_if_it_is_the_version(tmp_path: Path) -> None:
    check = tmp_path / ".ci" / "check-release-tag"
    check.parent.mkdir()
    check.write_text((ROOT / ".ci" / "check-release-tag").read_text())
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "1.2.3"\n')
    changelog = tmp_path / "CHANGELOG.md"

    def answer(tag: str, heading: str) -> str:
        changelog.write_text(f"# Changelog\n\n{heading}\n\n## [1.2.2] - 2026-01-01\n")
        return subprocess.run([sys.executable, check, tag], capture_output=True, text=True, timeout=60).stderr

    assert answer("v1.2.3", "## [1.2.3] - 2026-02-01") == ""
    assert "the version in pyproject.toml is 1.2.3" in answer("v1.2.4", "## [1.2.3] - 2026-02-01")
    assert "found 1.2.2" in answer("v1.2.3", "Nothing yet.")
    assert "found 'Unreleased', expected YYYY-MM-DD" in answer("v1.2.3", "## [1.2.3] - Unreleased")


def test_wheels_are_tested_on_every_python_that_is_claimed() -> None:
    claimed = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["project"]["classifiers"]))
    tested = [f"3.{minor}" for minor in re.findall(r"cp3(\d+)-\*", PROJECT["tool"]["cibuildwheel"]["build"])]
    assert tested == claimed
    assert PROJECT["project"]["requires-python"] == f">={claimed[0]}"
    assert PROJECT["tool"]["scikit-build"]["wheel"]["py-api"] == "cp312"  # one wheel for all after the first
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    assert jobs["test"]["strategy"]["matrix"]["python"] == claimed


def test_every_target_of_make_that_is_named_somewhere_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {name for page in PAGES for name in re.findall(r"(?:`|^)make ([a-z-]+)", page.read_text(), re.MULTILINE)}
    for workflow in WORKFLOWS:
        text = workflow.read_text()
        named |= set(re.findall(r"run: make ([a-z-]+)", text))
        for job in yaml.safe_load(text)["jobs"].values():
            named |= {target.split()[0] for target in job.get("strategy", {}).get("matrix", {}).get("target", [])}
    assert {"test", "docs", "test-ecosystem"} <= named
    assert named <= targets


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda workflow: workflow.stem)
def test_a_workflow_has_no_more_permissions_than_it_needs_and_pins_its_actions(workflow: Path) -> None:
    content = yaml.safe_load(workflow.read_text())
    assert content["permissions"] in ({}, {"contents": "read"})
    allowed = {"contents: read"}
    if workflow.stem == "release":
        allowed |= {"attestations: write", "id-token: write"}
    for job in content["jobs"].values():
        assert {f"{what}: {how}" for what, how in job.get("permissions", {}).items()} <= allowed
        for step in job.get("steps", []):
            assert re.search(r"@v\d+\.\d+\.\d+$", step.get("uses", "@v0.0.0")), step


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://", target):
            continue
        name, _, anchor = target.partition("#")
        linked = (page.parent / name).resolve() if name else page
        assert linked.exists(), f"{page}: {target}"
        assert not anchor or anchor in heading_ids(linked), f"{page}: {target}"
