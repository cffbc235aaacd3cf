# ruff: noqa: ASYNC240 - small files, changed under a running server
"""Files of a running registry: edits are live in about a second, whatever way they come."""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from retinue.client import Components, open_client
from retinue_registry.loading import watching
from tests.rpc.registry.serving import BOUND_S, LLM, llm, process, serving


async def models(components: Components) -> dict[str, str]:
    """The model of every llm, and the llm of every agent."""
    return {each.name: each.llm.model or each.agent.llm async for each in components.list()}


async def problems(components: Components) -> list[str]:
    return [f"{each.path}:{each.line}: {each.message}" async for each in components.problems()]


async def until(look: Callable[[Components], Awaitable[Any]], components: Components, wanted: Any) -> None:
    """Wait until what is there is what is wanted."""
    end = time.monotonic() + BOUND_S
    while (found := await look(components)) != wanted:
        assert time.monotonic() < end, f"not within {BOUND_S} s: {wanted}; it is {found}"
        await asyncio.sleep(0.02)


@pytest.fixture
def anchor(tmp_path: Path) -> Path:
    path = tmp_path / "project" / "retinue.yaml"
    path.parent.mkdir()
    path.write_text("include: ['parts/*.yaml']\nllms:\n  fast: {model: m}\n")
    return path


async def test_edits_new_files_and_removed_ones_are_live(anchor: Path) -> None:
    async with serving(anchor.parent) as components:
        text = anchor.read_text()
        anchor.write_text(text.replace("model: m", "model: n"))
        await until(models, components, {"fast": "n"})
        part = anchor.parent / "parts" / "a.yaml"
        part.parent.mkdir()
        part.write_text("agents: {a: {llm: fast}}\n")
        await until(models, components, {"fast": "n", "a": "fast"})
        draft = part.with_suffix(".tmp")
        draft.write_text("llms: {b: {model: b}}\n")
        draft.rename(part)
        await until(models, components, {"fast": "n", "b": "b"})
        part.unlink()
        await until(models, components, {"fast": "n"})
        assert (await components.get(LLM, "fast")).version == 2


async def test_a_folder_that_is_deleted_and_made_again_is_watched_on(anchor: Path) -> None:
    text = anchor.read_text()
    parts = anchor.parent / "parts"
    parts.mkdir()
    (parts / "a.yaml").write_text("llms: {a: {model: a}}\n")
    async with serving(anchor.parent, data_dir=anchor.parent.parent / "data") as components:
        shutil.rmtree(parts)
        await until(models, components, {"fast": "m"})
        parts.mkdir()
        (parts / "b.yaml").write_text("llms: {b: {model: b}}\n")
        await until(models, components, {"fast": "m", "b": "b"})
        shutil.rmtree(parts)  # and made again so fast that nobody sees it gone
        parts.mkdir()
        for name in ("c", "d"):
            (parts / "b.yaml").write_text(f"llms: {{{name}: {{model: {name}}}}}\n")
            await until(models, components, {"fast": "m", name: name})
        anchor.parent.rename(anchor.parent.with_name("moved"))
        await until(problems, components, ["retinue.yaml:0: cannot be read: No such file or directory"])
        assert await models(components) == {"fast": "m", "d": "d"}
        anchor.parent.mkdir()
        anchor.write_text(text)
        await until(models, components, {"fast": "m"})
        anchor.write_text(text.replace("model: m", "model: n"))
        await until(models, components, {"fast": "n"})


async def test_a_bad_edit_keeps_the_last_good_version_and_heals(anchor: Path) -> None:
    async with serving(anchor.parent) as components:
        text = anchor.read_text()
        anchor.write_text(text.replace("model: m", "modle: m"))
        said = ["retinue.yaml:3: is missing", "retinue.yaml:3: there is no such key; did you mean model?"]
        await until(problems, components, said)
        assert await models(components) == {"fast": "m"}
        anchor.write_text("\0")
        await until(problems, components, ["retinue.yaml:1: holds a character that YAML does not allow"])
        assert await models(components) == {"fast": "m"}
        anchor.write_text(text.replace("model: m", "model: healed"))
        await until(models, components, {"fast": "healed"})
        assert await problems(components) == []


async def test_a_file_that_waits_for_a_component_of_the_api_heals_when_it_comes(anchor: Path) -> None:
    anchor.write_text("agents: {a: {llm: api}}\n")
    async with serving(anchor.parent) as components:
        assert await problems(components) == ["retinue.yaml:1: there is no llm 'api'"]
        await components.apply([llm("api")])
        await until(models, components, {"api": "m", "a": "api"})
        await components.delete(LLM, "api", force=True)
        await until(problems, components, ["retinue.yaml:1: there is no llm 'api'"])


