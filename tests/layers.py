#!/usr/bin/env python3
"""Checks that modules use only those below them, that ARCHITECTURE.md names no file that is not there, and with --circles that no files
use each other in a circle.

    tests/layers.py              checks src/, prints what is wrong, exits with 1 if anything is
    tests/layers.py --circles    checks for circles between files too
    tests/layers.py --map        prints the arrows between modules instead

It reads `use` declarations and paths that begin with `crate`, `super` or `self`, outside tests. A `mod.rs` is the face of its
directory: it may name its children, and a path to something that it re-exports leads to the child that has it.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src"

# From top to bottom. Modules of one floor do not know each other.
FLOORS = [
    {"cli"},
    {"roles"},
    {"web", "worker", "scaling"},
    {"backend", "telemetry"},
    {"config", "clock"},
    {"contract"},
    {"model"},
    {"compute"},
    {"build", "http", "private", "retry", "tls"},
]

# A module that is a crate of its own, by the name that others use it under.
CRATES = {"imgcls_compute": ("compute",)}


def is_test(path):
    return path.stem == "tests" or path.stem.endswith("_tests") or {"tests", "suite"} & set(path.relative_to(SOURCE).parts)


def code_of(path):
    """The file without comments, texts and its tests."""
    text = path.read_text()
    text = re.sub(r'b?r(#*)".*?"\1', '""', text, flags=re.S)
    text = re.sub(r'"(?:\\.|[^"\\])*"', '""', text, flags=re.S)
    text = re.sub(r"//[^\n]*", "", text)
    return re.split(r"#\[cfg\(test\)\]\s*(?:pub(?:\([a-z]+\))? )?mod \w+ \{", text)[0]


def expand(tree):
    """The paths of a `use` tree: `a::{b, c::d}` is `a::b` and `a::c::d`."""
    tree = re.sub(r"\s+", " ", tree).strip()
    opened = tree.find("{")
    if opened < 0:
        return [re.split(r" as ", tree)[0].strip()]
    prefix, body, parts, depth, part = tree[:opened], tree[opened + 1 : tree.rfind("}")], [], 0, ""
    for char in body:
        depth += (char == "{") - (char == "}")
        if char == "," and depth == 0:
            parts.append(part)
            part = ""
        else:
            part += char
    return [prefix + path for part in parts + [part] if part.strip() for path in expand(part)]


class Tree:
    """The modules of a crate by path, such as ("web", "status")."""

    def __init__(self):
        self.files = {}
        for path in sorted(SOURCE.rglob("*.rs")):
            parts = path.relative_to(SOURCE).with_suffix("").parts
            if parts not in (("lib",), ("main",), ("exit",)) and not is_test(path):
                self.files[parts[:-1] if parts[-1] in ("mod", "lib") else parts] = path
        self.faces = {module for module, path in self.files.items() if path.name in ("mod.rs", "lib.rs")}
        self.code = {module: code_of(path) for module, path in self.files.items()}
        self.exports = {face: self.exported(face) for face in self.faces}

    def exported(self, face):
        """Which child, or which crate's, has what a face re-exports or lends to its children."""
        found = {}
        for tree in re.findall(r"\buse\s+([^;]+);", self.code[face]):
            for path in expand(tree):
                parts = [part for part in path.split("::") if part != "self"]
                home = (*CRATES[parts[0]], parts[1]) if parts[0] in CRATES else (*face, parts[0])
                if home in self.files:
                    found[parts[-1]] = home
        return found

    def resolve(self, module, path):
        """The module that a path in `module` leads to, `None` for one outside the crate."""
        parts = path.split("::")
        if parts[0] == "crate":
            at = module[:1] if module[:1] in CRATES.values() else ()
        elif parts[0] in CRATES:
            at = CRATES[parts[0]]
        elif parts[0] == "super":
            at = module[:-1]
        elif parts[0] == "self":
            at = module
        elif (*module, parts[0]) in self.files and module in self.faces:
            at, parts = module, ["self", *parts]
        else:
            return None
        for part in parts[1:]:
            if part == "super":
                at = at[:-1]
            elif (*at, part) in self.files:
                at = (*at, part)
            elif part in self.exports.get(at, {}):
                at = self.exports[at][part]
            else:
                break
        return at or None

    def uses(self, module):
        """The modules that `module` uses."""
        code = self.code[module]
        paths = [path for tree in re.findall(r"\buse\s+([^;]+);", code) for path in expand(tree)]
        paths += re.findall(r"\b(?:crate|super|self)(?:::\w+)+", code)
        found = {self.resolve(module, path) for path in paths}
        # A face names its children, and what is inside a module is its own affair.
        return {other for other in found if other and other != module and other[: len(module)] != module}


def circles(graph):
    """Sets of modules that use each other (Tarjan)."""
    index, low, stack, found = {}, {}, [], []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph.get(node, ()):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            members = []
            while node not in members:
                members.append(stack.pop())
            if len(members) > 1:
                found.append(sorted(members))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def missing_files():
    """The files and directories that ARCHITECTURE.md names and that are not there. A name may be the end of a path: `local/`."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    names = {name for name in re.findall(r"`(\w[\w./-]*)`", text) if "/" in name or re.search(r"\.(?:rs|py|toml|yaml|html|md)$", name)}
    there = [path for top in ("assets", "benches", "config", "src", "tests") for path in [ROOT / top, *(ROOT / top).rglob("*")]]
    there = ["/" + path.relative_to(ROOT).as_posix() for path in [*there, *ROOT.glob("*.*")]]
    return sorted(name for name in names if not any(path.endswith("/" + name.rstrip("/")) for path in there))


def main():
    sys.setrecursionlimit(10_000)
    tree = Tree()
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    files = {module: tree.uses(module) for module in tree.files}
    between = {}
    for module, used in files.items():
        for other in used:
            if other[0] != module[0]:
                between.setdefault((module[0], other[0]), set()).add(("::".join(module), "::".join(other)))
    if "--map" in sys.argv:
        for source, target in sorted(between):
            print(f"{source} -> {target}")
        return 0
    wrong = [f"{name}: a module that has no floor" for name in sorted({module[0] for module in files} - set(floor))]
    wrong += [f"ARCHITECTURE.md names {name}, which is not there" for name in missing_files()]
    for (source, target), uses in sorted(between.items()):
        if floor.get(source, 0) >= floor.get(target, len(FLOORS)):
            wrong += [f"{by} uses {of}, which is not below it" for by, of in sorted(uses)]
    # A face is what its children are seen through; only whole files can go round in a circle.
    if "--circles" not in sys.argv:
        print("\n".join(wrong) or f"{len(files)} modules, {len(between)} arrows between {len(floor)} of them, none up")
        return 1 if wrong else 0
    plain = {m: {o for o in used if o not in tree.faces} for m, used in files.items() if m not in tree.faces}
    wrong += ["circle: " + ", ".join("::".join(member) for member in members) for members in circles(plain)]
    print("\n".join(wrong) or f"{len(files)} modules, {len(between)} arrows between {len(floor)} of them, none up, no circle")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
