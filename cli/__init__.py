"""The command line: parse, call once, print. Installed as dmkd.cli."""
