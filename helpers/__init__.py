"""What the notebooks call: one module per idea, no module knows which chapter calls it."""
