"""`shadowed`: what files hold that is not in effect, as another source has the same."""

from retinue_cli.call import Call, calling
from retinue_cli.kinds import file_place, origin, ref
from retinue_cli.output import to_json


@calling
async def shadowed(call: Call) -> None:
    """List the components of files that are not in effect, and what took their place."""
    output = call.output
    async with call.open_client() as client:
        found = [each async for each in client.components.shadowed()]
    if output.as_json:
        output.object({"components": [to_json(each) for each in found]})
    elif not found:
        output.line("Every component of the files is in effect.")
    else:
        rows = []
        for each in found:
            by = each.shadowed_by
            winner = file_place(by.file) if by.WhichOneof("origin") == "file" else "API"
            rows.append([ref(each.component), origin(each.component), winner])
        output.table(["COMPONENT", "FROM", "IN EFFECT IS"], rows)
