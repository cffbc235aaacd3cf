"""Writes the Python stubs of protos/ into clients/python/; with --check, says whether they are current.

Runs in an environment of its own, with the oldest grpcio-tools that Retinue supports, so that the stubs
work with every later runtime (`make generate`).
"""

import argparse
import filecmp
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
STUBS = ROOT / "clients" / "python"
PATTERNS = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi")


def generate(out: Path) -> None:
    files = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
    services = [name for name in files if name.endswith("service.proto")]
    protoc = [sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={PROTOS}"]
    subprocess.run([*protoc, f"--python_out={out}", f"--mypy_out=quiet:{out}", *files], check=True)
    subprocess.run(
        [*protoc, f"--grpc_python_out={out}", f"--mypy_grpc_out=quiet:{out}", *services], check=True
    )


def stubs(root: Path) -> set[Path]:
    return {path.relative_to(root) for pattern in PATTERNS for path in (root / "retinue").rglob(pattern)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 where stubs are stale")
    check = parser.parse_args().check
    if not check:
        for path in stubs(STUBS):
            (STUBS / path).unlink()
        generate(STUBS)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        generate(fresh)
        made, kept = stubs(fresh), stubs(STUBS)
        stale = sorted(
            str(path)
            for path in made | kept
            if path not in made & kept or not filecmp.cmp(fresh / path, STUBS / path, shallow=False)
        )
    if stale:
        print("generated code is not current; run `make generate`:", *stale, sep="\n  ")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
