"""What tests of Octavo, and of what is built on it, put in place of a worker."""
