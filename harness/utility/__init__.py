"""What a model still does for harmless requests: answers, over-refusal, and accuracy on tasks (`asabench utility --help`)."""
