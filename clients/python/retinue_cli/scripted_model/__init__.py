"""A scripted model: serves the OpenAI chat-completions protocol from a YAML script, and says that it does."""

from retinue_cli.scripted_model.script import Script, ScriptError, load_script, parse_script
from retinue_cli.scripted_model.server import open_scripted_model, serve_scripted_model

__all__ = [
    "Script",
    "ScriptError",
    "load_script",
    "open_scripted_model",
    "parse_script",
    "serve_scripted_model",
]
