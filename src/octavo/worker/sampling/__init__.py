"""Makes tokens and scores of logits: one row decides its own bits."""
