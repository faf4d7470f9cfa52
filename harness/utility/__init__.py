"""What a model still does for harmless requests: answers, over-refusal, accuracy on tasks (`asabench utility`)."""
