"""The pictures of each measure, one file each."""
