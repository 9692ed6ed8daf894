"""Many inferences: one after the other, then pipelined, so that edge, link and cloud work at once."""

import time

import numpy as np

import edgecloud as ec

TASKS = 40

net = ec.load("le_net")
digits = [np.roll(net.sample, shift, axis=-1) for shift in range(TASKS)]

with (
    ec.Cloud(networks=[net]) as cloud,
    ec.Edge(net, cloud=cloud.address, point=3, emulate_link="2mbit,40ms") as edge,
):
    print(f"plan  {edge.plan}")
    began = time.perf_counter()
    serial = [edge(digit) for digit in digits]
    serial_s = time.perf_counter() - began

    began = time.perf_counter()
    piped = list(edge.map(digits))  # in order
    piped_s = time.perf_counter() - began

    future = edge.submit(digits[0])  # or one at a time, as a future
    print(f"a future answers {future.result().outputs[0].argmax()}")

print(f"one after the other: {TASKS / serial_s:.1f} a second")
print(f"pipelined:           {TASKS / piped_s:.1f} a second")
same = sum(np.array_equal(a.outputs[0], b.outputs[0]) for a, b in zip(serial, piped, strict=True))
print(f"{same} of {TASKS} answers are the same, in the same order")
