"""Whole networks: eager torch, our ONNX Runtime back-end, and a bare session with the runtime's defaults.

Where OpenVINO is installed, also that back-end, and a bare model, compiled for just this size of input.

    python -m benchmarks.backends [--bundles DIR] [--rounds N] [NETWORK ...]

Interleaved: each round runs every one of them once, after a rest, so that what the machine does hits all alike. The
bundles are made in DIR, a folder of the cache, if they are not there, which takes up to a minute for each.
End to end, with a cloud and a link: benchmarks.end_to_end.
"""

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import permutations

from benchmarks.bundles import bundled, parser_of
from benchmarks.noise import Versus
from edgecloud.engine.executor import ONNXRUNTIME, OPENVINO, TORCH, Executor, make_executor
from edgecloud.models import registry
from edgecloud.models.bundle_network import BundleNetwork
from edgecloud.models.network import Array
from edgecloud.models.onnx_session import runtime
from edgecloud.models.openvino_session import DEVICE, core
from edgecloud.utils.extras import is_there
from edgecloud.utils.inference_utils import set_threads

NETWORKS = (
    *("torchvision:squeezenet1_1", "mobile_net", "torchvision:googlenet", "torchvision:efficientnet_b0"),
    *("torchvision:resnet18", "torchvision:densenet121", "alex_net", "vgg_net"),
)
REST_S, WARM_UP = 0.05, 3
BARE, BARE_MODEL = "bare session", "bare model"
PAIRS = ((TORCH, ONNXRUNTIME), (ONNXRUNTIME, BARE), (OPENVINO, BARE_MODEL), (OPENVINO, ONNXRUNTIME))
Run = Callable[[], object]


def runs_of(name: str, network: BundleNetwork) -> dict[str, Run]:
    """What is compared, ready to run."""
    x = network.example.array
    torch_network = registry.built_in(name).network(example=network.example)
    executors = {
        TORCH: make_executor(torch_network, "cpu", backend=TORCH),
        ONNXRUNTIME: make_executor(network, "cpu", backend=ONNXRUNTIME),
    }
    threads = executors[ONNXRUNTIME].machine.threads
    bare = {BARE: _bare(network, x, threads)}
    if is_there(OPENVINO):
        executors[OPENVINO] = make_executor(network, "cpu", backend=OPENVINO)
        bare[BARE_MODEL] = _bare_model(network, x, threads)
    return {key: _whole(executor, x) for key, executor in executors.items()} | bare


def _whole(executor: Executor, x: Array) -> Run:
    segment = executor.load(executor.network.graph.everything)
    return partial(executor.run, segment, [x])


def _bare(network: BundleNetwork, x: Array, threads: int) -> Run:
    """The same graph in a session that is only told how many threads there are."""
    library = runtime()
    part = network.bundle.part(network.graph.everything)
    options = library.SessionOptions()
    options.intra_op_num_threads = threads
    values = [library.OrtValue.ortvalue_from_numpy(network.bundle.weight(weight)) for weight in part.weights]
    options.add_external_initializers(list(part.weights), values)
    session = library.InferenceSession(part.model, options, providers=["CPUExecutionProvider"])
    return partial(session.run, None, {session.get_inputs()[0].name: x})


def _bare_model(network: BundleNetwork, x: Array, threads: int) -> Run:
    """The same in OpenVINO, for this size of input alone."""
    model = core().read_model(network.bundle.part(network.graph.everything, has_weights=True).model)
    model.reshape(list(x.shape))
    request = core().compile_model(model, DEVICE, {"INFERENCE_NUM_THREADS": threads}).create_infer_request()
    return partial(request.infer, [x])


def interleaved(runs: Mapping[str, Run], rounds: int) -> dict[str, list[float]]:
    """Seconds of each, round by round."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    orders = list(permutations(runs))  # each comes behind each other one as often: some leave warm caches behind
    random.Random(0).shuffle(orders)  # of which there may be more than rounds
    for count in range(WARM_UP + rounds):
        for name in orders[count % len(orders)]:
            run = runs[name]
            time.sleep(REST_S)
            began = time.perf_counter()
            run()
            if count >= WARM_UP:
                times[name].append(time.perf_counter() - began)
    return times


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print a table."""
    parser = parser_of(__doc__, NETWORKS)
    parser.add_argument("--rounds", type=int, default=18, metavar="N")
    parser.add_argument(
        "--threads", type=int, default=1, metavar="N", help="0: as many as a quota or an affinity allows"
    )
    options = parser.parse_args(argv)
    threads = set_threads(options.threads or None)
    print(f"threads: {threads}")
    columns = [TORCH, ONNXRUNTIME, BARE, *([OPENVINO, BARE_MODEL] if is_there(OPENVINO) else [])]
    pairs = [pair for pair in PAIRS if set(pair) <= set(columns)]
    _print_row(["network", *columns, *(" / ".join(pair) for pair in pairs)])
    _print_row(["---"] * (1 + len(columns) + len(pairs)))
    ratios: list[list[float]] = [[] for _ in pairs]
    for name in options.networks:
        s = interleaved(runs_of(name, bundled(name, options.bundles)), options.rounds)
        compared = [Versus.of(s[one], s[other]) for one, other in pairs]
        for kept, each in zip(ratios, compared, strict=True):
            kept.append(each.ratio.value)
        times = [f"{1e3 * statistics.median(s[key]):.2f} ms" for key in columns]
        _print_row([name, *times, *map(str, compared)])
    means = [f"{statistics.geometric_mean(each):.3f}" for each in ratios]
    _print_row(["geometric mean", *[""] * len(columns), *means])


def _print_row(cells: Sequence[str]) -> None:
    print("|", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
