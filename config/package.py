#!/usr/bin/env python3
"""Packs a release: the binary with manual pages, completions, units and the licences of all that is in it.

    config/package.py TARGET BINARY OUT-DIRECTORY

writes imgcls-VERSION-ARCHITECTURE-linux.tar.xz and its .sha256. The same binary and sources give the same bytes:
names are sorted, all files have one time, SOURCE_DATE_EPOCH (1970 without it), and no owner. Needs cargo, whose
downloaded sources have the licences, and rustc; for the binary of another machine qemu-user-static as well.
"""

import hashlib
import io
import json
import lzma
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LICENCE_FILE = re.compile(r"(licen[cs]e|copying|copyright|notice|unlicense)", re.IGNORECASE)
RULE = "=" * 100
# What is packed of the sources, by its name in the archive.
INSIDE = {
    "README.md": "README.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "SECURITY.md": "SECURITY.md",
    "LICENSE-MIT": "LICENSE-MIT",
    "LICENSE-APACHE": "LICENSE-APACHE",
    "config/imgcls.toml": "imgcls.toml",
    "config/systemd": "systemd",
}


def output(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=ROOT, text=True).stdout


def dependencies(target):
    """The packages whose code the binary for `target` may hold, by name."""
    metadata = json.loads(
        output("cargo", "metadata", "--locked", "--format-version=1", f"--filter-platform={target}")
    )
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    root = metadata["resolve"]["root"]
    found, open_ends = set(), [root]
    while open_ends:
        node = open_ends.pop()
        if node not in found:
            found.add(node)
            normal = (d for d in nodes[node]["deps"] if any(kind["kind"] is None for kind in d["dep_kinds"]))
            open_ends += (dependency["pkg"] for dependency in normal)
    return sorted((packages[node] for node in found - {root}), key=lambda one: (one["name"], one["version"]))


def licence_texts(package):
    """The package's own texts of licences and notices."""
    directory = Path(package["manifest_path"]).parent
    if package["license_file"]:
        yield (directory / package["license_file"]).read_text(errors="replace")
    for path in sorted(directory.iterdir()):
        if LICENCE_FILE.match(path.name):
            files = sorted(path.iterdir()) if path.is_dir() else [path]
            for file in files:
                if file.is_file() and file.suffix not in (".rs", ".html"):
                    yield file.read_text(errors="replace")


def standard_texts(package):
    """For the few packages that name a licence and do not carry its text."""
    choices = re.split(r"\s*/\s*|\s+OR\s+", package["license"])
    for name, file in (("MIT", "LICENSE-MIT"), ("Apache-2.0", "LICENSE-APACHE")):
        if name in choices:
            text = (ROOT / file).read_text()
            holders = ", ".join(package["authors"]) or f"the authors of {package['name']}"
            return [re.sub(r"Copyright \(c\) .*", f"Copyright (c) {holders}", text)]
    sys.exit(f"package.py: {package['name']} is under {package['license']} and has no text of it; add it by hand")


def third_parties(target):
    """One text with everybody's licences; equal texts are printed once."""
    users, texts = {}, {}
    lines = ["What is in this binary besides imgcls, and on which terms. The texts follow the list.", ""]
    for package in dependencies(target):
        own = list(licence_texts(package)) or standard_texts(package)
        name = f"{package['name']} {package['version']}"
        lines.append(f"{name}: {package['license']}  {package['repository'] or ''}".rstrip())
        for text in own:
            key = " ".join(text.split())
            texts.setdefault(key, text.strip())
            users.setdefault(key, []).append(name)
    lines += [
        "SQLite: in the public domain  https://sqlite.org/copyright.html",
        "Rust's standard library: MIT OR Apache-2.0  https://github.com/rust-lang/rust",
        "GNU C Library: LGPL-2.1-or-later  https://www.gnu.org/software/libc/",
        "",
        "The notices of Rust's standard library and of what is in it are in COPYRIGHT-library.html. The GNU C Library",
        "is linked statically; to link imgcls with another version of it, run `make dist` in imgcls' sources.",
    ]
    parts = ["\n".join(lines)]
    for key, text in texts.items():
        parts.append(f"{RULE}\n{', '.join(users[key])}\n{RULE}\n\n{text}")
    lgpl = ROOT / "config/licences/LGPL-2.1.txt"
    parts.append(f"{RULE}\nGNU C Library\n{RULE}\n\n{lgpl.read_text().strip()}")
    return "\n\n\n".join(parts) + "\n"


