"""Terms of an objective, and the tracking of the random choices on which each term depends."""
