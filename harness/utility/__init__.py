"""What a model still does for harmless requests: answers, over-refusal, and accuracy on tasks (docs/utility.md)."""
