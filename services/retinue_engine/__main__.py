"""`python -m retinue_engine`: serve until told to stop."""

import sys

from retinue_engine.app import open_app
from retinue_engine.settings import EngineSettings
from retinue_kit.server import run_service


def main() -> int:
    """Serve; the exit status."""
    return run_service(EngineSettings, EngineSettings.service, open_app)


if __name__ == "__main__":
    sys.exit(main())
