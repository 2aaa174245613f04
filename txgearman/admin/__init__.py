"""The admin client, and the text protocol."""
