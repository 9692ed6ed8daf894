"""The element types that may travel, by name: what both torch and numpy have, and the wire allows."""

TRAVELLING = ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")
