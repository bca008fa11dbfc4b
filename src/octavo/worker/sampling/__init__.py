"""From logits to tokens and scores: one row decides its own bits."""
