"""What is given as `NAME=VALUE`, once or more often."""

from collections.abc import Mapping, Sequence

from retinue_cli.failures import USAGE, CommandError


def pairs_from(option: str, given: Sequence[str] | None) -> dict[str, str]:
    """The values by name. Raises CommandError for what is no pair, and for a name that comes twice."""
    pairs: dict[str, str] = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise CommandError(f"{option} {text!r} is not NAME=VALUE, like team=search", status=USAGE)
        if name in pairs:
            raise CommandError(f"{option} {name} is given twice", status=USAGE)
        pairs[name] = value
    return pairs


def labels_text(labels: Mapping[str, str]) -> str:
    """Labels as they are given: `team=search, urgent=`."""
    return ", ".join(f"{name}={value}" for name, value in sorted(labels.items()))
