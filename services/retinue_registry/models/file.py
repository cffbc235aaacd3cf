"""The keys of a file beside those of the kinds, for people and editors; `files.source_file` reads them."""

from typing import Annotated

from pydantic import Field

from retinue_registry.models.fields import Name, Part, Required, optional


class FileKeys(Part):
    """What stands in a file beside components."""

    namespace: Annotated[Name, Field(description="The namespace of all components of this file.")] | None = (
        optional("team-a", default="default")
    )
    include: (
        Annotated[
            list[Required],
            Field(
                description="Patterns of further files, relative to this one and inside its folder. In "
                "retinue.yaml alone."
            ),
        ]
        | None
    ) = optional(["agents/*.yaml"])
    projects: (
        Annotated[
            list[Required],
            Field(
                description="Folders of projects, relative to this file's, which makes it a workspace. In "
                "retinue.yaml alone."
            ),
        ]
        | None
    ) = optional(["services/billing"])
