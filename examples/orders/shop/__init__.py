"""Two services that know each other's events only."""
