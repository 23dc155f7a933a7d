"""The commands, by what they are for: each module holds one or several."""