def runner(machine):
    """What goes before a command of a binary for `machine`."""
    if machine == platform.machine():
        return []
    qemu = shutil.which(f"qemu-{machine}-static") or shutil.which(f"qemu-{machine}")
    return [qemu] if qemu else sys.exit(f"package.py: this machine is no {machine}; install qemu-user-static")


def manuals(run, *command):
    """The manual page of a command, and those of all below it, to which it refers, by the files' names."""
    name = "-".join(("imgcls", *command))
    page = run("man", *command)
    below = re.findall(rf"^{name}-([a-z-]+)\(1\)", page.decode().replace("\\-", "-"), re.MULTILINE)
    pages = {f"man/{name}.1": page}
    for command_below in below:
        pages |= manuals(run, *command, command_below)
    return pages


def with_links_inside(text):
    """A paper whose links lead to what is in the archive, or to the network. Of others their text stays; pictures go."""

    def link(match):
        label, target = match.groups()
        if "://" in target or target.startswith("#"):
            return match[0]
        inside = INSIDE.get(target)
        return f"[{inside if label == target else label}]({inside})" if inside else label

    # The sentence before a picture does not announce one any more, and no frame of pictures is left.
    text = re.sub(r":\n\n(?=!\[)", ".\n\n", text)
    text = re.sub(r"!\[[^]]*\]\([^)]*\)", "", text)
    text = re.sub(r"^(?:\|[|\s-]*\n){3,}", "", text, flags=re.MULTILINE)
    text = re.sub(r"\[([^]]*)\]\(([^)]*)\)", link, text)
    return re.sub(r"\n{3,}", "\n\n", text)


def contents(binary, program, target):
    """Names and bytes of the files; `program` is the command that runs the binary."""
    run = lambda *arguments: output(*program, *arguments).encode()  # noqa: E731
    sysroot = Path(output("rustc", "--print=sysroot").strip())
    files = {"imgcls": Path(binary).read_bytes(), "THIRD-PARTY.txt": third_parties(target).encode()}
    files["COPYRIGHT-library.html"] = (sysroot / "share/doc/rust/COPYRIGHT-library.html").read_bytes()
    for name, inside in INSIDE.items():
        if name.endswith(".md"):
            files[inside] = with_links_inside((ROOT / name).read_text()).encode()
        elif (ROOT / name).is_dir():
            files |= {f"{inside}/{one.name}": one.read_bytes() for one in (ROOT / name).iterdir()}
        else:
            files[inside] = (ROOT / name).read_bytes()
    files |= manuals(run)
    for shell, name in (("bash", "imgcls.bash"), ("zsh", "_imgcls"), ("fish", "imgcls.fish")):
        files[f"completions/{name}"] = run("completions", shell)
    sums = (f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files))
    return files | {"SHA256SUMS": "".join(sums).encode()}


def pack(directory, files, time):
    """The bytes of the archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in sorted(files):
            entry = tarfile.TarInfo(f"{directory}/{name}")
            entry.size, entry.mtime = len(files[name]), time
            entry.mode = 0o755 if name == "imgcls" else 0o644
            archive.addfile(entry, io.BytesIO(files[name]))
    return lzma.compress(buffer.getvalue(), preset=6)


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    target, binary, out = sys.argv[1], os.path.abspath(sys.argv[2]), Path(sys.argv[3])
    machine = target.split("-")[0]
    program = [*runner(machine), binary]
    version = output(*program, "--version").split()[1]
    name = f"imgcls-{version}-{machine}-linux"
    time = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
    archive = pack(name, contents(binary, program, target), time)
    file = out / f"{name}.tar.xz"
    file.write_bytes(archive)
    digest = hashlib.sha256(archive).hexdigest()
    (out / f"{file.name}.sha256").write_text(f"{digest}  {file.name}\n")
    print(f"{file}: {len(archive) / 1e6:.1f} MB, SHA-256 {digest}")


if __name__ == "__main__":
    main()
