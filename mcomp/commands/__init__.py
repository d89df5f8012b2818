"""The subcommands of `mcomp`, a module each with `add(parser)` and `run(arguments) -> exit code`."""
