#!/usr/bin/env python3
"""Finds dependencies in a Cargo.toml that no source names: of a crate, its build, its tests and its benchmarks."""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Where code that may use a table of dependencies is.
TABLES = {
    "dependencies": ["src", "."],
    "build-dependencies": ["build.rs", "src"],
    "dev-dependencies": ["src", "tests", "benches", "."],
}


def sources(crate, places):
    """The crate's sources in these places; `.` is for a crate whose sources stand beside its manifest."""
    inner = [path.parent for path in ROOT.glob("src/*/Cargo.toml") if path.parent != crate]
    for place in places:
        path = crate / place
        files = [path] if path.is_file() else sorted(path.glob("*.rs" if crate == ROOT and place == "." else "**/*.rs"))
        yield from (file for file in files if not any(file.is_relative_to(other) for other in inner))


def main():
    unused = []
    for crate in [ROOT, *(path.parent for path in ROOT.glob("src/*/Cargo.toml"))]:
        manifest = tomllib.loads((crate / "Cargo.toml").read_text())
        for table, places in TABLES.items():
            code = "\n".join(path.read_text() for path in sources(crate, places))
            for name in manifest.get(table, {}):
                # `name::…`, `use name;`, `#[name::…]` or `name!(…)`.
                if not re.search(rf"(?<![\w:]){name.replace('-', '_')}(::|;|!| as )", code):
                    unused.append(f"{manifest['package']['name']}: {table}: {name} is used nowhere")
    print("\n".join(unused) or "every dependency is used")
    return 1 if unused else 0


if __name__ == "__main__":
    sys.exit(main())
