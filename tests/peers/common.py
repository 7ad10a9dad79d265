"""What the comparisons share: an environment with the peers, and this project's side of them."""

import json
import os
import pathlib
import subprocess
import sys
import venv

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
WORK = ROOT / "target" / "peers"


def inside_venv(directory: pathlib.Path, packages: list[str]) -> None:
    """Makes the environment, and starts the script again in it."""
    python = directory / "bin" / "python"
    if pathlib.Path(sys.prefix) == directory:
        return
    if not python.exists():
        venv.create(directory, with_pip=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    os.execv(python, [str(python), *sys.argv])


def build(bench: str) -> str:
    """Builds a file of benches/; cargo says where it put it."""
    command = ["cargo", "bench", "--locked", "--bench", bench, "--no-run", "--message-format=json"]
    lines = subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    built = (json.loads(line) for line in lines)
    return next(m["executable"] for m in built if m.get("target", {}).get("name") == bench and m.get("executable"))
