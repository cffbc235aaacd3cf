"""`--store-check`: says what does not fit together in the store that the settings name; changes nothing."""

import asyncio
import json
import sys

from pydantic import ValidationError

from retinue.errors import RetinueError
from retinue_registry.settings import RegistrySettings

USAGE = 2


class Tally:
    """Goes through versions in the order of keys and versions, and remembers what is missing."""

    def __init__(self, revision: int, compacted: int) -> None:
        self._revision = revision
        self._compacted = compacted
        self._newer = 0
        self._last: tuple[tuple[str, str, str], int, int] = (("", "", ""), 0, 0)
        self._found: list[str] = []

    def add(self, key: tuple[str, str, str], version: int, revision: int) -> None:
        """Look at the next version."""
        last_key, last_version, last_revision = self._last
        if key == last_key:
            name = f"{key[1]}/{key[2]} of namespace {key[0]}"
            # Of what was removed the last part may be on its way out.
            if version != last_version + 1 and last_revision >= self._compacted:
                self._found.append(f"{name}: version {last_version + 1} is missing, {version} is there")
            if revision <= last_revision:
                self._found.append(f"{name}: version {version} has an older revision than the one before it")
        self._newer += revision > self._compacted
        self._last = (key, version, revision)

    def problems(self) -> list[str]:
        """What is wrong, a sentence each."""
        missing = self._revision - self._compacted - self._newer
        if missing:
            many = f"{self._revision - self._compacted:,} changes after revision {self._compacted}"
            return [*self._found, f"of the {many} there are {self._newer:,}"]
        return self._found


async def find_problems(settings: RegistrySettings) -> list[str]:
    """What is wrong in the store, a sentence each; a registry may be at work meanwhile.

    Raises StoreUnavailableError, also where there is no store of this version, and ValueError for an address
    that cannot be.
    """
    path = settings.sqlite_path(settings.anchor())
    # Each way imports only its own driver.
    if path is not None:
        from retinue_registry.stores.sqlite.check import check_file  # noqa: PLC0415 - see above

        return check_file(path)
    from retinue_registry.stores.mongo.check import check_database  # noqa: PLC0415 - see above

    return await check_database(settings.registry_store)


def check_store(*, as_json: bool) -> int:
    """Print what is wrong in the store; the exit status."""
    try:
        problems = asyncio.run(find_problems(RegistrySettings()))
    except ValidationError as error:
        words = "; ".join(f"RETINUE_{each['loc'][0]}".upper() + f": {each['msg']}" for each in error.errors())
        return _fail(words.replace("Value error, ", ""), USAGE)
    except (RetinueError, ValueError) as error:
        return _fail(str(error), 1)
    if as_json:
        sys.stdout.write(json.dumps({"problems": problems}, ensure_ascii=False) + "\n")
    else:
        sys.stdout.writelines(f"{line}\n" for line in problems or ["no problems"])
    return 1 if problems else 0


def _fail(message: str, status: int) -> int:
    sys.stderr.write(f"registry: {message}\n")
    return status
