"""Norm, rotation and the write to the KV cache, between the projection to queries, keys and values and the attention."""
