"""What Python programs and notebooks call; diversevis/__init__.py has the documented names."""
