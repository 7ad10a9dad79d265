#!/usr/bin/env python3
"""Compares imgcls with its peers in one interleaved run: `make bench-peers`.

Installs the peers from PyPI into target/peers/venv, writes one ResNet-18 of seeded weights in every format, and lets the engines take turns
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
import venv

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
WORK = ROOT / "target" / "peers"
PACKAGES = ["numpy", "onnx", "onnxruntime", "openvino", "safetensors"]
CASES = [(224, 1), (224, 8), (64, 1), (64, 64), (32, 1), (32, 64)]
ENGINES = ["imgcls", "onnxruntime", "openvino", "openvino-int8", "candle"]
BASES = ["onnxruntime", "openvino", "openvino-int8", "candle"]


def inside_venv(torch: bool) -> None:
    """Makes the environment, and starts this script again in it."""
    directory = WORK / "venv"
    python = directory / "bin" / "python"
    if pathlib.Path(sys.prefix) == directory:
        return
    if not python.exists():
        venv.create(directory, with_pip=True)
    packages = PACKAGES + (["torch", "torchvision"] if torch else [])
    subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    os.execv(python, [str(python), *sys.argv])


def build_peer() -> str:
    """Builds benches/peer.rs; cargo says where it put it."""
    command = ["cargo", "bench", "--bench", "peer", "--no-run", "--message-format=json"]
    lines = subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    built = (json.loads(line) for line in lines)
    return next(m["executable"] for m in built if m.get("target", {}).get("name") == "peer" and m.get("executable"))


class Engine:
    """A process that computes when asked."""

    def __init__(self, name: str, peer: str, side: int, batch: int, threads: int):
        weights, onnx = WORK / "resnet18.safetensors", WORK / f"resnet18-{side}-{batch}.onnx"
        own = {"imgcls": "kernel", "candle": "reference"}
        if name in own:
            command = [peer, own[name], weights]
        else:
            model = {"openvino-int8": onnx.with_suffix(".int8.onnx"), "torch": weights}.get(name, onnx)
            command = [sys.executable, HERE / "worker.py", name, model]
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
    parser.add_argument("--torch", action="store_true", help="install and compare PyTorch too (gigabytes)")
    parser.add_argument("--peer", help="an already built benches/peer.rs")
    arguments = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    inside_venv(arguments.torch)

    import model

    engines = arguments.engines + (["torch"] if arguments.torch else [])
    peer = arguments.peer or build_peer()
    if not (WORK / "resnet18.safetensors").exists():
        model.write_weights(WORK / "resnet18.safetensors")
    results = []
    print(f"{machine()}; milliseconds per call, and ratios to " + ", ".join(b for b in BASES if b in engines))
    for side, batch in CASES:
        if arguments.only and f"{side}b{batch}" not in arguments.only:
            continue
        onnx = WORK / f"resnet18-{side}-{batch}.onnx"
        if not onnx.exists():
            model.write_onnx(WORK / "resnet18.safetensors", onnx, side, batch)
        if "openvino-int8" in engines and not onnx.with_suffix(".int8.onnx").exists():
            model.write_int8(onnx, onnx.with_suffix(".int8.onnx"), side, batch)
        for threads in arguments.threads:
            running = {name: Engine(name, peer, side, batch, threads) for name in engines}
            for _ in range(arguments.rounds):
                for engine in running.values():
                    engine.round()
            for engine in running.values():
                engine.stop()
            print(f"\n{side}x{side}, batch {batch}, {threads} thread{'s' * (threads > 1)}")
            for name, engine in sorted(running.items(), key=lambda item: statistics.median(item[1].times)):
                ratios = (statistics.median(a / b for a, b in zip(engine.times, running[base].times)) if base in running else None for base in BASES)
                median = statistics.median(engine.times)
                shown = " ".join("      -" if r is None else f"{r:7.3f}" for r in ratios)
                print(f"  {name:15} {median:10.3f} (min {min(engine.times):10.3f}) {shown}", flush=True)
                results.append({"engine": name, "size": side, "batch": batch, "threads": threads, "median_ms": median})
    (ROOT / "target" / "bench-peers.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
