"""Plan along a trace of a link that changes, and record a trace of the link that there is."""

import tempfile
from pathlib import Path

import edgecloud as ec

TRACE = [(0, 12.0), (5, 1.0), (10, 0.1), (15, 0.02), (20, 0.3), (25, 12.0)]  # seconds, mbit

net = ec.load("mnist")
measured = ec.profile(net)  # seconds of every layer on this machine: here the cloud's
slow = [50 * seconds for seconds in measured.seconds]  # an edge of a fiftieth of the speed

print("a plan for each moment of a trace:")
for seconds, mbit in TRACE:
    plan = ec.plan(net, slow, measured, ec.Link(f"{mbit}mbit", rtt="30ms"))
    print(f"{seconds:>4} s {mbit:>6} mbit  {plan}")

with tempfile.TemporaryDirectory() as folder, ec.Cloud(networks=[net]) as cloud:
    path = Path(folder, "seen.csv")  # python -m lab.relay --trace plays such a file
    options = {"point": 1, "codec": "raw", "emulate_link": "5mbit,20ms", "record": path}
    with ec.Edge(net, cloud=cloud.address, **options) as edge:
        for _ in edge.map([net.sample] * 10):
            pass
    lines = path.read_text().splitlines()
print(f"recorded {len(lines) - 1} estimates of a link of 5 mbit; the last ones:")
print("\n".join([lines[0], *lines[-3:]]))
