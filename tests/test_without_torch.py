"""An edge without torch: what it imports, and what it says where torch is needed after all."""

from tests.missing import EDGE, run_without

WITHOUT = (*EDGE, "scipy")
SCRIPTS = ("edge_api", "tasks_edge_api", "cloud_api", "tasks_cloud_api", "deployment")
UNDERNEATH = (
    *("client.inference", "client.points", "client.edge_client", "engine.calibration", "engine.identity"),
    *("engine.packing", "engine.times", "models.network", "models.preprocessing", "models.registry", "net.codec"),
    *("net.server", "partition.bottleneck", "partition.decide", "partition.schedule", "tasks.pipeline"),
    *("tasks.task_runner", "library.network", "library.edge", "library.cloud", "server.cloud", "tools.whatif"),
    *("tools.survey", "predictor.kernels"),
)


def test_no_module_of_an_edge_or_a_cloud_imports_torch() -> None:
    modules = [f"edgecloud.{name}" for name in (*SCRIPTS, *UNDERNEATH)]
    code = f"for name in {modules}:\n    importlib.import_module(name)\nprint(len({modules}))"
    ended = run_without(WITHOUT, code)
    assert (ended.code, ended.stdout, ended.stderr) == (0, f"{len(modules)}\n", "")


def test_what_needs_no_network_works() -> None:
    """--help and --version of every script, a wrong flag, a name that there is not, the registry."""
    code = f"""
from edgecloud.models import inputs, registry
for name in registry.NAMES:
    entry = registry.lookup(name)
    if entry.takes == inputs.SPEECH:
        continue  # its sample is made by scipy
    assert inputs.sample(entry.sample, entry.preprocess).array.shape == (1, *entry.input_shape)
for name in {SCRIPTS}:
    script = importlib.import_module(f"edgecloud.{{name}}")
    for argv in (["--help"], ["--version"], ["--nonsense"]):
        try:
            code = script.main(argv)
        except SystemExit as error:
            code = error.code or 0
        assert code == (2 if argv == ["--nonsense"] else 0), (name, argv, code)
from edgecloud import edge_api
assert edge_api.main(["-t", "no_such_net"]) == 2
"""
    ended = run_without(WITHOUT, code)
    assert ended.code == 0, ended.stderr
    assert "unknown network 'no_such_net'" in ended.stderr


def test_a_network_of_torch_says_in_one_line_how_to_get_on_without() -> None:
    code = """
from edgecloud import edge_api
for argv in (["-t", "le_net"], ["-t", "alex_net", "--point", "0"], ["-t", "torchvision:resnet18"], ["-t", "FILE.py"]):
    print(argv[1], edge_api.main(argv))
"""
    ended = run_without(WITHOUT, code)
    assert ended.stdout.split() == ["le_net", "1", "alex_net", "1", "torchvision:resnet18", "1", "FILE.py", "2"]
    lines = ended.stderr.splitlines()
    assert len(lines) == 4
    for line in lines[:3]:
        assert "needs torch" in line
        assert "deployment.py export -t" in line
        assert "FILE.bundle" in line
