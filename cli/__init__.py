"""The command line; installed as `wavalign_cli`."""
