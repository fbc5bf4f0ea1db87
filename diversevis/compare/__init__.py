"""Two sets of analyzed runs: pairs of runs, statistics, tables and figures."""
