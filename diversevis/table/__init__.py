"""Run folders -> one table with a row for every unit."""
