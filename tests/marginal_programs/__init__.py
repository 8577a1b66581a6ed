"""Random programs with discrete sites that are summed out, and their bounds by brute force."""
