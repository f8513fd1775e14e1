"""New backend directories, and the wheel they bring along."""
