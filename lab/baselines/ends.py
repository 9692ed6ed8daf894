"""An end with the codec that it would use itself. Pure.

all-cloud-in-budget   all on the cloud, the input as a JPEG of quality 90 where a calibration finds that within the
                      accuracy budget of the experiment, else as packed pixels, without loss
"""

from edgecloud.lab.baselines.inputs import JPEG, PACKED_PIXELS, BaselineInputs, Choice


def cloud_in_budget(inputs: BaselineInputs) -> Choice:
    """Point 0, and how its input travels."""
    codec = JPEG if JPEG in inputs.of_input else PACKED_PIXELS
    return Choice("all-cloud-in-budget", inputs.graph.only_inputs, 0, codec)
