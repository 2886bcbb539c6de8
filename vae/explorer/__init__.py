"""The page explorer.html of a run: its networks, computed in a browser."""
