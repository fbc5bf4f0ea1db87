"""What `reproduce_paper.py` is made of: runs, claims and their numbers, figures, the page."""
