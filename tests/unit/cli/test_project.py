"""Projects: made, found, and what runs for them."""

import json
import os
from pathlib import Path

import pytest

from retinue_cli.__main__ import main
from retinue_cli.call import Call
from retinue_cli.project import RunningSuite, find_project, read_suite, remove_suite, write_suite
from retinue_cli.scripted_model import load_script


def test_init_makes_a_project_and_says_what_to_type_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", "shop"]) == 0
    said = capsys.readouterr().out
    assert "cd shop" in said
    assert "retinue up" in said
    assert 'retinue run assistant "What time is it in Tokyo?"' in said
    assert find_project(tmp_path / "shop") == tmp_path / "shop"
    assert load_script(tmp_path / "shop" / "model.yaml").rules


def test_a_folder_with_a_space_is_named_as_a_shell_takes_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "my shop"]) == 0
    assert "cd 'my shop'" in capsys.readouterr().out


def test_init_overwrites_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model.yaml").write_text("mine")
    assert main(["init"]) == 1
    assert capsys.readouterr().err.startswith("error: model.yaml is there already")
    assert (tmp_path / "model.yaml").read_text() == "mine"
    assert not (tmp_path / "retinue.yaml").exists()


def test_init_under_json_names_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["project"] == str(tmp_path)
    assert made["files"] == ["retinue.yaml", "model.yaml"]


def test_a_project_is_the_nearest_folder_upward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "retinue.yaml").touch()
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert find_project() == tmp_path
    monkeypatch.setenv("RETINUE_PROJECT", str(tmp_path / "other"))
    assert find_project() == tmp_path / "other"


def test_commands_find_the_services_that_run_for_their_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "retinue.yaml").touch()
    assert Call().addresses().engine == "127.0.0.1:7403"
    write_suite(tmp_path, RunningSuite(os.getpid(), "127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"))
    assert Call().addresses().engine == "127.0.0.1:3"
    monkeypatch.setenv("RETINUE_ENGINE_ADDRESS", "127.0.0.1:4")
    assert Call().addresses().engine == "127.0.0.1:4"
    assert Call(engine="127.0.0.1:5").addresses().engine == "127.0.0.1:5"
    assert Call().addresses().registry == "127.0.0.1:1"
    remove_suite(tmp_path)
    assert Call().addresses().registry == "127.0.0.1:7401"


def test_what_a_killed_up_left_behind_is_not_believed(tmp_path: Path) -> None:
    gone = os.spawnlp(os.P_NOWAIT, "true", "true")
    os.waitpid(gone, 0)
    write_suite(tmp_path, RunningSuite(gone, "a:1", "b:2", "c:3"))
    assert read_suite(tmp_path) is None


@pytest.mark.parametrize("text", ["", "[]", "{", '{"pid": 1}', '{"pid": "x"}'])
def test_what_is_no_list_of_services_is_not_believed(tmp_path: Path, text: str) -> None:
    (tmp_path / ".retinue").mkdir()
    (tmp_path / ".retinue" / "services.json").write_text(text)
    assert read_suite(tmp_path) is None


def test_protos_writes_what_a_client_is_generated_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["protos", "--out", "out"]) == 0
    assert "service RunService" in (tmp_path / "out/retinue/engine/v1/service.proto").read_text()
    assert "protoc" in capsys.readouterr().out
    assert main(["protos", "--out", "out", "--json"]) == 0
    files = json.loads(capsys.readouterr().out)["files"]
    assert "out/retinue/registry/v1/agent.proto" in files
    assert len(files) == len(list(tmp_path.rglob("*.proto")))
