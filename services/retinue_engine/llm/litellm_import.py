"""Importing litellm: seconds of work, done in a thread, with what it would do on its own switched off."""

import asyncio
import contextlib
import functools
import importlib
import logging
import os
from typing import Any

_REHEARSED = (
    b'data: {"id":"x","object":"chat.completion.chunk","created":0,"model":"x",'
    b'"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
)


@functools.cache
def import_litellm() -> Any:
    """litellm, set up to be used as a library. Blocks for seconds: call it in a thread."""
    # Else the import fetches a price table from the internet.
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    litellm: Any = importlib.import_module("litellm")
    litellm.suppress_debug_info = True
    litellm.turn_off_message_logging = True
    # What goes wrong is in the errors; its log would repeat requests and answers.
    for name in ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    # Only a rehearsal: where it fails, the first call pays for it and says what is wrong.
    with contextlib.suppress(Exception):
        asyncio.run(_rehearse(litellm))
    return litellm


async def _rehearse(litellm: Any) -> None:
    """One call that touches no network: litellm and openai import half of themselves on the first one."""
    httpx: Any = importlib.import_module("httpx")
    openai: Any = importlib.import_module("openai")
    answer = httpx.MockTransport(lambda _: httpx.Response(200, content=_REHEARSED))
    async with (
        httpx.AsyncClient(transport=answer) as http,
        openai.AsyncOpenAI(api_key="x", base_url="http://rehearsal.invalid", http_client=http) as client,
    ):
        stream = await litellm.acompletion(
            model="openai/x", messages=[{"role": "user", "content": "x"}], stream=True, client=client
        )
        async for _ in stream.completion_stream:
            pass
