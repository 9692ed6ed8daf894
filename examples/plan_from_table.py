"""Plan from a table of numbers: no network, no torch, no cloud. The times may be yours, a paper's, or a guess."""

import edgecloud as ec

#          layer    reads              bytes of its output   seconds on the edge, on the cloud
table = [
    {"id": "input", "inputs": [], "out_bytes": 602_112, "edge_s": 0.0, "cloud_s": 0.0},
    {"id": "conv1", "inputs": ["input"], "out_bytes": 774_400, "edge_s": 0.10, "cloud_s": 0.005},
    {"id": "pool1", "inputs": ["conv1"], "out_bytes": 46_656, "edge_s": 0.02, "cloud_s": 0.001},
    {"id": "conv2", "inputs": ["pool1"], "out_bytes": 186_624, "edge_s": 0.25, "cloud_s": 0.012},
    {"id": "fc", "inputs": ["conv2"], "out_bytes": 4_000, "edge_s": 0.40, "cloud_s": 0.020},
]

for rate in ("200kbit", "5mbit", "100mbit", "1gbit"):
    plan = ec.plan(table, link=ec.Link(rate, rtt="20ms"))
    print(f"{rate:>8}  {plan}")

plan = ec.plan(table, link=ec.Link("5mbit", rtt="20ms"), goal=ec.Goal("energy"))
print(f"least energy: {plan.energy_j:.2f} J, edge runs {', '.join(plan.edge)}")

# the same layers on a device of twice the speed, and a cloud that is busy
faster = [row["edge_s"] / 2 for row in table]
plan = ec.plan(table, edge_times=faster, link=ec.Link("5mbit", rtt="20ms"), load=4, queue="30ms")
print(f"faster edge, busy cloud: {plan.predicted}")
