"""The user's class: its base class, how it is loaded, called and rendered."""
