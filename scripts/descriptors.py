"""The protos as descriptors with their comments; as a program, it prints them for those without a protoc.

Runs in the environment of `generate.py`, whose protoc reads the comments.
"""

import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"

# Numbers of fields in descriptor.proto: the paths of comments are made of them.
MESSAGES, ENUMS, SERVICES, NESTED = 4, 5, 6, 2

Comments = dict[tuple[int, ...], str]


def descriptors() -> FileDescriptorSet:
    """Every proto with its comments."""
    from grpc_tools import protoc  # noqa: PLC0415 - who reads the program's output has none

    names = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "protos.bin"
        well_known = files("grpc_tools") / "_proto"
        options = [
            f"--proto_path={PROTOS}",
            f"--proto_path={well_known}",
            "--include_source_info",
            f"--descriptor_set_out={out}",
        ]
        if protoc.main(["protoc", *options, *names]) != 0:
            raise SystemExit("protoc cannot read the protos")
        return FileDescriptorSet.FromString(out.read_bytes())


def comments_of(file: FileDescriptorProto) -> Comments:
    """The comment before each thing, by its path."""
    return {
        tuple(location.path): " ".join(location.leading_comments.split())
        for location in file.source_code_info.location
        if location.leading_comments
    }


if __name__ == "__main__":
    sys.stdout.buffer.write(descriptors().SerializeToString())
