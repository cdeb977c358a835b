"""Pages and interactive views."""
