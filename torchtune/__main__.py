"""``python -m torchtune`` is ``tune``."""

from __future__ import annotations

from torchtune._cli.tune import main

if __name__ == "__main__":
    main()
