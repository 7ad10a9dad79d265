#!/usr/bin/env python3
"""Compares whole processes, from files to labels, in one interleaved run: `make bench-pipeline`.

`imgcls classify` and scripts of two processes (Pillow, with and without its scaled decoding of JPEG, + ONNX Runtime; Pillow + OpenVINO)
label the same photos in turns, on as many threads as there are cores. Installs the peers from PyPI into target/peers/pipeline, makes the
photos of the free pictures in scikit-image, and networks of seeded weights. Prints medians of seconds and of the ratios of each round.
"""

import argparse
import hashlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

import common
from common import HERE, ROOT

WORK = common.WORK / "pipeline"
PACKAGES = ["numpy", "onnx", "onnxruntime", "openvino", "pillow", "safetensors", "scikit-image"]
PEERS = ["pillow+onnxruntime", "draft+onnxruntime", "pillow+openvino"]
PICTURES = ["astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png", "hubble_deep_field.jpg"]
SMALL, LARGE = (500, 375), (4032, 3024)  # width, height
# How many photos of each size.
CASES = {"500x375": {SMALL: 200}, "12 megapixels": {LARGE: 16}, "mixture": {SMALL: 80, LARGE: 8}}
COPIES = 4  # of each photo, so that no process is measured by its start
NETWORKS = {64: 64, 224: 256}  # side of the input: shorter side after the resize


def make_photo(path: pathlib.Path, picture, size: tuple[int, int], seed: int) -> None:
    """A part of a picture, enlarged and with a sensor's grain, in a camera's quality."""
    import numpy
    from PIL import Image

    random = numpy.random.default_rng(seed)
    scale = random.uniform(0.6, 1) * min(picture.width / size[0], picture.height / size[1])
    width, height = size[0] * scale, size[1] * scale
    left, top = random.uniform(0, picture.width - width), random.uniform(0, picture.height - height)
    part = picture.resize(size, Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))
    grain = random.normal(0, 5.5, (size[1], size[0], 1))
    photo = Image.fromarray((numpy.asarray(part) + grain).clip(0, 255).astype(numpy.uint8))
    photo.save(path, quality=90, subsampling=2)


def make_photos() -> dict[str, pathlib.Path]:
    """A directory of photos for each case."""
    import skimage
    from PIL import Image

    free = pathlib.Path(skimage.__file__).parent / "data"
    pictures = [Image.open(free / name).convert("RGB") for name in PICTURES]
    directories = {}
    for case, sizes in CASES.items():
        directories[case] = WORK / "photos" / case.replace(" ", "-")
        directories[case].mkdir(parents=True, exist_ok=True)
        photos = [size for size, count in sizes.items() for _ in range(count)]
        for index, size in enumerate(photos):
            # Sizes in turn, as they come from people.
            path = directories[case] / f"{index * 37 % len(photos):04}.jpg"
            if not path.exists():
                make_photo(path, pictures[index % len(pictures)], size, index)
            for copy in range(1, COPIES):
                if not (other := path.with_name(f"{path.stem}-{copy}.jpg")).exists():
                    os.link(path, other)
    return directories


def make_networks() -> None:
    """For each input a bundle for imgcls and the same network as ONNX."""
    import model

    weights = WORK / "resnet18.safetensors"
    if not weights.exists():
        model.write_weights("resnet18", weights)
    for side, resize in NETWORKS.items():
        bundle = WORK / f"bundle-{side}"
        bundle.mkdir(exist_ok=True)
        (bundle / "weights.safetensors").write_bytes(weights.read_bytes())
        (bundle / "labels.txt").write_text("".join(f"class {n}\n" for n in range(model.CLASSES)))
        card = (ROOT / "assets" / "model" / "model.toml").read_text().splitlines()
        own = {"name": f'"pipeline-{side}"', "input": side, "resize": resize,
               "sha256": f'"{hashlib.sha256(weights.read_bytes()).hexdigest()}"'}
        lines = [f"{key} = {own.get(key, value)}" for key, _, value in (line.partition(" = ") for line in card) if value]
        (bundle / "model.toml").write_text("\n".join(lines) + "\n")
        if not (onnx := WORK / f"resnet18-{side}-1.onnx").exists():
            model.write_onnx("resnet18", weights, onnx, side, 1)


