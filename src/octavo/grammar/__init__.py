"""Grammars: compiled and followed in processes that may die of them. The server's own process never runs xgrammar."""

from octavo.grammar.compiler import Compiler, Grammar
from octavo.grammar.follower import Follower
from octavo.grammar.fork_server import ForkServer, Vocabulary

__all__ = ["Compiler", "Follower", "ForkServer", "Grammar", "Vocabulary"]
