"""Other ways to choose a cut, which the lab measures for comparison with this project's."""
