"""TensorRT on an NVIDIA GPU. Not run yet: no machine with it was at hand; the calls are those of its documentation."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

from se_nas.core.errors import CostError
from se_nas.data.accelerators import synchronize
from se_nas.runtimes.files import write_network
from se_nas.space.stopwatch import Call, Runtime


def tensorrt_runtime(device: torch.device) -> Runtime:
    """An engine built from the ONNX file for the shape of the batch, in 32-bit floats (TF32 where TensorRT likes)."""
    import tensorrt as trt  # where it is installed

    logger = trt.Logger(trt.Logger.ERROR)

    def open_network(network: nn.Module, images: Tensor) -> Call:
        builder = trt.Builder(logger)
        definition = builder.create_network(0)
        parser = trt.OnnxParser(definition, logger)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "network.onnx")
            write_network(network, tuple(images.shape[1:]), file, "onnx")
            if not parser.parse(file.read_bytes()):
                raise CostError(f"TensorRT cannot read the network: {parser.get_error(0).desc()}")
        profile = builder.create_optimization_profile()
        source, target = definition.get_input(0).name, definition.get_output(0).name
        profile.set_shape(source, tuple(images.shape), tuple(images.shape), tuple(images.shape))
        configuration = builder.create_builder_config()
        configuration.add_optimization_profile(profile)
        plan = builder.build_serialized_network(definition, configuration)
        if plan is None:
            raise CostError("TensorRT cannot build an engine for the network", hint="measure in another runtime")
        engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
        context = engine.create_execution_context()
        given = images.to(device).contiguous()
        context.set_input_shape(source, tuple(given.shape))
        output = torch.empty(tuple(context.get_tensor_shape(target)), device=device)
        context.set_tensor_address(source, given.data_ptr())
        context.set_tensor_address(target, output.data_ptr())
        stream = torch.cuda.current_stream(device)

        def call() -> object:
            # The tensors and the engine must live as long as the call.
            return context.execute_async_v3(stream.cuda_stream), engine, given, output

        return call

    return Runtime(
        name="tensorrt",
        description=f"tensorrt {trt.__version__}",
        open=open_network,
        wait=lambda: synchronize(device),
    )
