"""How long a layer takes on this device."""
