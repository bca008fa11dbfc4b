"""What lies between the projection to queries, keys and values and the attention: norm, rotation, the KV cache."""
