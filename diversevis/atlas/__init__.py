"""Run folders -> pages to look at, which open without a server."""
