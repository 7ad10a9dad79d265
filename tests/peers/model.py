"""A ResNet-18 of seeded weights, shaped like ImageNet's: safetensors for this project, ONNX for its peers."""

import pathlib

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file, save_file

STAGES = (64, 128, 256, 512)


def convolutions():
    """Name of the convolution and of its batch norm, outputs, inputs, side of the filter, in torchvision's order."""
    yield "conv1", "bn1", 64, 3, 7
    inputs = 64
    for stage, outputs in enumerate(STAGES, 1):
        for block in range(2):
            name = f"layer{stage}.{block}"
            yield f"{name}.conv1", f"{name}.bn1", outputs, inputs, 3
            yield f"{name}.conv2", f"{name}.bn2", outputs, outputs, 3
            if inputs != outputs:
                yield f"{name}.downsample.0", f"{name}.downsample.1", outputs, inputs, 1
            inputs = outputs


def write_weights(path: pathlib.Path) -> None:
    random = np.random.default_rng(1)
    weights = {}
    for conv, norm, outputs, inputs, kernel in convolutions():
        spread = np.sqrt(2 / (inputs * kernel * kernel))
        weights[f"{conv}.weight"] = random.normal(0, spread, (outputs, inputs, kernel, kernel))
        weights[f"{norm}.weight"] = random.uniform(0.5, 1, outputs)
        weights[f"{norm}.bias"] = random.normal(0, 0.1, outputs)
        weights[f"{norm}.running_mean"] = random.normal(0, 0.1, outputs)
        weights[f"{norm}.running_var"] = random.uniform(0.75, 1.25, outputs)
    weights["fc.weight"] = random.normal(0, 0.04, (1000, 512))
    weights["fc.bias"] = random.normal(0, 0.04, 1000)
    save_file({name: value.astype(np.float32) for name, value in weights.items()}, path)


def write_onnx(weights_path: pathlib.Path, path: pathlib.Path, side: int, batch: int) -> None:
    """The network for one input shape, batch norms left to the engine to fold as its users' would be."""
    weights = load_file(weights_path)
    nodes = []

    def add(kind: str, inputs: list[str], **attributes) -> str:
        output = f"t{len(nodes)}"
        nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def conv(x: str, name: str, norm: str, stride: int) -> str:
        kernel = weights[f"{name}.weight"].shape[2]
        y = add("Conv", [x, f"{name}.weight"], kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[kernel // 2] * 4)
        parts = ("weight", "bias", "running_mean", "running_var")
        return add("BatchNormalization", [y, *(f"{norm}.{part}" for part in parts)], epsilon=1e-5)

    x = add("Relu", [conv("x", "conv1", "bn1", 2)])
    x = add("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    for stage in range(1, 5):
        for block in range(2):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = add("Relu", [conv(x, f"{name}.conv1", f"{name}.bn1", stride)])
            y = conv(y, f"{name}.conv2", f"{name}.bn2", 1)
            if stride == 2:
                x = conv(x, f"{name}.downsample.0", f"{name}.downsample.1", stride)
            x = add("Relu", [add("Add", [y, x])])
    x = add("Flatten", [add("GlobalAveragePool", [x])])
    nodes.append(helper.make_node("Gemm", [x, "fc.weight", "fc.bias"], ["y"], transB=1))
    graph = helper.make_graph(
        nodes,
        "resnet18",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, side, side])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 1000])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.checker.check_model(model)
    onnx.save(model, path)


def write_int8(float_path: pathlib.Path, path: pathlib.Path, side: int, batch: int) -> None:
    """The same network quantised: 8-bit activations, 8-bit weights per channel."""
    from onnxruntime import quantization as q

    class Noise(q.CalibrationDataReader):
        def __init__(self):
            random = np.random.default_rng(2)
            self.left = [random.normal(size=(batch, 3, side, side)).astype(np.float32) for _ in range(2)]

        def get_next(self):
            return {"x": self.left.pop()} if self.left else None

    prepared = path.with_suffix(".prepared.onnx")
    q.shape_inference.quant_pre_process(float_path, prepared, skip_symbolic_shape=True)
    q.quantize_static(prepared, path, Noise(), q.QuantFormat.QDQ, per_channel=True,
                      activation_type=q.QuantType.QUInt8, weight_type=q.QuantType.QInt8)
    prepared.unlink()
