"""One peer of `pipeline.py`: labels the photos of a directory by processes of one thread each, as a careful script would.

Arguments: decoder+engine, network, shorter side after the resize, side of the input, processes, directory.
"""

import pathlib
import subprocess
import sys

import numpy
from PIL import Image, ImageOps

MEAN = numpy.array([0.485, 0.456, 0.406], numpy.float32)
STD = numpy.array([0.229, 0.224, 0.225], numpy.float32)


def load(path: str, draft: bool, resize: int, side: int) -> numpy.ndarray:
    """torchvision's Resize, CenterCrop, ToTensor and Normalize."""
    image = Image.open(path)
    if draft:
        # As small as will do; imgcls leaves twice that, for the filter to decide how the picture is smoothed.
        image.draft("RGB", (resize, resize))
    image = ImageOps.exif_transpose(image).convert("RGB")
    width, height = image.size
    short = min(width, height)
    image = image.resize((resize * width // short, resize * height // short), Image.Resampling.BILINEAR)
    left, top = round((image.width - side) / 2), round((image.height - side) / 2)
    pixels = numpy.asarray(image.crop((left, top, left + side, top + side)), numpy.float32)
    return ((pixels / 255 - MEAN) / STD).transpose(2, 0, 1)[None]


def network(engine: str, model: str):
    """A function from an input to logits, on one thread."""
    if engine == "onnxruntime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return lambda x: session.run(None, {"x": x})[0]
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(model), "CPU", settings)
    return lambda x: compiled(x)[0]


def main() -> None:
    name, model, resize, side, processes, target = sys.argv[1:7]
    if pathlib.Path(target).is_dir():
        # This process only deals out the work, every n-th photo to each.
        files = sorted(map(str, pathlib.Path(target).iterdir()))
        shares = [files[index :: int(processes)] for index in range(int(processes))]
        command = [sys.executable, __file__, name, model, resize, side, processes]
        started = [subprocess.Popen([*command, *share]) for share in shares if share]
        sys.exit(max(process.wait() for process in started))
    decoder, engine = name.split("+")
    forward = network(engine, model)
    for path in sys.argv[6:]:
        print(path, forward(load(path, decoder == "draft", int(resize), int(side))).argmax())


if __name__ == "__main__":
    main()
