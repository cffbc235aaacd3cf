"""`test`: runs the tests of a file against services of their own, where a script plays every model."""

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retinue_cli.failures import FAILED, USAGE, CommandError
from retinue_cli.output import Output
from retinue_cli.project import find_project, project_folder
from retinue_cli.suite.bench import Bench
from retinue_cli.suite.launching import find_script
from retinue_cli.suite.services import SERVICES
from retinue_cli.wording import count, seconds

if TYPE_CHECKING:
    from retinue_cli.testing.cases import Case


def run_file(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The tests, YAML.", show_default=False)],
    *,
    only: Annotated[
        str, typer.Option("--only", "-k", metavar="TEXT", help="Only tests with this in their names.")
    ] = "",
    keep: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keep the services' data and logs here; else they are deleted."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one object for each test.")] = False,
) -> None:
    """Run workflows and agents as a file says, with models that say what a script says, and check the ends.

    The services are started on free ports with nothing stored. The exit status is 0 where all tests pass, 1
    where one does not, 2 where the file is wrong.
    """
    for service in SERVICES:
        service.check_installed()
    from retinue_cli.scripted_model import ScriptError
    from retinue_cli.testing.cases import load_tests

    try:
        tests = load_tests(file)
    except ScriptError as error:
        raise CommandError(str(error), status=USAGE) from None
    cases = [case for case in tests.tests if only in case.name]
    if not cases:
        raise CommandError(f"no test of {file} has {only!r} in its name", status=USAGE)
    folder = file.resolve().parent
    project = project_folder(folder / tests.project if tests.project else find_project(folder))
    script = find_script(project, folder / tests.model if tests.model else None, wanted=True)
    if keep:
        keep.mkdir(parents=True, exist_ok=True)
        if any(keep.iterdir()):
            raise CommandError(f"{keep} is not empty: tests begin with nothing stored")
    with tempfile.TemporaryDirectory(prefix="retinue-test-") as temporary:
        bench = Bench(project, script, tests.namespace, (keep or Path(temporary)).resolve())
        session = _Session(bench, cases, tests.namespace, Output(as_json=as_json))
        status = asyncio.run(bench.run(session.run))
    raise typer.Exit(status)


class _Session:
    """The tests of one call."""

    def __init__(self, bench: Bench, cases: "Sequence[Case]", namespace: str, output: Output) -> None:
        self._bench = bench
        self._cases = cases
        self._namespace = namespace
        self._output = output

    async def run(self) -> int:
        """Run one after the other; the exit status."""
        from retinue.client import Access, open_client
        from retinue_cli.testing.running import run_case

        where = self._bench.environment
        failed = 0
        async with open_client(
            where["RETINUE_ENGINE_ADDRESS"],
            registry=where["RETINUE_REGISTRY_ADDRESS"],
            mcp_host=where["RETINUE_MCP_HOST_ADDRESS"],
            namespace=self._namespace,
            access=Access(),
        ) as client:
            for case in self._cases:
                outcome = await run_case(client, case)
                failed += bool(outcome.faults)
                self._show(outcome.name, outcome.faults, outcome.run_id, outcome.seconds)
        if not self._output.as_json:
            passed = len(self._cases) - failed
            told = f"{count(passed, 'test')} passed" + (f", {failed} failed" if failed else "")
            self._output.line(told, style="red" if failed else "green")
        return FAILED if failed else 0

    def _show(self, name: str, faults: Sequence[str], run_id: str, took_s: float) -> None:
        output = self._output
        if output.as_json:
            output.object({"name": name, "passed": not faults, "faults": list(faults), "run_id": run_id})
            return
        sign, style = ("✗ ", "red") if faults else ("✓ ", "green")
        output.parts((sign, style), (name, ""), (f" {seconds(took_s)}", "dim"))
        for fault in faults:
            output.parts((fault, "red"), indent=2)
