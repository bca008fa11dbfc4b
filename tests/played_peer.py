"""Octavo's tiny model played as another engine's server: MODEL PORT ABOUT, as `benchmarks.peers.server` says.

`--extra` has it fail: {"ends": true} before it serves, {"max_model_len": 16} by an answer.
"""

from __future__ import annotations

import sys

from benchmarks.peers.server import HOST, parse_args, tell, words

from octavo.cli.main import main

if __name__ == "__main__":
    args = parse_args(__doc__)
    if args.extra.pop("ends", False):
        sys.exit("no such card")
    tell(args, "Played", "octavo")
    flags = words({"model": args.model.name, "device": "cpu", "host": HOST, "port": args.port, **args.extra})
    sys.exit(main(["serve", *flags]))
