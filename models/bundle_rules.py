"""Whether the ONNX graph in a bundle that somebody else has made may be run, and makes what its layers say. Pure."""

from edgecloud.models import onnx_rules
from edgecloud.models.bundle import Bundle
from edgecloud.models.graph import Layer
from edgecloud.models.onnx_rules import Checked, Info, Limits, OnnxError
from edgecloud.utils.units import printable


def check(bundle: Bundle, limits: Limits | None = None, batch: int = 1) -> Checked:
    """Check the ONNX graph of a bundle for `batch` inputs at once, before any runtime sees it.

    What is returned says how many bytes and operations such a run needs. Raises OnnxError as `onnx_rules.check` does,
    also where a layer would not make the tensor that the bundle says.
    """
    layers, tensors = bundle.graph.layers, bundle.content.tensors
    given = {tensors[number]: _fed(layers[number], batch) for number in bundle.graph.inputs}
    checked = onnx_rules.check(bundle.model, given, limits or Limits(), bundle.weight_forms)
    for layer, tensor in zip(layers, tensors, strict=True):
        info = checked.infos.get(tensor)
        if batch > 1 and layer.out_shape[:1] != (1,):
            continue  # no batch ever crosses here
        wanted = (layer.out_shape[0] * batch, *layer.out_shape[1:]) if layer.out_shape else ()
        if info is None or not info.is_exact or (info.dtype, info.shape) != (layer.out_dtype, wanted):
            found = "nothing" if info is None else f"{info.dtype} of {info.shape}"
            name = printable(layer.id, 80)
            raise OnnxError(f"its layer {name!r} is said to make {layer.out_dtype} of {wanted}, and makes {found}")
    return checked


def _fed(layer: Layer, batch: int) -> Info:
    return Info(layer.out_dtype, layer.out_shape if batch == 1 else (batch * layer.out_shape[0], *layer.out_shape[1:]))
