"""Run folders on disk: their files, who is at work there, and what identifies the work."""
