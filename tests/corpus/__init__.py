"""What DMS writes and what sources do: each case of docs/data.md, through the real loader into the stand-in."""
