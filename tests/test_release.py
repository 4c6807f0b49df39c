"""A release: one version everywhere, and a workflow that can publish it."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

import una_ref

ROOT = Path(__file__).resolve().parents[1]
VERSION = una_ref.__version__


@pytest.fixture(scope="module")
def workflow():
    found = yaml.safe_load((ROOT / ".github/workflows/publish.yml").read_text("utf-8"))
    return found | {"on": found.pop(True)}  # YAML 1.1 reads `on` as a truth value


def test_version_of_package_citation_and_changelog_is_one():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    [newest, *_] = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), flags=re.MULTILINE)
    assert {citation["version"], newest} == {VERSION}


def test_pyproject_reads_the_version_from_the_package():
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    assert 'dynamic = ["version"]' in text and 'path = "una_ref/__init__.py"' in text
    assert VERSION not in re.findall(r'^version = "(.+)"', text, flags=re.MULTILINE)


def test_section_of_the_newest_version_is_short_enough_to_read():
    newest = re.split(r"^(?=## \[)", (ROOT / "CHANGELOG.md").read_text("utf-8"), flags=re.MULTILINE)[1]
    assert len(newest.strip().splitlines()) <= 60


def test_a_version_tag_publishes_and_nothing_else_does(workflow):
    assert workflow["on"]["push"] == {"tags": ["v*"]}
    publish = workflow["jobs"]["publish"]
    assert publish["if"] == "github.ref_type == 'tag'" and publish["needs"] == "build"


def test_publishing_is_trusted_and_holds_no_token(workflow):
    publish = workflow["jobs"]["publish"]
    assert publish["environment"] == "pypi" and publish["permissions"] == {"id-token": "write"}
    assert workflow["permissions"] == {"contents": "read"} and "permissions" not in workflow["jobs"]["build"]
    assert [step["uses"].split("@")[0] for step in publish["steps"]][-1] == "pypa/gh-action-pypi-publish"
    assert "secrets." not in (ROOT / ".github/workflows/publish.yml").read_text("utf-8")


@pytest.mark.skipif(os.name == "nt", reason="the workflow's step is a POSIX shell's")
@pytest.mark.parametrize(("tag", "code"), [(f"v{VERSION}", 0), ("v9.9.9", 1), (VERSION + ".1", 1)])
def test_a_tag_of_another_version_stops_the_build(workflow, tag, code):
    [step] = [step for step in workflow["jobs"]["build"]["steps"] if "tag is" in step.get("name", "")]
    done = subprocess.run(["bash", "-ec", step["run"]], cwd=ROOT, env={"GITHUB_REF_NAME": tag, "PATH": "/usr/bin:/bin"})
    assert done.returncode == code


def test_distributions_are_checked_before_they_are_uploaded(workflow):
    steps = workflow["jobs"]["build"]["steps"]
    check = next(i for i, step in enumerate(steps) if "twine check --strict dist/*" in step.get("run", ""))
    upload = next(i for i, step in enumerate(steps) if step.get("uses", "").startswith("actions/upload-artifact"))
    assert check < upload


def test_package_says_that_it_is_typed():
    assert (ROOT / "una_ref" / "py.typed").is_file()  # that the wheel has it: test_wheel.py
