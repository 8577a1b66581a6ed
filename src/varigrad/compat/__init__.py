"""Other libraries' names on top of ours; nothing below imports from here."""
