#!/usr/bin/env python3
"""Compares imgcls with its peers in one interleaved run: `make bench-peers`.

Installs the peers from PyPI into target/peers/venv, writes networks of seeded weights in every format, and lets the engines take turns
so that a disturbance meets all of them. Prints medians and the median of the per-round ratios; writes target/bench-peers.json.
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys

from common import HERE, ROOT, WORK, build, inside_venv

PACKAGES = ["MNN", "numpy", "onnx", "onnxruntime", "openvino", "safetensors"]
CASES = {
    "resnet18": [(224, 1), (224, 8), (64, 1), (64, 64), (32, 1), (32, 64)],
    "efficientnet-lite0": [(224, 1), (224, 8)],
}
ENGINES = ["imgcls", "onnxruntime", "openvino", "mnn", "openvino-int8", "candle"]
BASES = ["onnxruntime", "openvino", "mnn", "openvino-int8", "candle"]


class Engine:
    """A process that computes when asked."""

    def __init__(self, name: str, peer: str, architecture: str, side: int, batch: int, threads: int):
        weights, onnx = WORK / f"{architecture}.safetensors", WORK / f"{architecture}-{side}-{batch}.onnx"
        own = {"imgcls": "kernel", "candle": "reference"}
        if name in own:
            command = [peer, own[name], architecture, weights]
        else:
            models = {"openvino-int8": onnx.with_suffix(".int8.onnx"), "mnn": onnx.with_suffix(".mnn"), "torch": weights}
            command = [sys.executable, HERE / "worker.py", name, models.get(name, onnx)]
        limits = {name: str(threads) for name in ("RAYON_NUM_THREADS", "OMP_NUM_THREADS")}
        command = [*map(str, command), str(side), str(batch), str(threads)]
        self.times: list[float] = []
        self.process = subprocess.Popen(command, env=os.environ | limits, text=True, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        while (line := self.process.stdout.readline()) != "READY\n":
            if not line:
                sys.exit(f"{' '.join(command)} failed")
        self.calls = max(1, min(20, int(150 / min(self.ask(2)))))

    def ask(self, calls: int) -> list[float]:
        print(calls, file=self.process.stdin, flush=True)
        return [float(time) for time in self.process.stdout.readline().split()]

    def round(self) -> None:
        # The first call finds cold caches.
        self.times.append(statistics.median(self.ask(self.calls + 1)[1:]))

    def stop(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def machine() -> str:
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines() if platform.system() == "Linux" else []
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return f"{name}, {os.cpu_count()} CPUs"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--only", nargs="+", metavar="SIDEbBATCH", help="for instance 224b1 64b64")
    parser.add_argument("--engines", nargs="+", default=ENGINES)
    parser.add_argument("--networks", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--torch", action="store_true", help="install and compare PyTorch too (gigabytes)")
    parser.add_argument("--peer", help="an already built benches/peer.rs")
    arguments = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    inside_venv(WORK / "venv", PACKAGES + ["torch", "torchvision"] * arguments.torch)

    engines = arguments.engines + (["torch"] if arguments.torch else [])
    peer = arguments.peer or build("peer")
    results = []
    print(f"{machine()}; milliseconds per call, and ratios to " + ", ".join(b for b in BASES if b in engines))
    for architecture, cases in CASES.items():
        if architecture not in arguments.networks:
            continue
        # The reference computes depthwise convolutions channel by channel, and PyTorch's zoo has no EfficientNet-Lite.
        compared = [e for e in engines if architecture == "resnet18" or e not in ("candle", "torch")]
        for side, batch in cases:
            if arguments.only and f"{side}b{batch}" not in arguments.only:
                continue
            write_models(architecture, side, batch, compared)
            for threads in arguments.threads:
                running = {name: Engine(name, peer, architecture, side, batch, threads) for name in compared}
                for _ in range(arguments.rounds):
                    for engine in running.values():
                        engine.round()
                for engine in running.values():
                    engine.stop()
                print(f"\n{architecture}, {side}x{side}, batch {batch}, {threads} thread{'s' * (threads > 1)}")
                show(running)
                results += [{"network": architecture, "engine": name, "size": side, "batch": batch, "threads": threads,
                             "median_ms": statistics.median(engine.times)} for name, engine in running.items()]
    (ROOT / "target" / "bench-peers.json").write_text(json.dumps(results, indent=1) + "\n")


def write_models(architecture: str, side: int, batch: int, engines: list[str]) -> None:
    """Writes what is not there yet."""
    import model

    weights, onnx = WORK / f"{architecture}.safetensors", WORK / f"{architecture}-{side}-{batch}.onnx"
    if not weights.exists():
        model.write_weights(architecture, weights)
    if not onnx.exists():
        model.write_onnx(architecture, weights, onnx, side, batch)
    if "openvino-int8" in engines and not onnx.with_suffix(".int8.onnx").exists():
        model.write_int8(onnx, onnx.with_suffix(".int8.onnx"), side, batch)
    if "mnn" in engines and not onnx.with_suffix(".mnn").exists():
        model.write_mnn(onnx, onnx.with_suffix(".mnn"))


def show(running: dict[str, Engine]) -> None:
    """Medians of the engines, the fastest first, and the medians of their ratios to others in each round."""
    for name, engine in sorted(running.items(), key=lambda item: statistics.median(item[1].times)):
        ratios = (statistics.median(a / b for a, b in zip(engine.times, running[base].times)) if base in running else None
                  for base in BASES)
        shown = " ".join("      -" if r is None else f"{r:7.3f}" for r in ratios)
        print(f"  {name:15} {statistics.median(engine.times):10.3f} (min {min(engine.times):10.3f}) {shown}", flush=True)


if __name__ == "__main__":
    main()
