"""Layers of files: which anchors there are, which component is in effect, and what is wrong between them."""

import os
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retinue_registry.__main__ import main
from retinue_registry.component import FileSource, Layer
from retinue_registry.files.anchors import MAX_PROJECTS, Anchor, Roots, find_user_folder
from retinue_registry.files.layers import Layers, load_layers
from retinue_registry.files.packaged import find_packages
from retinue_registry.files.reading import FileReader
from retinue_registry.files.tree import MAX_FILE_BYTES

LLM = "llms:\n  {0}: {{model: {0}}}\n"
WORKSPACE = "projects: [a, b]\n" + LLM.format("w")


def write(root: Path, files: Mapping[str, str | bytes]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def load(root: Path, start: str, files: Mapping[str, str | bytes]) -> Layers:
    """Write files, and load the layers of whoever works in the folder `start`."""
    write(root, files)
    return load_layers(Roots(root / start / "retinue.yaml"))


def shown(layers: Layers) -> list[str]:
    return [str(problem) for problem in layers.problems]


def given_by(layers: Layers) -> list[str]:
    """Every component with where it stands, the ones that are in effect first."""
    return [f"{draft.key.name} {draft.source}" for file in layers.files for draft in file.drafts]


MEMBERS = {"a/retinue.yaml": LLM.format("a"), "b/retinue.yaml": LLM.format("b"), "retinue.yaml": WORKSPACE}


def test_a_project_comes_before_its_workspace_and_that_before_its_other_projects(tmp_path: Path) -> None:
    layers = load(tmp_path, "b", MEMBERS)
    assert shown(layers) == []
    assert given_by(layers) == [
        "b retinue.yaml:2",
        "w workspace: retinue.yaml:3",
        "a workspace: a/retinue.yaml:2",
    ]


def test_who_works_in_a_workspace_has_its_own_components_and_then_its_projects(tmp_path: Path) -> None:
    assert given_by(load(tmp_path, ".", MEMBERS)) == [
        "w workspace: retinue.yaml:3",
        "a workspace: a/retinue.yaml:2",
        "b workspace: b/retinue.yaml:2",
    ]


def test_an_anchor_above_that_does_not_list_the_project_is_passed_over(tmp_path: Path) -> None:
    layers = load(
        tmp_path,
        "x/y",
        {
            "retinue.yaml": "projects: [x/y]\n" + LLM.format("w"),
            "x/retinue.yaml": "projects: [z]\n" + LLM.format("other"),
            "x/y/retinue.yaml": LLM.format("y"),
        },
    )
    assert given_by(layers) == ["y retinue.yaml:2", "w workspace: retinue.yaml:3"]
    assert layers.anchors.looked_at == [tmp_path / "x" / "retinue.yaml"]


def test_a_workspace_includes_files_and_leaves_those_of_its_projects_to_them(tmp_path: Path) -> None:
    files = MEMBERS | {
        "retinue.yaml": "include: ['**/*.yaml']\n" + WORKSPACE,
        "b/retinue.yaml": "include: [part.yaml]\n",
        "b/part.yaml": LLM.format("part"),
        "own/x.yaml": LLM.format("x"),
    }
    layers = load(tmp_path, "a", files)
    assert shown(layers) == []
    assert given_by(layers)[1:] == [
        "w workspace: retinue.yaml:4",
        "x workspace: own/x.yaml:2",
        "part workspace: b/part.yaml:2",
    ]


def test_what_is_wrong_with_listed_projects_is_told_for_each(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    write(outside, {"retinue.yaml": LLM.format("o")})
    root = tmp_path / "w"
    (root / "a" / "in").mkdir(parents=True)
    (root / "link").symlink_to(outside)
    (root / "loop").symlink_to(root / "loop")
    entries = "[., a, ./a, a/in, ../outside, /etc, link, none, nest, 'a\\u0000', loop]".replace("'", '"')
    layers = load(
        root,
        ".",
        {
            "retinue.yaml": f"projects: {entries}\n" + LLM.format("w"),
            "a/retinue.yaml": LLM.format("a"),
            "nest/retinue.yaml": "projects: [x]\n",
        },
    )
    inside = "must stay inside the workspace's folder: use a relative path without .."
    missing = "there is no such file, and projects lists its folder: make one, or take the folder out"
    assert shown(layers) == [
        f"workspace: loop/retinue.yaml: {missing}",
        f"workspace: none/retinue.yaml: {missing}",
        "workspace: retinue.yaml:1: projects[0]: is the workspace itself, whose own components need no entry",
        "workspace: retinue.yaml:1: projects[2]: stands here a second time; the first is projects[1]",
        (
            "workspace: retinue.yaml:1: projects[3]: and projects[1] lie one inside the other: "
            "projects must lie side by side"
        ),
        f"workspace: retinue.yaml:1: projects[4]: {inside}",
        f"workspace: retinue.yaml:1: projects[5]: {inside}",
        "workspace: retinue.yaml:1: projects[6]: link is a link to a folder outside the workspace's folder",
        (
            "workspace: retinue.yaml:1: projects[8]: is a workspace itself, and a workspace holds none: "
            "list its projects here"
        ),
        f"workspace: retinue.yaml:1: projects[9]: {inside}",
    ]
    assert [str(each) for each in given_by(layers)] == [
        "w workspace: retinue.yaml:3",
        "a workspace: a/retinue.yaml:2",
    ]


def test_very_many_projects_are_refused_without_delay(tmp_path: Path) -> None:
    names = ", ".join(f"p{number}" for number in range(MAX_PROJECTS + 500))
    start = time.monotonic()
    layers = load(tmp_path, ".", {"retinue.yaml": f"projects: [{names}]\n"})
    assert time.monotonic() - start < 20
    assert sum("more than 1000 projects" in each.message for each in layers.problems) == 500


@pytest.mark.parametrize("text", ["projects: x\n", "projects: [1]\n", "projects: ['']\n", "projects: {}\n"])
def test_projects_that_are_no_list_of_folders_are_a_problem(tmp_path: Path, text: str) -> None:
    (said,) = shown(load(tmp_path, ".", {"retinue.yaml": text}))
    assert said == (
        'workspace: retinue.yaml:1: projects: must be a list of folders, for example ["services/billing"]'
    )


def test_only_an_anchor_may_list_projects(tmp_path: Path) -> None:
    layers = load(tmp_path, ".", {"retinue.yaml": "include: [a.yaml]\n", "a.yaml": "projects: [b]\n"})
    assert shown(layers) == ["a.yaml:1: projects: is only allowed in retinue.yaml"]


def test_an_anchor_above_that_cannot_be_read_may_be_the_workspace(tmp_path: Path) -> None:
    layers = load(tmp_path, "a", MEMBERS | {"retinue.yaml": "projects: [a\n"})
    assert layers.anchors.unsure == {Layer.WORKSPACE}
    assert given_by(layers) == ["a retinue.yaml:2"]
    (said,) = shown(layers)
    assert said.startswith("workspace: retinue.yaml:2: is not YAML")


def test_a_component_may_stand_in_several_layers_but_twice_in_no_project(tmp_path: Path) -> None:
    both = "include: [more.yaml]\n" + LLM.format("fast")
    layers = load(
        tmp_path,
        "a",
        {
            "retinue.yaml": "projects: [a]\n" + LLM.format("fast"),
            "a/retinue.yaml": both,
            "a/more.yaml": LLM.format("fast"),
        },
    )
    assert shown(layers) == ["more.yaml:2: llms.fast: the llm 'fast' stands in retinue.yaml:3 already"]


def test_references_and_circles_lead_through_all_layers(tmp_path: Path) -> None:
    user = tmp_path / "user"
    write(
        tmp_path,
        {
            "retinue.yaml": "agents:\n  a: {llm: fast, agents: [b]}\n  c: {llm: fats}\n",
            "user/retinue.yaml": "llms: {fast: {model: m}}\n"
            "agents:\n  b: {llm: fast, agents: [a]}\n  a: {llm: fast, agents: [a]}\n",
        },
    )
    layers = load_layers(Roots(tmp_path / "retinue.yaml", user))
    assert shown(layers) == [
        (
            "retinue.yaml:2: agents.a.agents[0]: leads back to the agent itself: "
            "a → b (user: retinue.yaml:3) → a"
        ),
        (
            "user: retinue.yaml:3: agents.b.agents[0]: leads back to the agent itself: "
            "b → a (retinue.yaml:2) → b"
        ),
        "retinue.yaml:3: agents.c.llm: there is no llm 'fats'; did you mean fast?",
    ]


def test_files_of_each_layer_stay_in_their_folder(tmp_path: Path) -> None:
    secret = tmp_path / "secret.yaml"
    write(tmp_path, {"secret.yaml": LLM.format("secret"), "p/retinue.yaml": ""})
    user = tmp_path / "user"
    write(user, {"retinue.yaml": "include: [link.yaml, ../secret.yaml, loop/**/*.yaml]\n"})
    (user / "link.yaml").symlink_to(secret)
    (user / "loop").mkdir()
    (user / "loop" / "again").symlink_to(user / "loop")
    assert shown(load_layers(Roots(tmp_path / "p" / "retinue.yaml", user))) == [
        "user: retinue.yaml:1: include[0]: link.yaml is a link to a file outside the project's folder",
        (
            "user: retinue.yaml:1: include[1]: must stay inside the project's folder: "
            "use a relative path without .."
        ),
    ]


def test_a_file_whose_name_is_no_text_and_an_agent_without_a_name_are_problems(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xff.yaml")).touch()
    agents = "agents: {Bad Name: {llm: fast, agents: [b]}, b: {llm: fast}}\n"
    layers = load(tmp_path, ".", {"retinue.yaml": "include: ['*.yaml']\n" + LLM.format("fast") + agents})
    first, second = shown(layers)
    assert first == "retinue.yaml:1: include[0]: \\udcff.yaml has a name that is not UTF-8: rename it"
    assert "'Bad Name' is not a name" in second


def test_relative_paths_start_from_the_file_whatever_its_layer(tmp_path: Path) -> None:
    server = "mcp_servers: {s: {stdio: {command: ./run, cwd: sub}}}\n"
    write(tmp_path, {"retinue.yaml": "", "user/retinue.yaml": server})
    layers = load_layers(Roots(tmp_path / "retinue.yaml", tmp_path / "user"))
    (draft,) = [draft for file in layers.files for draft in file.drafts]
    stdio = draft.spec.model_dump()["stdio"]
    assert (stdio["command"], stdio["cwd"]) == (f"{tmp_path}/user/run", f"{tmp_path}/user/sub")


def test_the_user_s_folder_follows_the_settings_and_the_xdg_specification(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    assert find_user_folder(None) == tmp_path / ".config" / "retinue"
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    assert find_user_folder(None) == tmp_path / ".config" / "retinue"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "x"))
    assert find_user_folder(None) == tmp_path / "x" / "retinue"
    assert find_user_folder("") is None
    assert find_user_folder("~/mine") == tmp_path / "mine"


def test_who_works_in_the_user_s_folder_has_it_as_the_project_alone(tmp_path: Path) -> None:
    write(tmp_path, {"retinue.yaml": LLM.format("fast")})
    assert given_by(load_layers(Roots(tmp_path / "retinue.yaml", tmp_path))) == ["fast retinue.yaml:2"]


def install(site: Path, distribution: str, entries: str, files: Mapping[str, str]) -> None:
    """Put what an installer leaves of a distribution into a folder."""
    info = site / f"{distribution.replace('-', '_')}-1.0.dist-info"
    write(
        info,
        {
            "METADATA": f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n",
            "entry_points.txt": f"[retinue.components]\n{entries}\n",
        },
    )
    write(site, files)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the import path."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    return folder


def test_installed_distributions_bring_components_and_are_not_imported(tmp_path: Path, site: Path) -> None:
    never = "raise AssertionError('it was imported')\n"
    install(
        site,
        "acme-tools",
        "tools = acme.tools",
        {
            "acme/__init__.py": never,
            "acme/tools/__init__.py": never,
            "acme/tools/retinue.yaml": "include: [more/*.yaml]\n" + LLM.format("fast"),
            "acme/tools/more/a.yaml": "agents: {a: {llm: fast}}\n",
        },
    )
    write(tmp_path, {"retinue.yaml": LLM.format("fast")})
    layers = load_layers(Roots(tmp_path / "retinue.yaml", None, find_packages()))
    assert shown(layers) == []
    assert given_by(layers) == [
        "fast retinue.yaml:2",
        "fast package acme-tools: retinue.yaml:3",
        "a package acme-tools: more/a.yaml:1",
    ]
    source = [draft.source for file in layers.files for draft in file.drafts][-1]
    assert source == FileSource("more/a.yaml", 1, Layer.PACKAGE, "acme-tools")


def test_entry_points_that_lead_nowhere_are_problems_of_their_distributions(
    tmp_path: Path, site: Path
) -> None:
    install(site, "d-none", "x = no_such_package", {})
    install(site, "d-module", "x = single", {"single.py": ""})
    install(site, "d-odd", "x = ..", {})
    install(site, "d-without", "x = without", {"without/__init__.py": ""})
    two = {"two/retinue.yaml": "", "two/sub/retinue.yaml": LLM.format("s")}
    install(site, "d-two", "y = two\nx = two.sub", two)
    write(tmp_path, {"retinue.yaml": ""})
    layers = load_layers(Roots(tmp_path / "retinue.yaml", None, find_packages()))
    x = "the entry point x of the group retinue.components names"
    nowhere = "which is no package in a folder: name a package that holds a retinue.yaml"
    assert sorted(shown(layers)) == [
        f"package d-module: entry_points.txt: {x} 'single', {nowhere}",
        f"package d-none: entry_points.txt: {x} 'no_such_package', {nowhere}",
        f"package d-odd: entry_points.txt: {x} '..', {nowhere}",
        (
            "package d-two: entry_points.txt: there are 2 entry points in the group retinue.components, "
            "and only x counts: keep one"
        ),
        "package d-without: retinue.yaml: cannot be read: No such file or directory",
    ]
    assert given_by(layers) == ["s package d-two: retinue.yaml:2"]


BOMB = "a: &a [x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join(['*' + chr(97 + n)] * 20)}]\n" for n in range(6)
)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[" * 100, "nested deeper"),
        (b"x" * (MAX_FILE_BYTES + 1), "is larger than 4 MiB"),
        (BOMB.encode(), "more than 500000 values"),
        ("llms: {é: {}}".encode("latin-1"), "is not UTF-8"),
        (b"projects: []\nprojects: []\n", "the key 'projects' stands here a second time"),
        (b"include: [\x00]\n", "a character that YAML does not allow"),
    ],
)
def test_what_breaks_a_reader_is_a_problem_in_every_layer(
    tmp_path: Path, site: Path, content: bytes, said: str
) -> None:
    install(site, "acme", "x = acme", {"acme/__init__.py": ""})
    bad = ("w/retinue.yaml", "w/p/retinue.yaml", "user/retinue.yaml", "site/acme/retinue.yaml")
    write(tmp_path, dict.fromkeys(bad, content))
    layers = load_layers(Roots(tmp_path / "w" / "p" / "retinue.yaml", tmp_path / "user", find_packages()))
    found = {problem.layer for problem in layers.problems if said in problem.message}
    if b"projects" in content:
        found.add(Layer.WORKSPACE)  # it can be read well enough to say that it lists no project
    assert found == set(Layer)


