"""`retinue`, and `python -m retinue_cli`: the command, or what to install for it."""

import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec

_NEEDED = ("aiohttp", "grpc_health", "pydantic", "rich", "typer", "yaml")
"""What the extra `cli` brings."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    if any(find_spec(name) is None for name in _NEEDED):
        sys.stderr.write(
            "error: the `retinue` command is not installed here, only the client library: "
            "`pip install 'retinue[cli]'`, or `pip install 'retinue[all]'` for the services too\n"
        )
        return 1
    # gRPC would write about failed handshakes on stderr itself, beside our one line.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from retinue_cli.command import run_command

    return run_command(sys.argv[1:] if arguments is None else arguments)


if __name__ == "__main__":
    sys.exit(main())