def compare_decoding(directory: pathlib.Path, rounds: int, photos: str) -> None:
    """From the bytes of large photos to what a network of 64 sees, on one thread: imgcls beside libjpeg-turbo in Pillow, which decodes
    at 1/8 and does nothing else, or at full size."""
    import io

    from PIL import Image

    files = sorted(directory.glob("????.jpg"))
    data = [file.read_bytes() for file in files]

    def pillow(size: tuple[int, int] | None) -> float:
        start = time.perf_counter()
        for photo in data:
            image = Image.open(io.BytesIO(photo))
            if size:
                image.draft("RGB", size)
            image.load()
        return (time.perf_counter() - start) * 1e3

    command = [photos, str(NETWORKS[64]), "64", *map(str, files)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as own:
        own.stdout.readline()

        def imgcls() -> float:
            own.stdin.write("\n")
            own.stdin.flush()
            return float(own.stdout.readline())

        times = [(imgcls(), pillow((LARGE[0] // 8, LARGE[1] // 8)), pillow(None)) for _ in range(rounds + 1)][1:]
        own.stdin.close()
    own_ms, eighth, full = (statistics.median(column) / len(files) for column in zip(*times))
    ratio = statistics.median(a / b for a, b, _ in times)
    print(f"12 megapixels to 64x64, ms: imgcls {own_ms:.1f}  libjpeg-turbo at 1/8 {eighth:.1f} (ratio {ratio:.2f})  whole {full:.1f}")


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed\n{done.stderr}")
    return time.perf_counter() - start


def commands(binary: str, directory: pathlib.Path, side: int, processes: int) -> dict[str, list[str]]:
    peer = [sys.executable, str(HERE / "pipeline_peer.py")]
    network = [str(WORK / f"resnet18-{side}-1.onnx"), str(NETWORKS[side]), str(side), str(processes), str(directory)]
    own = [binary, "classify", "--json", "--model", str(WORK / f"bundle-{side}"), "--threads", str(processes), str(directory)]
    return {"imgcls": own} | {name: [*peer, name, *network] for name in PEERS}


def compare(directories: dict[str, pathlib.Path], binary: str, rounds: int, processes: int) -> list[dict]:
    rows = []
    for case, directory in directories.items():
        for side in NETWORKS:
            times: dict[str, list[float]] = {}
            for _ in range(rounds):
                for name, command in commands(binary, directory, side, processes).items():
                    times.setdefault(name, []).append(seconds(command))
            row = {"photos": case, "input": side, "imgcls": statistics.median(times["imgcls"])}
            for name in PEERS:
                row[name] = statistics.median(times[name])
                row[f"to {name}"] = statistics.median(a / b for a, b in zip(times["imgcls"], times[name]))
            rows.append(row)
            peers = "  ".join(f"{name} {row[name]:.2f} s (ratio {row[f'to {name}']:.2f})" for name in PEERS)
            print(f"{case} at {side}: imgcls {row['imgcls']:.2f} s  {peers}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--binary", help="imgcls; built by cargo if left out")
    parser.add_argument("--photos", help="an already built benches/photos.rs")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="threads or processes of each")
    arguments = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    common.inside_venv(WORK / "venv", PACKAGES)
    binary = arguments.binary
    if binary is None:
        subprocess.run(["cargo", "build", "--release", "--locked"], check=True, cwd=ROOT)
        binary = str(ROOT / "target" / "release" / "imgcls")
    make_networks()
    directories = make_photos()
    compare_decoding(directories["12 megapixels"], arguments.rounds, arguments.photos or common.build("photos"))
    rows = compare({case: directories[case] for case in arguments.only}, binary, arguments.rounds, arguments.processes)
    (WORK / "bench-pipeline.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
