"""Whether the ONNX graph in a bundle that somebody else has made may be run, and makes what its layers say. Pure."""

from edgecloud.models import onnx_rules
from edgecloud.models.bundle import Bundle
from edgecloud.models.graph import INPUT
from edgecloud.models.onnx_rules import Checked, Info, Limits, OnnxError
from edgecloud.utils.units import printable


def check(bundle: Bundle, limits: Limits | None = None, batch: int = 1) -> Checked:
    """Check the ONNX graph of a bundle for `batch` inputs at once, before any runtime sees it.

    What is returned says how many bytes and operations such a run needs. Raises OnnxError as `onnx_rules.check` does,
    also where a layer would not make the tensor that the bundle says.
    """
    layers, tensors = bundle.graph.layers, bundle.content.tensors
    shape = layers[INPUT].out_shape
    given = {tensors[INPUT]: Info(layers[INPUT].out_dtype, (batch, *shape[1:]))}
    checked = onnx_rules.check(bundle.model, given, limits or Limits(), bundle.weight_forms)
    for layer, tensor in zip(layers, tensors, strict=True):
        info = checked.infos.get(tensor)
        batched = (batch, *layer.out_shape[1:]) if bundle.content.is_batched else layer.out_shape
        wanted = layer.out_shape if batch == 1 else batched
        if info is None or not info.is_exact or (info.dtype, info.shape) != (layer.out_dtype, wanted):
            found = "nothing" if info is None else f"{info.dtype} of {info.shape}"
            name = printable(layer.id, 80)
            raise OnnxError(f"its layer {name!r} is said to make {layer.out_dtype} of {wanted}, and makes {found}")
    return checked
