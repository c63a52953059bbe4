"""The recipes that come along, installed as `wavalign_recipes` so that `wavalign recipes` finds them in a wheel."""
