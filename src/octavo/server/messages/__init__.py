"""Anthropic's messages: their blocks, events and errors over the same core as chat."""
