"""Hold the kinds of conversation that ship with the project, one package each."""
