"""Looking inside: what happens in each layer, as numbers, tables, pictures and pages. Knows nothing of runs."""
