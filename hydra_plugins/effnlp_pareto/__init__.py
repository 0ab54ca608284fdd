"""Where Hydra looks for plugins: the sweeper ``pareto``. Imports nothing heavy."""
