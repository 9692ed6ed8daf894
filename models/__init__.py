"""Networks, their graphs, their weights and their inputs."""
