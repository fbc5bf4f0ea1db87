"""An atlas: run folders -> pages to look at, opened from disk without a server."""
