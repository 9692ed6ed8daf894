"""Other ways to choose a cut, which the lab measures beside this project's own choice."""