def test_check_looks_at_all_layers_and_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, MEMBERS | {"user/retinue.yaml": LLM.format("u")})
    monkeypatch.setenv("RETINUE_USER_DIR", str(tmp_path / "user"))
    assert main(["--check", str(tmp_path / "a")]) == 0
    assert capsys.readouterr().out == "no problems: 4 components (4 llms) in 4 files\n"
    write(tmp_path, {"b/retinue.yaml": "llms: {b: {}}\n", "user/retinue.yaml": "x: 1\n"})
    assert main(["--check", str(tmp_path / "a")]) == 1
    first, second = capsys.readouterr().out.splitlines()
    assert first == "workspace: b/retinue.yaml:1: llms.b.model: is missing"
    assert second.startswith("user: retinue.yaml:1: x: there is no such key; there are namespace, include, ")


def test_a_file_is_read_again_when_it_holds_something_else_and_only_then(tmp_path: Path) -> None:
    path = tmp_path / "retinue.yaml"
    anchor = Anchor(path, Layer.PROJECT, tmp_path)
    reader = FileReader()
    before = None
    for number in range(100, 200):  # all of one size
        path.write_text(LLM.format(f"l{number}"))
        found = reader.read(path, anchor)
        assert [draft.key.name for draft in found.drafts] == [f"l{number}"]
        assert found is not before
        path.write_text(LLM.format(f"l{number}"))
        before = reader.read(path, anchor)
        assert before is found
    path.unlink()
    missing = reader.read(path, anchor)
    assert [problem.message for problem in missing.problems] == ["cannot be read: No such file or directory"]
    assert reader.read(path, anchor) is missing


ENTRY = st.sampled_from(
    ["a", "b", "a/c", ".", "..", "/", "~", "", "[]", "1", "null", "'*'", '"\\0"', "é", "a/../b", "x" * 300]
)
VALUE = st.lists(ENTRY, max_size=5).map(lambda entries: "[" + ", ".join(entries) + "]") | ENTRY


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["projects", "include"]), VALUE, st.sampled_from([".", "a", "a/c"]))
def test_no_list_of_an_anchor_breaks_the_loader(tmp_path: Path, key: str, value: str, start: str) -> None:
    text = f"{key}: {value}\n"
    layers = load(tmp_path, start, {"retinue.yaml": text, "a/retinue.yaml": text, "a/c/retinue.yaml": "{}"})
    for problem in layers.problems:
        assert problem.message
        assert os.fsencode(str(problem))
