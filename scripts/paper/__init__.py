"""Parts of `reproduce_paper.py`: runs, claims and their numbers, figures, the page."""
