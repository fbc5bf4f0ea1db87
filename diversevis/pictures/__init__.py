"""Run folders -> pictures. Needs no network."""
