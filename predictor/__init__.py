"""Layer times on this device: measuring and predicting."""
