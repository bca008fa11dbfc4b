"""Weights in one block of memory that outlives the workers."""
