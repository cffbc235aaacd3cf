"""litellm is imported late, once, and leaves nothing behind; each in a process of its own."""

import subprocess
import sys

PREPARED = """
import asyncio, sys, threading
from retinue_engine.llm import litellm_transport
from retinue_engine.llm.model import ChatRequest, Endpoint
from retinue_engine.llm.routing import open_models
from retinue_cli.scripted_model import open_scripted_model, parse_script
"""


def run(program: str) -> str:
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            "-X",
            "dev",
            "-W",
            "ignore::DeprecationWarning",
            "-c",
            PREPARED + program,
        ],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if not line.startswith("Executing <")]
    assert lines == []
    return done.stdout


def test_litellm_is_not_imported_before_it_is_used() -> None:
    program = """
async def main():
    async with open_models():
        print("litellm" in sys.modules)
asyncio.run(main())
"""
    assert run(program) == "False\n"


def test_the_first_who_need_its_table_import_it_once_in_a_thread_while_the_loop_goes_on() -> None:
    program = """
imports, ticks = [], 0
real = litellm_transport.import_litellm

def counted():
    imports.append(threading.current_thread() is threading.main_thread())
    return real()

litellm_transport.import_litellm = counted

async def main():
    global ticks
    async with open_models() as models:
        await models.native_output("direct", "m", protocol="openai_chat")
        await models.native_output("litellm", "gpt-4o", mode="native")
        print(imports)
        asking = (models.native_output("litellm", "gpt-4o") for _ in range(3))
        waiting = asyncio.gather(*asking, *(models.warm() for _ in range(3)))
        while not waiting.done():
            ticks += 1
            await asyncio.sleep(0.01)
        await waiting
        await models.native_output("litellm", "gpt-4o")
    print(imports, ticks > 10)
asyncio.run(main())
"""
    assert run(program) == "[]\n[False] True\n"


def test_calls_and_failures_leave_no_warning_and_no_open_connection_at_exit() -> None:
    program = """
async def main():
    script = parse_script('''
rules:
  - when: {user_contains: fail}
    error: {status: 500}
  - when: {user_contains: cut}
    text: cut off here
    cut: 1
default: {text: hello}
''')
    async with open_scripted_model(script) as base_url, open_models() as models:
        for said in ("hi", "fail", "cut"):
            request = ChatRequest([{"role": "user", "content": said}], [])
            call = (Endpoint("m", base_url, "k", {}, 30), request, lambda _: None)
            for transport in ("direct", "litellm"):
                try:
                    await models.complete(transport, *call, protocol="openai_chat")
                except Exception as error:
                    print(type(error).__name__)
                else:
                    print("ok")
asyncio.run(main())
"""
    outcome = ["ok"] * 2 + ["LlmUnavailableError"] * 4
    assert run(program).split() == outcome
