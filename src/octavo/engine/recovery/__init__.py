"""What follows the death of a worker."""
