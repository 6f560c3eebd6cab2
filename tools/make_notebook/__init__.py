"""Makes the notebook of the examples out of a script, and executes it."""