async def test_a_new_project_of_a_workspace_and_the_user_s_folder_are_live(tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    anchor = tmp_path / "w" / "retinue.yaml"
    anchor.write_text("projects: [a, b]\n")
    user = tmp_path / "home" / "config" / "retinue"
    async with serving(anchor.parent, user_dir=str(user)) as components:
        for name in "ab":
            (anchor.parent / name).mkdir()
            (anchor.parent / name / "retinue.yaml").write_text(f"llms: {{{name}: {{model: {name}}}}}\n")
        await until(models, components, {"a": "a", "b": "b"})
        anchor.write_text("projects: [b]\n")
        await until(models, components, {"b": "b"})
        user.mkdir(parents=True)
        (user / "retinue.yaml").write_text("llms: {b: {model: user}, mine: {model: user}}\n")
        await until(models, components, {"b": "b", "mine": "user"})
        shadowed = [each async for each in components.shadowed()]
        assert [(each.component.name, each.shadowed_by.file.path) for each in shadowed] == [
            ("b", "b/retinue.yaml")
        ]


async def test_the_file_behind_a_link_is_watched(anchor: Path, tmp_path: Path) -> None:
    real = tmp_path / "elsewhere" / "real.yaml"
    real.parent.mkdir()
    anchor.rename(real)
    anchor.symlink_to(real)
    async with serving(anchor.parent) as components:
        real.write_text("llms: {fast: {model: behind}}\n")
        await until(models, components, {"fast": "behind"})


async def test_a_storm_of_edits_ends_with_the_last_and_makes_few_versions(anchor: Path) -> None:
    async with serving(anchor.parent) as components:
        for number in range(300):
            anchor.write_text(f"llms: {{fast: {{model: m{number}}}}}\n")
            await asyncio.sleep(0)
        await until(models, components, {"fast": "m299"})
        assert (await components.get(LLM, "fast")).version < 20


@pytest.mark.parametrize("way", ["asked for", "the watch fails"])
async def test_without_a_watch_files_are_looked_at_every_second(
    anchor: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "the watch fails":
        monkeypatch.setattr(watching, "awatch", _no_watch)
    with capture_logs() as logs:
        async with serving(anchor.parent, watch_files_poll=way == "asked for") as components:
            anchor.write_text("llms: {fast: {model: seen}}\n")
            await until(models, components, {"fast": "seen"})
    warned = [entry["error"] for entry in logs if entry["log_level"] == "warning"]
    assert warned == ([] if way == "asked for" else ["OS file watch limit reached"])


NO_WATCHES = ("unshare", "--user", "--map-root-user", "sh", "-c")
LIMIT = 'echo 0 > /proc/sys/user/max_inotify_watches && exec "$0" "$@"'


async def test_edits_are_seen_where_the_system_lets_nobody_watch(anchor: Path) -> None:
    if not await _can_be_limited():
        pytest.skip("this system does not let a process limit what it may watch (unshare --user)")
    async with (
        process(anchor.parent, *NO_WATCHES, LIMIT) as running,
        open_client(registry=running.address) as client,
    ):
        for model in ("n", "o"):
            anchor.write_text(f"llms: {{fast: {{model: {model}}}}}\n")
            await until(models, client.components, {"fast": model})


async def _can_be_limited() -> bool:
    try:
        tried = await asyncio.create_subprocess_exec(
            *NO_WATCHES, LIMIT, "true", stderr=asyncio.subprocess.DEVNULL
        )
    except FileNotFoundError:
        return False
    return await tried.wait() == 0


async def _no_watch(*_: Any, **__: Any) -> AsyncIterator[set[Any]]:
    # As it is at the limit, for machines on which that cannot be set for one process.
    raise OSError("OS file watch limit reached")
    yield set()


async def test_files_are_left_alone_where_that_is_set(anchor: Path) -> None:
    async with (
        serving(anchor.parent, data_dir=anchor.parent / "1", watch_files=False) as components,
        serving(anchor.parent, data_dir=anchor.parent / "2") as others,
    ):
        for model in ("n", "o"):
            anchor.write_text(f"llms: {{fast: {{model: {model}}}}}\n")
            await until(models, others, {"fast": model})
        assert await models(components) == {"fast": "m"}
