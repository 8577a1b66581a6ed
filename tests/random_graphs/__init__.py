"""Random graphs of tensor operations: drawn from a seed, run by torch and in C, compared, made smaller, printed."""
