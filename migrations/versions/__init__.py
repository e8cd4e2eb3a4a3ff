"""One change a file; what is released is never edited."""
