#!/usr/bin/env python3
"""Files a second of uploads, side by side with servers that only write files: interleaved rounds of wrk on one disk, medians.

    tests/peers/uploads.py [IMGCLS] [DIRECTORY]    the binary, without one it is built; where the files go, on the disk in question

Needs wrk, and dufs or miniserve (cargo install dufs miniserve) in the path. Theirs are neither synced to the disk nor queued, ours are both.
What a round left in memory is written before the next begins, in nobody's time: theirs would be written in ours. The disk should not have
had many files deleted a minute ago: ext4 is slow to create files then.
"""

import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
ROUNDS = 7
SECONDS = 3
CONNECTIONS = 16


class Server:
    """A server with a directory of its own; ends with the block."""

    def __init__(self, name, command, kind, path, directory):
        self.name, self.kind, self.path = name, kind, path
        directory.mkdir()
        self.process = subprocess.Popen([*command, str(directory)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        # Each prints the address that it got for port 0, or was told.
        for line in self.process.stdout:
            if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                self.url = f"http://127.0.0.1:{found[1]}"
                return
        raise SystemExit(f"{name} does not start")

    def round(self, number):
        """Files a second, and the 99th percentile in milliseconds."""
        script = Path(__file__).with_name("uploads.lua")
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS}s", "--latency", "-s", script, self.url, "--", self.kind, self.path, f"r{number}"]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        value = lambda key: float(re.search(rf"^{key} ([\d.]+)$", text, re.M)[1])
        if value("refused"):
            raise SystemExit(f"{self.name} refused {value('refused'):.0f} files")
        return value("files_a_second"), value("p99_ms")

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)


def port():
    """A port that was free a moment ago."""
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def commands(binary):
    """Name, command that gets the directory last, kind and path of uploads."""
    # Nobody classifies meanwhile: what is compared is how files come in.
    yield "imgcls", [binary, "serve", "--no-workers", "--listen", "127.0.0.1:0", "--data-dir"], "form", "/"
    if dufs := shutil.which("dufs"):
        yield "dufs", [dufs, "--allow-upload", "--log-format", "", "--bind", "127.0.0.1", "--port", port()], "put", "/"
    if miniserve := shutil.which("miniserve"):
        yield "miniserve", [miniserve, "--upload-files", "--interfaces", "127.0.0.1", "--port", port()], "form", "/upload?path=/"


def main():
    where = sys.argv[2] if len(sys.argv) > 2 else ROOT
    if len(sys.argv) > 1:
        binary = sys.argv[1]
    else:
        subprocess.run(["cargo", "build", "--release", "--locked"], check=True, cwd=ROOT)
        binary = ROOT / "target/release/imgcls"
    with tempfile.TemporaryDirectory(dir=where) as directory:
        servers = [Server(*command, Path(directory) / command[0]) for command in commands(binary)]
        try:
            if len(servers) < 2:
                raise SystemExit("neither dufs nor miniserve is in the path: cargo install dufs miniserve")
            rounds = {server.name: [] for server in servers}
            for number in range(-1, ROUNDS):
                for server in servers:
                    os.sync()
                    figures = server.round(number)
                    # The first round is for caches and connections.
                    if number >= 0:
                        rounds[server.name].append(figures)
        finally:
            for server in servers:
                server.end()
    print(f"files of 10 kB by {CONNECTIONS} connections, medians of {ROUNDS} rounds of {SECONDS} s in turns")
    ours = statistics.median(rate for rate, _ in rounds["imgcls"])
    for name, figures in rounds.items():
        rate, p99 = (statistics.median(column) for column in zip(*figures))
        print(f"{name:12} {rate:8.0f}/s   p99 {p99:6.1f} ms   imgcls/{name} {ours / rate:.2f}")


if __name__ == "__main__":
    main()
