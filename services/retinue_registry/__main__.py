"""The registry's process: `python -m retinue_registry`, or with --check a check of a project's files."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve the registry, or check a project's files; the exit status."""
    parser = argparse.ArgumentParser(
        prog="retinue-registry", description="The config registry. Its settings are environment variables."
    )
    parser.add_argument("--check", metavar="PATH", type=Path, help="check a project's files, and end")
    parser.add_argument(
        "--dump", metavar="PATH", nargs="+", help="print the components of files, folders or - as JSON"
    )
    parser.add_argument(
        "--store-check", action="store_true", help="print what is wrong in the store, and end"
    )
    parser.add_argument(
        "--json", action="store_true", help="with --check and --store-check: print the problems as JSON"
    )
    options = parser.parse_args(arguments)
    if options.json and not (options.check or options.store_check):
        parser.error("--json goes with --check and --store-check")
    # Each way loads only what it needs: the check knows no gRPC server, and is several times faster for it.
    if options.check:
        from retinue_registry.check import check  # noqa: PLC0415 - as above

        return check(options.check, as_json=options.json)
    if options.store_check:
        from retinue_registry.stores.check import check_store  # noqa: PLC0415 - as above

        return check_store(as_json=options.json)
    if options.dump:
        from retinue_registry.dump import dump  # noqa: PLC0415 - as above

        return dump(options.dump)
    from retinue_kit.server import run_service  # noqa: PLC0415 - as above
    from retinue_registry.app import open_app  # noqa: PLC0415 - as above
    from retinue_registry.settings import RegistrySettings  # noqa: PLC0415 - as above

    return run_service(RegistrySettings, RegistrySettings.service, open_app)


if __name__ == "__main__":
    sys.exit(main())
