"""Run one neural network together on a weak edge device and a cloud server."""

import os.path

__version__ = "0.1.0"
"""The one place of it: the wheel and `--version` take it from here."""

# In a checkout the packages lie beside this folder, at the top level; installed, they lie inside it.
_HERE = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120  pathlib takes its time
if not os.path.isfile(os.path.join(_HERE, "edge_api.py")):  # noqa: PTH113, PTH118
    __path__.append(os.path.dirname(_HERE))  # noqa: PTH120
