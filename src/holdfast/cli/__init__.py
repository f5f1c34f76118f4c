"""The command line: parse, call, render, nothing else. One module per command, loaded when it is used."""
