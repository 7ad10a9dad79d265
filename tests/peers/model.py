"""Networks of seeded weights, shaped like ImageNet's: safetensors for this project, ONNX for its peers."""

import pathlib
from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file, save_file

CLASSES = 1000


class Graph:
    """Layers with tensors of one input shape, batch norms left to the engine to fold as its users' would be."""

    def __init__(self, side: int, batch: int, epsilon: float):
        self.shape, self.epsilon = [batch, 3, side, side], epsilon
        self.nodes: list[onnx.NodeProto] = []
        # Name and shape of every tensor, in the order of the layers.
        self.tensors: dict[str, tuple[int, ...]] = {}

    def add(self, kind: str, inputs: list[str], **attributes) -> str:
        output = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def conv(self, x: str, name: str, norm: str, outputs: int, inputs: int, kernel: int, stride: int,
             pads: list[int], group: int = 1) -> str:
        self.tensors[f"{name}.weight"] = (outputs, inputs // group, kernel, kernel)
        parts = [f"{norm}.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
        self.tensors.update((part, (outputs,)) for part in parts)
        y = self.add("Conv", [x, f"{name}.weight"], kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=pads, group=group)
        return self.add("BatchNormalization", [y, *parts], epsilon=self.epsilon)

    def finish(self, x: str, name: str, features: int) -> None:
        self.tensors |= {f"{name}.weight": (CLASSES, features), f"{name}.bias": (CLASSES,)}
        x = self.add("Flatten", [self.add("GlobalAveragePool", [x])])
        self.nodes.append(helper.make_node("Gemm", [x, f"{name}.weight", f"{name}.bias"], ["y"], transB=1))


def resnet18(side: int, batch: int) -> Graph:
    graph = Graph(side, batch, 1e-5)

    def conv(x: str, name: str, norm: str, outputs: int, inputs: int, kernel: int, stride: int) -> str:
        return graph.conv(x, name, norm, outputs, inputs, kernel, stride, [kernel // 2] * 4)

    x = graph.add("Relu", [conv("x", "conv1", "bn1", 64, 3, 7, 2)])
    x = graph.add("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    inputs = 64
    for stage, outputs in enumerate((64, 128, 256, 512), 1):
        for block in range(2):
            name, stride = f"layer{stage}.{block}", 1 if inputs == outputs else 2
            y = graph.add("Relu", [conv(x, f"{name}.conv1", f"{name}.bn1", outputs, inputs, 3, stride)])
            y = conv(y, f"{name}.conv2", f"{name}.bn2", outputs, outputs, 3, 1)
            if stride == 2:
                x = conv(x, f"{name}.downsample.0", f"{name}.downsample.1", outputs, inputs, 1, stride)
            x = graph.add("Relu", [graph.add("Add", [y, x])])
            inputs = outputs
    graph.finish(x, "fc", inputs)
    return graph


def efficientnet_lite0(side: int, batch: int) -> Graph:
    graph = Graph(side, batch, 1e-3)
    # Relu6 is written as its exporters write it.
    graph.constants = {"zero": np.float32(0), "six": np.float32(6)}

    def conv(x: str, name: str, norm: str, outputs: int, inputs: int, kernel: int, stride: int, group: int = 1) -> str:
        nonlocal side
        # TensorFlow's SAME.
        zeros = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        side = -(-side // stride)
        pads = [zeros // 2] * 2 + [zeros - zeros // 2] * 2
        return graph.conv(x, name, norm, outputs, inputs, kernel, stride, pads, group)

    def relu6(x: str) -> str:
        return graph.add("Clip", [x, "zero", "six"])

    x = relu6(conv("x", "_conv_stem", "_bn0", 32, 3, 3, 2))
    inputs, index = 32, 0
    # Blocks, side of the filter, stride of the first, how many times it widens, outputs.
    for repeats, kernel, stride, times, outputs in ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80),
                                                    (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320)):
        for repeat in range(repeats):
            name, middle, stride = f"_blocks.{index}", inputs * times, 1 if repeat else stride
            y = relu6(conv(x, f"{name}._expand_conv", f"{name}._bn0", middle, inputs, 1, 1)) if times > 1 else x
            y = relu6(conv(y, f"{name}._depthwise_conv", f"{name}._bn1", middle, middle, kernel, stride, middle))
            y = conv(y, f"{name}._project_conv", f"{name}._bn2", outputs, middle, 1, 1)
            x = graph.add("Add", [y, x]) if stride == 1 and inputs == outputs else y
            inputs, index = outputs, index + 1
    graph.finish(relu6(conv(x, "_conv_head", "_bn1", 1280, inputs, 1, 1)), "_fc", 1280)
    return graph


ARCHITECTURES: dict[str, Callable[[int, int], Graph]] = {"resnet18": resnet18, "efficientnet-lite0": efficientnet_lite0}


def write_weights(architecture: str, path: pathlib.Path) -> None:
    random = np.random.default_rng(1)
    weights = {}
    for name, shape in ARCHITECTURES[architecture](32, 1).tensors.items():
        if len(shape) > 1:
            weights[name] = random.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
        elif name.endswith(".weight"):
            weights[name] = random.uniform(0.5, 1, shape)
        elif name.endswith(".running_var"):
            weights[name] = random.uniform(0.75, 1.25, shape)
        else:
            weights[name] = random.normal(0, 0.1, shape)
    save_file({name: value.astype(np.float32) for name, value in weights.items()}, path)


def write_onnx(architecture: str, weights: pathlib.Path, path: pathlib.Path, side: int, batch: int) -> None:
    """The network for one input shape."""
    network = ARCHITECTURES[architecture](side, batch)
    tensors = load_file(weights)
    constants = [numpy_helper.from_array(value, name) for name, value in getattr(network, "constants", {}).items()]
    graph = helper.make_graph(
        network.nodes,
        architecture,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, network.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, CLASSES])],
        [numpy_helper.from_array(tensors[name], name) for name in network.tensors] + constants,
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


def write_mnn(float_path: pathlib.Path, path: pathlib.Path) -> None:
    """The same network as MNN reads it."""
    import subprocess
    import sys

    converter = pathlib.Path(sys.executable).with_name("mnnconvert")
    command = [converter, "-f", "ONNX", "--modelFile", float_path, "--MNNModel", path, "--bizCode", "MNN"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
