"""Recovery: all that follows the death of a worker."""
