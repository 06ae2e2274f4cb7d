"""python -m pipelines is the command `everbert`."""

from pipelines.command import main

main()
