"""What the figures of an evaluation mean, in words, in Markdown and as a page."""
