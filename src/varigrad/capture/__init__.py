"""Steps as graphs: recorded once, compiled in the background, checked against the eager step."""
