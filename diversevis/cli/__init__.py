"""What a person can type: one file for each command."""
