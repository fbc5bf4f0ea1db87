"""Many runs: planned, launched, followed to their end."""
