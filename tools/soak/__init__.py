"""A server under mixed traffic, bad clients and kills, for hours: nothing fails, nothing grows, no bit changes."""
