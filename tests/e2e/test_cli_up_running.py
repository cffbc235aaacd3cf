"""`retinue up` while it runs: one suite, of a project with a problem in its files and another script."""

import json
from collections.abc import Iterator

import pytest

from .cli_project import Project, Up, until

pytestmark = pytest.mark.xdist_group("cli_up_running")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("shop"))
    (project.folder / "broken.yaml").write_text("agents:\n  x: {llm: nobody}\n")
    (project.folder / "other.yaml").write_text("default: {text: from the other}\n")
    return project


@pytest.fixture(scope="module")
def up(project: Project) -> Iterator[Up]:
    with project.up("--verbose", "--model-script", "other.yaml") as up:
        yield up


def test_its_log_files_hold_what_the_services_say(project: Project, up: Up) -> None:
    until(lambda: up.last("log"), "the log is shown, too")
    logs = project.folder / ".retinue" / "logs"
    names = {path.name for path in logs.iterdir()}
    assert names == {"model.log", "registry.log", "mcp-host.log", "engine.log"}
    assert "ready" in (logs / "engine.log").read_text()


def test_logins_to_mcp_servers_are_kept_beside_the_projects_other_data(project: Project, up: Up) -> None:
    assert (project.folder / ".retinue" / "logins.json.lock").is_file()


def test_a_second_one_in_the_same_project_is_refused(project: Project, up: Up) -> None:
    done = project.retinue("up", "--free-ports")
    assert done.returncode == 1
    assert f"runs in {project.folder} already (process {up.started.process.pid})" in done.stderr


def test_another_script_can_play_the_model(project: Project, up: Up) -> None:
    assert project.retinue("run", "assistant", "hello", "-q").stdout == "from the other\n"


def test_problems_of_the_files_are_said_and_the_rest_works(project: Project, up: Up) -> None:
    until(lambda: up.last("problems"), "the problems are said")
    assert "broken.yaml:2" in json.dumps(up.last("problems"))
    assert project.retinue("run", "assistant", "hello", "-q").returncode == 0
