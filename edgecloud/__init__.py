"""Run one neural network together on a weak edge device and a cloud server."""

import os.path

# In a checkout the packages lie beside this folder, at the top level; installed, they lie inside it.
_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120  pathlib takes its time
if os.path.isfile(os.path.join(_ROOT, "edge_api.py")):  # noqa: PTH113, PTH118
    __path__.append(_ROOT)
