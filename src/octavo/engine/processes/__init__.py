"""The processes that an engine works with: workers, the keeper of the weights, and those that wait."""
