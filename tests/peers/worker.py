"""One peer: loads a network, then answers each line `k` on stdin with `k` times in milliseconds. Arguments: engine, model, side, batch, threads."""

import sys
import time

import numpy as np

engine, model, side, batch, threads = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6])
x = np.random.default_rng(0).normal(size=(batch, 3, side, side)).astype(np.float32)

if engine == "onnxruntime":
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    forward = lambda: session.run(None, {"x": x})
elif engine.startswith("openvino"):
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
    # Without this, OpenVINO computes f32 networks in bf16 where the processor can.
    if engine == "openvino":
        settings["INFERENCE_PRECISION_HINT"] = "f32"
    request = core.compile_model(core.read_model(model), "CPU", settings).create_infer_request()
    request.set_input_tensor(openvino.Tensor(x))
    forward = request.infer
elif engine == "mnn":
    import MNN

    runtime = MNN.nn.create_runtime_manager(({"backend": "CPU", "numThread": threads, "precision": "high"},))
    module = MNN.nn.load_module_from_file(model, ["x"], ["y"], runtime_manager=runtime)
    images = MNN.expr.const(x, list(x.shape), MNN.expr.NCHW)

    def forward():
        # Asking for the values is what computes them.
        return module.forward([images])[0].read()
elif engine == "torch":
    import torch
    import torchvision
    from safetensors.torch import load_file

    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    network = torchvision.models.resnet18().eval()
    network.load_state_dict(load_file(model), strict=False)
    network = network.to(memory_format=torch.channels_last)
    images = torch.from_numpy(x).to(memory_format=torch.channels_last)
    forward = lambda: network(images)
else:
    sys.exit(f"unknown engine {engine}")

for _ in range(3):
    forward()
print("READY", flush=True)
for line in sys.stdin:
    times = []
    for _ in range(int(line)):
        start = time.perf_counter()
        forward()
        times.append(f"{(time.perf_counter() - start) * 1e3:.4f}")
    print(" ".join(times), flush=True)
