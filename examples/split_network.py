"""Split a torchvision network between a slow device and a cloud, both emulated here, and check the answer."""

import edgecloud as ec

net = ec.load("torchvision:squeezenet1_1")  # weights drawn from a seed: nothing is downloaded
print(f"{net.name}: {len(net.layers)} layers, input {net.input_shape}")

# A photograph would travel best as its pixels, and then all of it runs on the cloud. With codec="raw" tensors travel as
# they are, the input too, as if it were no picture: then a cut inside of the network sends less.
with (
    ec.Cloud(networks=[net], threads=1) as cloud,
    ec.Edge(net, cloud=cloud.address, codec="raw", emulate_cpu=0.03, emulate_link="3mbit,20ms") as edge,
):
    print(f"plan       {edge.plan}")
    answer = edge(net.sample)

print(f"predicted  {answer.plan.predicted}")
print(f"measured   {answer.times}")
print(f"completed by {answer.completed_by}, {answer.times.payload_bytes / 1e3:.1f} kB sent")

whole = net(net.sample)
print(f"largest difference to the whole network: {abs(answer.outputs[0] - whole[0]).max():.1e}")
