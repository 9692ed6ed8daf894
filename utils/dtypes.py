"""The element types that may be sent: those of torch, numpy and the wire."""

TRAVELLING = ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")
