"""Holds the protos to the rules of buf: its lint, and no breaking change since the last release.

Run as `check_protos.py BUF`, with the path of the buf command.
"""

import subprocess
import sys


def main(buf: str) -> int:
    lint = subprocess.run([buf, "lint"], check=False).returncode
    tag = subprocess.run(
        ["git", "describe", "--tags", "--match", "v*", "--abbrev=0"],
        check=False,
        capture_output=True,
        text=True,
    ).stdout.strip()
    if not tag:
        print("buf breaking: there is no release yet that could be broken")
        return lint
    return lint or subprocess.run([buf, "breaking", "--against", f".git#tag={tag}"], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
