"""`python -m retinue_engine`: serve until told to stop; or migrate, check or prune the store."""

import argparse
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the arguments say; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m retinue_engine",
        description="Serve runs, or look after the store, as the environment's settings say.",
    )
    action = parser.add_mutually_exclusive_group()
    action.add_argument(
        "--store-migrate", action="store_true", help="bring the store to this version and exit"
    )
    action.add_argument(
        "--store-check", action="store_true", help="print what is wrong in the store and exit"
    )
    action.add_argument("--store-prune", action="store_true", help="delete what is not to be kept and exit")
    parser.add_argument("--days", type=float, help="with --store-prune: sessions not used for so long")
    parser.add_argument("--keep", type=int, help="with --store-prune: sessions of a namespace beyond so many")
    parser.add_argument(
        "--dry-run", action="store_true", help="with --store-prune: list them, delete nothing"
    )
    parser.add_argument("--json", action="store_true", help="with --store-...: print JSON")
    given = parser.parse_args(arguments)
    pruning = {"days": given.days, "keep": given.keep, "dry_run": given.dry_run}
    if not given.store_prune and (given.days is not None or given.keep is not None or given.dry_run):
        parser.error("--days, --keep and --dry-run go with --store-prune")
    if given.store_migrate or given.store_check or given.store_prune:
        # Each way loads only what it needs.
        from retinue_engine.stores.maintenance import carry_out  # noqa: PLC0415 - see above

        if given.store_prune:
            return carry_out("prune", as_json=given.json, **pruning)
        return carry_out("check" if given.store_check else "migrate", as_json=given.json)
    if given.json:
        parser.error("--json goes with --store-migrate, --store-check and --store-prune")
    from retinue_engine.app import open_app  # noqa: PLC0415 - as above
    from retinue_engine.settings import EngineSettings  # noqa: PLC0415 - as above
    from retinue_kit.server import run_service  # noqa: PLC0415 - as above

    return run_service(EngineSettings, EngineSettings.service, open_app)


if __name__ == "__main__":
    sys.exit(main())
