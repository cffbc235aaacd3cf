"""Writes docs/reference.md from the comments of the protos; with --check, says whether it is current.

Runs in the environment of `generate.py`, whose protoc reads the comments (`make generate`).
"""

import argparse
import sys
from collections.abc import Iterator

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto

from descriptors import ENUMS, MESSAGES, NESTED, ROOT, SERVICES, comments_of, descriptors

PAGE = ROOT / "docs" / "reference.md"
PACKAGES = ("retinue.engine.v1", "retinue.registry.v1", "retinue.mcphost.v1", "retinue.common.v1")


def protos() -> list[FileDescriptorProto]:
    """Every proto, in the order of PACKAGES; services first."""
    return sorted(
        descriptors().file, key=lambda file: (PACKAGES.index(file.package), not file.service, file.name)
    )


def type_of(field: FieldDescriptorProto, maps: dict[str, str]) -> str:
    """A field's type as one writes it in a proto."""
    full = field.type_name.removeprefix(".")
    name = full.rpartition(".")[2] or FieldDescriptorProto.Type.Name(field.type)[5:].lower()
    if full in maps:
        return maps[full]
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        return f"repeated {name}"
    return f"optional {name}" if field.proto3_optional else name


def page(files: list[FileDescriptorProto]) -> Iterator[str]:
    """The page's lines."""
    yield "# Reference\n"
    yield "Made from the comments of the protos by `make generate`; change those, not this page.\n"
    package = ""
    for file in files:
        if file.package != package:
            package = file.package
            yield f"## {package}\n"
        comments = comments_of(file)
        for place, service in enumerate(file.service):
            yield f"### {service.name}\n\n{comments[SERVICES, place]}\n"
            yield "| rpc | takes | gives | what it does |\n| --- | --- | --- | --- |"
            for number, method in enumerate(service.method):
                takes, gives = (kind.rpartition(".")[2] for kind in (method.input_type, method.output_type))
                takes = f"stream {takes}" if method.client_streaming else takes
                gives = f"stream {gives}" if method.server_streaming else gives
                what = comments[SERVICES, place, NESTED, number]
                yield f"| `{method.name}` | `{takes}` | `{gives}` | {what} |"
            yield ""
        for place, message in enumerate(file.message_type):
            yield f"### {message.name}\n\n{comments[MESSAGES, place]}\n"
            maps = {
                f"{package}.{message.name}.{nested.name}": "map<"
                + ", ".join(type_of(each, {}) for each in nested.field)
                + ">"
                for nested in message.nested_type
            }
            if message.field:
                yield "| field | type | meaning |\n| --- | --- | --- |"
            for number, field in enumerate(message.field):
                what = comments[MESSAGES, place, NESTED, number].replace("|", "\\|")
                yield f"| `{field.name}` | `{type_of(field, maps)}` | {what} |"
            yield ""
        for place, enum in enumerate(file.enum_type):
            yield f"### {enum.name}\n\n{comments[ENUMS, place]}\n"
            yield "| value | number | meaning |\n| --- | --- | --- |"
            for number, value in enumerate(enum.value):
                yield f"| `{value.name}` | {value.number} | {comments[ENUMS, place, NESTED, number]} |"
            yield ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 where the page is stale")
    check = parser.parse_args().check
    text = "\n".join(page(protos())).rstrip() + "\n"
    if check:
        if PAGE.exists() and PAGE.read_text() == text:
            return 0
        print("docs/reference.md is not current; run `make generate`")
        return 1
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
