#!/usr/bin/env python3
"""Pages, searches and counts over many results, by HTTP on the real binary: medians in milliseconds.

    tests/peers/results.py BINARY [ROWS] [DIRECTORY]

Fills a data directory as version 2 wrote it, which the binary then brings up to its own: that is measured too. A directory that is
named is kept, and used again as it is."""

import http.client
import json
import re
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
from pathlib import Path

ROUNDS = 21
LABELS = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def sort_key(name):
    """Natural order, as src/contract/order.rs has it; of lower case alone."""
    def number(match):
        digits = match.group().lstrip("0") or "0"
        return f"0{len(digits):02x}{digits}"

    return re.sub(r"[0-9]+", number, name) + "\x01" + name


def name(i, rows):
    if i % 2:
        return f"{i}_photo.jpg"
    return f"archive/{2000 + i * 20 // rows}/img_{i:07}.jpg"


def start(binary, data):
    begun = time.monotonic()
    process = subprocess.Popen(
        [binary, "serve", "--listen", "127.0.0.1:0", "--data-dir", data, "--set", "fleet.max=1"], stdout=subprocess.PIPE, text=True
    )
    address = process.stdout.readline().rsplit("/", 1)[-1].strip()
    return process, address, time.monotonic() - begun


def stop(process):
    process.terminate()
    process.wait(60)


def fill(database, rows):
    db = sqlite3.connect(database)
    for table in ("blocks", "labels", "folders"):
        db.execute(f"DROP TABLE IF EXISTS {table}")
    db.execute("DELETE FROM counters WHERE name IN ('uncertain', 'waiting')")
    top = json.dumps([{"label": label, "confidence": 0.1} for label in LABELS[:5]])

    def result(i):
        image = name(i, rows)
        if i % 50 == 0:
            label, outcome = None, '"error":"the file is no image: it ends early"'
        else:
            label, confidence = LABELS[i * i % 97 % 10], (i * 7919 % 1000) / 1000
            uncertain = ',"uncertain":true' if confidence < 0.05 else ""
            outcome = f'"label":"{label}","confidence":{confidence},"top":{top}{uncertain}'
        body = (
            f'{{"image":"{image}",{outcome},"location":"/images/{image}","model":"resnet18-cifar10@12345678",'
            f'"worker":"host-1234-5678","classified_at":"2026-01-02T03:04:05.678Z"}}'
        )
        return sort_key(image), image, label, f"{i:026X}", body

    images = ((name(i, rows), b"0" * 32, 1000, f"{i:x}", i) for i in range(rows + 1000))
    db.executemany("INSERT INTO images (name, digest, size, file, sequencer, created_at) VALUES (?, ?, ?, ?, ?, 0)", images)
    db.executemany(
        "INSERT INTO results (sort_key, image, label, sequencer, body) VALUES (?, ?, ?, ?, ?)", map(result, range(rows))
    )
    db.execute("PRAGMA user_version = 2")
    db.commit()
    db.close()


def median(address, path, parameters):
    path = f"{path}?{urllib.parse.urlencode(parameters)}"
    connection = http.client.HTTPConnection(address)
    times = []
    for _ in range(ROUNDS):
        begun = time.monotonic()
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
        times.append((time.monotonic() - begun) * 1000)
        assert answer.status == 200, body
    body = json.loads(body)
    told = f"{len(body['results'])} rows, {body.get('matches')}" if "results" in body else str(body["states"])
    told += "" if body.get("next") or "results" not in body else ", last page"
    print(f"{statistics.median(times):8.1f} ms  {max(times):8.1f} at most  {urllib.parse.unquote_plus(path)}: {told}", flush=True)


def questions(rows):
    middle = name(rows // 2 + 1, rows)
    pages = [
        {},
        {"after": middle},
        {"before": "~"},
        {"order": "newest"},
        {"order": "newest", "after": rows // 2},
        {"order": "newest", "before": 0},
        {"order": "confidence"},
        {"order": "confidence", "after": f"0.5:{rows}"},
        {"order": "confidence", "before": "3:0"},
    ]
    searches = [
        {"q": "777777"},
        {"q": "nothing at all"},
        {"q": ".jpg"},
        {"q": "7"},
        {"q": "zz"},
        {"q": "x"},
        {"q": "_p"},
        {"q": "cat"},
        {"q": "img_0999"},
        {"label": "cat"},
        {"label": "none"},
        {"state": "failed"},
        {"state": "uncertain"},
        {"state": "waiting"},
        {"folder": "archive/2010"},
        {"folder": "archive"},
        {"q": "55", "label": "dog", "folder": "archive/2019"},
        {"q": "9.jpg", "state": "failed", "label": "cat"},
    ]
    for page in pages:
        yield "/api/results", page
    for search in searches:
        yield "/api/results", search
        yield "/api/results", {**search, "after": middle}
        yield "/api/results", {**search, "before": "~"}
        for order in ("newest", "confidence"):
            yield "/api/results", {**search, "order": order}
        yield "/api/counts", search
    yield "/api/counts", {}


def main():
    binary, rows = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1_000_000
    with tempfile.TemporaryDirectory() as temporary:
        data = Path(sys.argv[3] if len(sys.argv) > 3 else temporary)
        if not (data / "imgcls.db").exists():
            stop(start(binary, data)[0])
            fill(data / "imgcls.db", rows)
        process, address, seconds = start(binary, data)
        try:
            print(f"{rows} rows; started in {seconds:.1f} s")
            for path, parameters in questions(rows):
                median(address, path, parameters)
        finally:
            stop(process)


if __name__ == "__main__":
    main()
