"""The embedded data and model: icons, scenes drawn from them, and the training on such scenes.

Nothing but scripts and tests uses it. Not here: the data and the checkpoint themselves (``data``, ``models``).

Uses ``detector``.
"""
