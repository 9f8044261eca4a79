"""The embedded data and model: icons, scenes drawn from them, and the training on such scenes.

Uses ``detector``; nothing but scripts and tests uses it.
"""
