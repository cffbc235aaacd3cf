"""Which secret references of components do not resolve in this process: what CheckSecrets answers."""

from collections.abc import Iterator, Mapping

from retinue.common.v1.secret_pb2 import SecretProblem
from retinue.errors import ComponentNotAllowedError, SecretNotFoundError
from retinue_kit.allowed import Allowed, Place
from retinue_kit.secrets import references, resolve_secret


def secret_problems(
    kind: str, name: str, fields: Mapping[str, str], allowed: Allowed | None
) -> Iterator[SecretProblem]:
    """Yield what does not resolve, in the order of the fields' names. It reads files.

    `fields` are those of a component that may hold secrets, as they are written. `allowed` are the lists that
    hold for it; None where it stands in a file. No value is in what comes out.
    """
    for field, text in sorted(fields.items()):
        for reference in references(text):
            try:
                if allowed is not None:
                    allowed.check_secret(Place(kind, name, field), reference)
                resolve_secret(reference, field=field)
            except (ComponentNotAllowedError, SecretNotFoundError) as error:
                yield SecretProblem(
                    kind=kind,
                    name=name,
                    field=field,
                    reference=reference,
                    reason=error.reason,
                    message=error.message,
                )
