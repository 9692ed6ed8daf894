"""Runs Python in which some libraries are missing, as where they are not installed."""

from tests.conftest import Finished, run_script

_BEGIN = """
import importlib, sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
"""
EDGE = ("torch", "torchvision", "sklearn", "skops", "matplotlib", "openpyxl", "xlrd", "onnx", "onnxscript", "jinja2")
"""What requirements-edge.txt has not."""


def run_without(names: tuple[str, ...], code: str, *arguments: str) -> Finished:
    """Run code; `arguments` are its sys.argv behind the first."""
    return run_script("-c", _BEGIN.format(names=names) + code, *arguments)


def call_without_torch(script: str, *arguments: str, nor: tuple[str, ...] = ()) -> Finished:
    """Call a script as on an edge that was installed with `make edge`, without some more libraries."""
    return run_without(
        (*EDGE, *nor), f"from edgecloud import {script}\nsys.exit({script}.main(sys.argv[1:]))", *arguments
    )
