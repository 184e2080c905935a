"""What is in data and what is wrong with it: faults, duplicates, leakage, statistics, previews."""
