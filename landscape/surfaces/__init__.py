"""The loss along lines, over planes and on the way between minima, and the directions they lie in."""
