"""Stand-ins for a worker, for tests of Octavo and of what is built on it."""
