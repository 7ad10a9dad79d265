#!/usr/bin/env python3
"""Finds dependencies in Cargo.toml that no source names: of the crate, its build, its tests and its benchmarks."""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Where code that may use a table of dependencies is.
TABLES = {
    "dependencies": ["src"],
    "build-dependencies": ["build.rs", "src"],
    "dev-dependencies": ["src", "tests", "benches"],
}


def sources(places):
    for place in places:
        path = ROOT / place
        yield from [path] if path.is_file() else sorted(path.rglob("*.rs"))


def main():
    manifest = tomllib.loads((ROOT / "Cargo.toml").read_text())
    unused = []
    for table, places in TABLES.items():
        code = "\n".join(path.read_text() for path in sources(places))
        for name in manifest.get(table, {}):
            crate = name.replace("-", "_")
            # `crate::…`, `use crate;`, `#[crate::…]` or `crate!(…)`.
            if not re.search(rf"(?<![\w:]){crate}(::|;|!| as )", code):
                unused.append(f"{table}: {name} is used nowhere")
    print("\n".join(unused) or "every dependency is used")
    return 1 if unused else 0


if __name__ == "__main__":
    sys.exit(main())
