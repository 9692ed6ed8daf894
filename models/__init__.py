"""What is run: networks, their graphs, their weights and their inputs."""
